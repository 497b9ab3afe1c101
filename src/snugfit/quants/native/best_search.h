// What the slower, better searches share.
#pragma once

#include <cmath>
#include <cstring>

#include "kernels.h"
#include "super_blocks.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET {

// Values spread evenly from one end to the other.
struct Spread {
    float from, to;
    float at(int i, int count) const {
        return from + (to - from) * static_cast<float>(i) / static_cast<float>(count - 1);
    }
};

// The integer that the largest fitted scale becomes, as a part of the largest integer.
constexpr Spread LARGEST_PARTS{1.02f, 0.75f};

// Returns the 16-bit step that fits multiples of it to `count` values best, where the multiples are
// those nearest in units of `guess`.
inline float fit_step(const float* values, const float* weights, int count, float guess, float low,
                      float high) {
    const float unit = inverse(guess);
    float square = 0, product = 0;
    for (int i = 0; i < count; ++i) {
        const float integer = clamp(nearest(values[i] * unit), low, high);
        square += weights[i] * integer * integer;
        product += weights[i] * integer * values[i];
    }
    const float step = round_to_half(square > 0 ? product / square : guess);
    // Small weights are better stored by few integers than not at all.
    return step != 0 || guess == 0 ? step : std::copysign(0x1p-24f, guess);
}

// Marks the sub-blocks of the super-blocks, of COUNT sub-blocks each, that came out cheaper.
template <int COUNT>
void find_cheaper(const float* cost, const float* best_cost, bool* cheaper) {
    for (int first = 0; first < SUBS; first += COUNT) {
        float sum = 0, best_sum = 0;
        for (int i = first; i < first + COUNT; ++i) {
            sum += cost[i];
            best_sum += best_cost[i];
        }
        for (int i = first; i < first + COUNT; ++i) {
            cheaper[i] = sum < best_sum;
        }
    }
}

// Returns what the errors of a block cost, summed in sixteen interleaved parts.
template <int WEIGHTS>
float block_cost(const float* values, const float* costs, Dequantize read, const uint8_t* block) {
    alignas(64) float stored[WEIGHTS];
    read(block, WEIGHTS, stored);
    float parts[16] = {};
    for (int i = 0; i < WEIGHTS; i += 16) {
        for (int j = 0; j < 16; ++j) {
            const float error = stored[i + j] - values[i + j];
            parts[j] += costs[i + j] * error * error;
        }
    }
    float sum = 0;
    for (float part : parts) {
        sum += part;
    }
    return sum;
}

// Replaces the blocks that the fast quantizer of their type stores at a lower cost: of nearly equal
// or nearly all zero weights, where only the rounding of d is left to chance.
template <int WEIGHTS, int BYTES, int N>
void keep_cheaper_blocks(const Loaded<N>& loaded, const float* importance, int count, Quantize fast,
                         Dequantize read, uint8_t* blocks) {
    uint8_t others[Loaded<N>::WEIGHTS / WEIGHTS * BYTES];
    fast(loaded.value, importance, count * WEIGHTS, others);
    for (int i = 0; i < count; ++i) {
        const float* values = loaded.value + i * WEIGHTS;
        const float* costs = loaded.cost + i * WEIGHTS;
        const uint8_t* other = others + i * BYTES;
        uint8_t* block = blocks + i * BYTES;
        if (block_cost<WEIGHTS>(values, costs, read, other) <
            block_cost<WEIGHTS>(values, costs, read, block)) {
            std::memcpy(block, other, BYTES);
        }
    }
}

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
