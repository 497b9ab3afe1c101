// Super-blocks of 256 weights whose sub-blocks have small integer scales: what the K types share.
//
// Quantizing has three steps: fit every sub-block alone; take the super-block's scale from the
// largest fit; then choose each sub-block's integers under that scale, refit the scale to the
// choices, and repeat. Costs are computed from what will be stored, 16-bit rounding included.
#pragma once

#include <cmath>
#include <cstring>

#include "half.h"
#include "search.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET {

using std::int64_t;
using std::uint8_t;

constexpr int SUPER = 256;
constexpr float NEARBY[] = {0, -1, 1};

// What llama.cpp's cost of an error, the square of the value, lacks for even costs to come out low,
// too: the square of a typical value. It is little where few values hold most of the squares, as
// then errors of the others would cost more than in llama.cpp's account.
inline float typical_square(const float* values, int count) {
    float parts[16] = {};
    for (int i = 0; i < count; i += 16) {
        for (int j = 0; j < 16; ++j) {
            parts[j] += std::sqrt(std::fabs(values[i + j]));
        }
    }
    float sum = 0;
    for (float part : parts) {
        sum += part;
    }
    const float root = sum / static_cast<float>(count);
    const float square = (root * root) * (root * root);
    const float mean_square = sum_of_squares(values, count) / static_cast<float>(count);
    const float share = mean_square > 0 ? 8 * square / mean_square : 0.0f;
    return share < 1 ? share * square : square;
}

// A tile of sub-blocks of N weights, as it lies in the row, and turned.
template <int N>
struct Loaded {
    static constexpr int WEIGHTS = N * SUBS;
    static constexpr int SUPERS = WEIGHTS / SUPER;
    static constexpr int SUBS_OF_SUPER = SUPER / N;
    alignas(64) float value[WEIGHTS];
    alignas(64) float cost[WEIGHTS];
    Tile<N> tile;
};

// Calls fill_costs(loaded, importance from here or null, blocks) and then
// work(loaded, blocks, first block) for each tile of a row. EVEN: without importance all costs
// are 1, and fill_costs is not called. Blocks missing at a row's end are zeros of cost 1.
template <int N, int BLOCK_WEIGHTS = SUPER, bool EVEN = false, typename FillCosts, typename Work>
void for_tiles(const float* row, const float* importance, int64_t columns,
               const FillCosts& fill_costs, const Work& work) {
    Loaded<N> loaded;
    const bool even = EVEN && importance == nullptr;
    for (int i = 0; i < Loaded<N>::WEIGHTS; ++i) {
        loaded.cost[i] = 1;
        (&loaded.tile.cost[0][0])[i] = 1;
    }
    for (int64_t start = 0; start < columns; start += Loaded<N>::WEIGHTS) {
        const int64_t left = columns - start;
        const int count = static_cast<int>(left < Loaded<N>::WEIGHTS ? left : Loaded<N>::WEIGHTS);
        for (int i = 0; i < count; i += LANES) {
            lanes(loaded.value + i) = clamp(row_lanes(row + start + i), -LARGEST, LARGEST);
        }
        for (int i = count; i < Loaded<N>::WEIGHTS; ++i) {
            loaded.value[i] = 0;
            loaded.cost[i] = 1;
        }
        transpose<N>(loaded.value, loaded.tile.value);
        const int blocks = count / BLOCK_WEIGHTS;
        if (!even) {
            fill_costs(loaded, importance != nullptr ? importance + start : nullptr, blocks);
            transpose<N>(loaded.cost, loaded.tile.cost);
        }
        work(loaded, blocks, start / BLOCK_WEIGHTS);
    }
}

inline float largest_of(const float* values, int count) {
    float largest = 0;
    for (int i = 0; i < count; ++i) {
        largest = values[i] > largest ? values[i] : largest;
    }
    return largest;
}

// Rounds to odd integers from 1.
struct OddIntegers {
    float highest;
    Floats operator()(Floats exact) const {
        return clamp(2.0f * nearest(0.5f * exact - 0.5f) + 1.0f, 1.0f, highest);
    }
};

struct RoundToHalf {
    Floats operator()(Floats step) const { return round_to_half(step); }
};

// Returns the step, rounded as it is stored, whose multiples by `integers` come closest to `count`
// values, in squares weighted by `weights`. Each target is the multiple that the extreme value would
// have.
template <int TARGETS, typename Integers, typename Round = RoundToHalf>
float best_step(const float* values, const float* weights, int count, float extreme,
                const float (&targets)[TARGETS], const Integers& integers,
                const Round& round = {}) {
    static_assert(TARGETS % SUBS == 0, "targets fill whole vectors");
    alignas(64) float steps[TARGETS], costs[TARGETS];
    for (int first = 0; first < TARGETS; first += LANES) {
        const Floats unit = lanes(targets + first) * inverse(extreme);
        Floats square{}, product{};
        for (int i = 0; i < count; ++i) {
            const Floats integer = integers(values[i] * unit);
            square += weights[i] * integer * integer;
            product += weights[i] * values[i] * integer;
        }
        const Floats step = round(divide(product, square));
        const Floats step_unit = inverse(step);
        Floats cost{};
        for (int i = 0; i < count; ++i) {
            const Floats error = step * integers(values[i] * step_unit) - values[i];
            cost += weights[i] * error * error;
        }
        lanes(steps + first) = step;
        lanes(costs + first) = cost;
    }
    int best = 0;
    for (int i = 1; i < TARGETS; ++i) {
        best = costs[i] < costs[best] ? i : best;
    }
    return steps[best];
}

// Rounds (value + offset) * unit to codes from `low` to `high`, and stores them counted from `low`.
template <int COUNT>
void store_codes(const float* values, float offset, float unit, float low, float high,
                 uint8_t* codes) {
    Whole whole[COUNT / LANES];
    for (int i = 0; i < COUNT / LANES; ++i) {
        const Floats exact = (lanes(values + i * LANES) + offset) * unit;
        whole[i] = nearest_bytes(clamp(exact, low, high), -static_cast<int>(low));
    }
    store_bytes<COUNT>(whole, codes);
}

// Packs codes 0..3 as Q2_K and Q3_K do: a byte holds those of weights i, i + 32, i + 64 and i + 96.
inline void pack_pairs_of_bits(const uint8_t* codes, uint8_t* bytes) {
    for (int half = 0; half < 2; ++half, codes += 128, bytes += 32) {
        uint8_t packed[32];  // which nothing else points to, so that this becomes vector code
        for (int i = 0; i < 32; ++i) {
            packed[i] = static_cast<uint8_t>((codes[i] & 3) | ((codes[i + 32] & 3) << 2) |
                                             ((codes[i + 64] & 3) << 4) |
                                             ((codes[i + 96] & 3) << 6));
        }
        std::memcpy(bytes, packed, sizeof packed);
    }
}

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
