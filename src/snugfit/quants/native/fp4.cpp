// MXFP4 and NVFP4: codes are 4-bit floats (two bits of exponent, one of mantissa), scales are
// powers of two in MXFP4 and 8-bit floats in NVFP4. Values are counted in halves here, so that
// they are integers.

#include <cmath>
#include <cstring>

#include "expand.h"
#include "half.h"
#include "kernels.h"
#include "super_blocks.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET {
namespace {

constexpr int8_t VALUES[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// Half of 2^(exponent - 127).
inline float power_of(int exponent) {
    return float_of(exponent < 2 ? 0x00200000u << exponent
                                 : static_cast<std::uint32_t>(exponent - 1) << 23);
}

// Half of a float of four bits of exponent and three of mantissa. 0x7f means nothing, though not
// with the unused top bit set, as ggml reads it.
inline float small_float(int bits) {
    const int exponent = (bits >> 3) & 15;
    const float mantissa = static_cast<float>(bits & 7);
    if (bits == 0x7f) {
        return 0;
    }
    const float step = float_of(static_cast<std::uint32_t>(exponent + 116) << 23);
    return exponent == 0 ? mantissa * 0x1p-10f : (8 + mantissa) * step;
}

// HALF codes in low nibbles, then as many in high ones.
template <int HALF>
inline void expand_values(const uint8_t* nibbles, int8_t* values) {
    expand_nibbles<HALF>(nibbles, values);
    for (int i = 0; i < 2 * HALF; i += 16) {
        store_16(values + i, look_up(VALUES, load_16(values + i)));
    }
}

template <bool STREAM>
void dequantize_mxfp4(const uint8_t* blocks, int64_t columns, float* row) {
    for (int64_t start = 0; start < columns; start += 32, blocks += 17) {
        int8_t values[32];
        expand_values<16>(blocks + 1, values);
        write_scaled<STREAM, 32>(values, power_of(blocks[0]), row + start);
    }
}

template <bool STREAM>
void dequantize_nvfp4(const uint8_t* blocks, int64_t columns, float* row) {
    for (int64_t start = 0; start < columns; start += 64, blocks += 36) {
        for (int sub = 0; sub < 4; ++sub) {
            int8_t values[16];
            expand_values<8>(blocks + 4 + 8 * sub, values);
            write_scaled<STREAM, 16>(values, small_float(blocks[sub]), row + start + 16 * sub);
        }
    }
}

// Rounds magnitudes to 0, 1, 2, 3, 4, 6, 8 or 12: whole steps of 1, 2 or 4.
inline Floats round_magnitude(Floats a) {
    const Floats above_four = a < splat(8.0f) ? splat(2 * ROUNDER) : splat(4 * ROUNDER);
    const Floats rounder = a < splat(4.0f) ? splat(ROUNDER) : above_four;
    return smaller((a + rounder) - rounder, splat(12.0f));
}
inline float round_magnitude(float a) {
    const float rounder = a < 4 ? ROUNDER : a < 8 ? 2 * ROUNDER : 4 * ROUNDER;
    const float rounded = (a + rounder) - rounder;
    return rounded < 12 ? rounded : 12;
}

// The cost of storing sub-blocks with a scale, in units of the scale's square.
template <int N>
Floats cost_of(const Tile<N>& tile, int first, Floats unit) {
    Floats sum{};
    for (int i = 0; i < N; ++i) {
        const Floats exact = magnitude(lanes(&tile.value[i][first])) * unit;
        const Floats rest = round_magnitude(exact) - exact;
        sum += lanes(&tile.cost[i][first]) * rest * rest;
    }
    return sum;
}

// llama.cpp ignores importance here; an error counts by it alone.
template <int N>
void fill_costs(Loaded<N>& loaded, const float* importance, int blocks) {
    constexpr int BLOCK_WEIGHTS = N == 32 ? 32 : 64;
    for (int i = 0; i < blocks * BLOCK_WEIGHTS; ++i) {
        loaded.cost[i] = importance[i];
    }
}

// As write_values reads them; the sign is the fourth bit.
template <int HALF>
void write_codes(const float* values, float scale, uint8_t* nibbles) {
    const float unit = inverse(scale);
    int codes[2 * HALF];
    for (int i = 0; i < 2 * HALF; ++i) {
        const float rounded = round_magnitude(std::fabs(values[i]) * unit);
        const float code = rounded <= 4 ? rounded : rounded < 12 ? 2 + 0.5f * rounded : 7;
        codes[i] = static_cast<int>(code) | (values[i] < 0 ? 8 : 0);
    }
    uint8_t packed[HALF];  // which nothing else points to, so that this becomes vector code
    for (int i = 0; i < HALF; ++i) {
        packed[i] = static_cast<uint8_t>(codes[i] | (codes[i + HALF] << 4));
    }
    std::memcpy(nibbles, packed, sizeof packed);
}

// Where the largest value falls between the two largest codes, or is one of them, MXFP4 starts.
// Twice that scale loses nothing but fineness; with importance, half of it may pay, too.
void find_exponents(const Tile<32>& tile, bool uneven_costs, int* exponents) {
    alignas(64) float extreme[SUBS], unit[SUBS], costs[3][SUBS];
    for (int first = 0; first < SUBS; first += LANES) {
        lanes(extreme + first) = extreme_of(tile, first);
    }
    for (int i = 0; i < SUBS; ++i) {
        const int exponent = static_cast<int>((bits_of(extreme[i]) >> 23) & 255) - 2;
        exponents[i] = exponent < 3 ? 3 : exponent;
        unit[i] = 1.0f / power_of(exponents[i]);
    }
    for (int first = 0; first < SUBS; first += LANES) {
        const Floats start = lanes(unit + first);
        lanes(costs[0] + first) = cost_of(tile, first, start);
        lanes(costs[1] + first) = 4.0f * cost_of(tile, first, 0.5f * start);
        lanes(costs[2] + first) =
            uneven_costs ? 0.25f * cost_of(tile, first, 2.0f * start) : splat(3.4e38f);
    }
    for (int i = 0; i < SUBS; ++i) {
        const float least = costs[2][i] < costs[0][i] ? costs[2][i] : costs[0][i];
        exponents[i] += costs[1][i] < least ? 1 : costs[2][i] < costs[0][i] ? -1 : 0;
    }
}

void quantize_mxfp4(const float* row, const float* importance, int64_t columns, uint8_t* blocks) {
    for_tiles<32, 32, true>(row, importance, columns, fill_costs<32>,
                      [&](const Loaded<32>& loaded, int count, int64_t first_block) {
                          int exponents[SUBS];
                          find_exponents(loaded.tile, importance != nullptr, exponents);
                          for (int i = 0; i < count; ++i) {
                              uint8_t* block = blocks + (first_block + i) * 17;
                              block[0] = static_cast<uint8_t>(exponents[i]);
                              write_codes<16>(loaded.value + i * 32, power_of(exponents[i]),
                                              block + 1);
                          }
                      });
}

constexpr int LARGEST_SMALL_FLOAT = 0x7e;

// Returns the largest 8-bit float, as bits, that is not above `value`.
inline int small_float_below(float value) {
    const int bits = value < 0x1p-7f ? static_cast<int>(value * 0x1p10f)
                                     : static_cast<int>(bits_of(value) >> 20) - (119 << 3);
    return bits < LARGEST_SMALL_FLOAT ? bits : LARGEST_SMALL_FLOAT;
}

// Tries the scales about the one that gives the largest value the largest code.
void find_small_floats(const Tile<16>& tile, int* best) {
    alignas(64) float scale[SUBS], cost[SUBS], least[SUBS];
    int start[SUBS];
    for (int first = 0; first < SUBS; first += LANES) {
        lanes(scale + first) = magnitude(extreme_of(tile, first)) * (1.0f / 12);
    }
    for (int i = 0; i < SUBS; ++i) {
        start[i] = small_float_below(scale[i]);
        least[i] = 3.4e38f;
        best[i] = 0;
    }
    for (int change = -2; change <= 4; ++change) {
        int bits[SUBS];
        for (int i = 0; i < SUBS; ++i) {
            const int wanted = start[i] + change;
            bits[i] = wanted < 1 ? 1 : wanted < LARGEST_SMALL_FLOAT ? wanted : LARGEST_SMALL_FLOAT;
            scale[i] = small_float(bits[i]);
        }
        for (int first = 0; first < SUBS; first += LANES) {
            const Floats step = lanes(scale + first);
            lanes(cost + first) = step * step * cost_of(tile, first, 1.0f / step);
        }
        for (int i = 0; i < SUBS; ++i) {
            const bool better = cost[i] < least[i];
            best[i] = better ? bits[i] : best[i];
            least[i] = better ? cost[i] : least[i];
        }
    }
}

void quantize_nvfp4(const float* row, const float* importance, int64_t columns, uint8_t* blocks) {
    for_tiles<16, 64, true>(row, importance, columns, fill_costs<16>,
                      [&](const Loaded<16>& loaded, int count, int64_t first_block) {
                          int scales[SUBS];
                          find_small_floats(loaded.tile, scales);
                          for (int i = 0; i < 4 * count; ++i) {
                              uint8_t* block = blocks + (first_block + i / 4) * 36;
                              block[i % 4] = static_cast<uint8_t>(scales[i]);
                              write_codes<8>(loaded.value + i * 16, small_float(scales[i]),
                                             block + 4 + i % 4 * 8);
                          }
                      });
}

const Kernel KERNELS[] = {
    {"MXFP4", 32, 17, quantize_mxfp4, dequantize_mxfp4<false>, dequantize_mxfp4<true>},
    {"NVFP4", 64, 36, quantize_nvfp4, dequantize_nvfp4<false>, dequantize_nvfp4<true>},
};

}  // namespace

const Family FP4{KERNELS, 2};

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
