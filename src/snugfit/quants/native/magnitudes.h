// Blocks whose weights share one magnitude d: what TQ1_0, TQ2_0 and Q1_0 have in common.
#pragma once

#include "half.h"
#include "search.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET {

// The magnitudes of a block, and what an error of each costs: its importance, which llama.cpp
// ignores in these types, or 1.
template <int N>
struct Magnitudes {
    alignas(64) float value[N];
    alignas(64) float cost[N];

    void load(const float* row, const float* importance) {
        for (int i = 0; i < N; i += LANES) {
            lanes(value + i) = smaller(magnitude(row_lanes(row + i)), splat(LARGEST));
            lanes(cost + i) = importance != nullptr ? row_lanes(importance + i) : splat(1.0f);
        }
    }

    float largest() const {
        Floats found{};
        for (int i = 0; i < N; i += LANES) {
            found = larger(found, lanes(value + i));
        }
        float most = 0;
        for (int i = 0; i < LANES; ++i) {
            most = found[i] > most ? found[i] : most;
        }
        return most;
    }
};

struct Mean {
    float value;
    float gain;  // what it saves against storing zeros
};

// The weighted means of the magnitudes above thresholds: the d that cost least if these are kept.
template <int N, int COUNT>
void means_above(const Magnitudes<N>& block, const float (&thresholds)[COUNT],
                 Mean (&means)[COUNT]) {
    Floats costs[COUNT][PARTS]{}, values[COUNT][PARTS]{};
    for (int i = 0; i < N; i += 16) {
        for (int part = 0; part < PARTS; ++part) {
            const Floats value = lanes(block.value + i + part * LANES);
            const Floats cost = lanes(block.cost + i + part * LANES);
            for (int j = 0; j < COUNT; ++j) {
                const Floats kept = value > splat(thresholds[j]) ? cost : Floats{};
                costs[j][part] += kept;
                values[j][part] += kept * value;
            }
        }
    }
    for (int j = 0; j < COUNT; ++j) {
        const float cost = total(costs[j]), value = total(values[j]);
        const float mean = cost > 0 ? value / cost : 0;
        means[j] = {mean, value * mean};
    }
}

template <int N>
Mean mean_above(const Magnitudes<N>& block, float threshold) {
    Mean found[1];
    means_above(block, {threshold}, found);
    return found[0];
}

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
