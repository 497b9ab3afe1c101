// Blocks whose weights share one magnitude d: what TQ1_0, TQ2_0 and Q1_0 have in common.
#pragma once

#include <cmath>

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
        for (int i = 0; i < N; ++i) {
            const float magnitude = std::fabs(row[i]);
            value[i] = magnitude < LARGEST ? magnitude : LARGEST;
        }
        for (int i = 0; i < N; ++i) {
            cost[i] = importance != nullptr ? importance[i] : 1.0f;
        }
    }

    float largest() const {
        float parts[16] = {};
        for (int i = 0; i < N; i += 16) {
            for (int j = 0; j < 16; ++j) {
                parts[j] = value[i + j] > parts[j] ? value[i + j] : parts[j];
            }
        }
        float found = 0;
        for (float part : parts) {
            found = part > found ? part : found;
        }
        return found;
    }
};

struct Mean {
    float value;
    float gain;  // what it saves against storing zeros
};

// The weighted mean of the magnitudes above a threshold: the d that costs least if these are kept.
template <int N>
Mean mean_above(const Magnitudes<N>& block, float threshold) {
    Floats costs[PARTS]{}, values[PARTS]{};
    for (int i = 0; i < N; i += 16) {
        for (int part = 0; part < PARTS; ++part) {
            const Floats value = lanes(block.value + i + part * LANES);
            const Floats cost = lanes(block.cost + i + part * LANES);
            const Floats kept = value > splat(threshold) ? cost : Floats{};
            costs[part] += kept;
            values[part] += kept * value;
        }
    }
    const float cost = total(costs), value = total(values);
    return cost > 0 ? Mean{value / cost, value * (value / cost)} : Mean{0, 0};
}

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
