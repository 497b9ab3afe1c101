// Q2_K, Q4_K and Q5_K: value = d * scale * code - dmin * offset, with integer scales and offsets.

#include <cmath>
#include <cstring>

#include "best_line.h"
#include "k_dequantize.h"
#include "kernels.h"
#include "super_lines.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET {
namespace {

// The multiples of the step that the largest scale or offset may be. Even equal sub-blocks gain
// from a choice: each multiple has another 16-bit step, and another error of rounding it.
alignas(64) constexpr float TARGETS_UP_TO_15[16] = {15.0f, 15.2f, 14.8f, 14.6f, 14.4f, 14.2f,
                                                    14.0f, 13.7f, 13.4f, 13.0f, 12.5f, 12.0f,
                                                    11.0f, 10.0f, 9.0f,  15.4f};
alignas(64) constexpr float TARGETS_UP_TO_63[16] = {63.0f, 63.4f, 62.6f, 62.2f, 61.8f, 61.4f,
                                                    61.0f, 60.6f, 60.2f, 59.8f, 59.4f, 59.0f,
                                                    58.0f, 57.0f, 55.5f, 64.5f};

// The shape of a type: weights of a sub-block, largest code, largest integer for scale and offset.
struct TwoBits {
    static constexpr int SUB = 16;
    static constexpr float TOP = 3, LARGEST_INTEGER = 15;
    static constexpr const float (&STEP_TARGETS)[16] = TARGETS_UP_TO_15;
    static constexpr int ROUNDS = 1;
    // Where costs are even, fewer starts find as good a line.
    static constexpr Ends PLAIN_ENDS[] = {{0, 0},        {0, -0.8f},    {0.4f, -0.8f},
                                          {-0.4f, -0.8f}, {0.4f, -0.4f}, {-0.4f, 0.4f},
                                          {0.4f, 0.4f},  {-0.4f, -0.4f}};
};
struct FourBits {
    static constexpr int SUB = 32;
    static constexpr float TOP = 15, LARGEST_INTEGER = 63;
    static constexpr const float (&STEP_TARGETS)[16] = TARGETS_UP_TO_63;
    static constexpr int ROUNDS = 1;
    static constexpr const Ends (&PLAIN_ENDS)[13] = ENDS;
};
struct FiveBits {
    static constexpr int SUB = 32;
    static constexpr float TOP = 31, LARGEST_INTEGER = 63;
    static constexpr const float (&STEP_TARGETS)[16] = TARGETS_UP_TO_63;
    static constexpr int ROUNDS = 1;
    static constexpr const Ends (&PLAIN_ENDS)[13] = ENDS;
};

// llama.cpp's costs: importance * sqrt(a mean square of the super-block + value^2), or without
// importance the root mean square of the sub-block + |value|.
template <typename Shape>
void fill_costs(Loaded<Shape::SUB>& loaded, const float* importance, int supers) {
    constexpr float SQUARES = Shape::SUB == 16 ? 1 : 2;
    const int group = importance != nullptr ? SUPER : Shape::SUB;
    for (int start = 0; start < supers * SUPER; start += group) {
        const float* value = loaded.value + start;
        float* cost = loaded.cost + start;
        const float mean_square = sum_of_squares(value, group) / static_cast<float>(group);
        const float root = std::sqrt(mean_square);
        if (importance != nullptr) {
            for (int i = 0; i < group; ++i) {
                cost[i] =
                    importance[start + i] * std::sqrt(SQUARES * mean_square + value[i] * value[i]);
            }
        } else {
            for (int i = 0; i < group; ++i) {
                cost[i] = root + std::fabs(value[i]);
            }
        }
    }
}

// Packs eight pairs of six bits in twelve bytes: the first four of each whole, the top two bits of
// the last four above them, and their low nibbles in pairs at the end.
void pack_integers(const float* scales, const float* offsets, uint8_t* bytes) {
    for (int i = 0; i < 4; ++i) {
        const int scale = static_cast<int>(scales[i]), late_scale = static_cast<int>(scales[i + 4]);
        const int offset = static_cast<int>(offsets[i]),
                  late_offset = static_cast<int>(offsets[i + 4]);
        bytes[i] = static_cast<uint8_t>(scale | ((late_scale >> 4) << 6));
        bytes[4 + i] = static_cast<uint8_t>(offset | ((late_offset >> 4) << 6));
        bytes[8 + i] = static_cast<uint8_t>((late_scale & 15) | ((late_offset & 15) << 4));
    }
}

// Bytes of Q4_K and Q5_K: d, dmin, twelve of integers, fifth bits if any, nibbles. Two sub-blocks
// share 32 bytes of nibbles; bit i of fifth-bit byte j belongs to weight j of sub-block i.
template <int BITS>
void pack(const uint8_t* codes, const LineFit& fit, int first, uint8_t* block) {
    store_half(block, half_from_float(fit.d[first]));
    store_half(block + 2, half_from_float(fit.dmin[first]));
    pack_integers(fit.choice.scale + first, fit.choice.offset + first, block + 4);
    uint8_t* low = block + (BITS == 5 ? 48 : 16);
    for (int pair = 0; pair < 4; ++pair) {
        for (int i = 0; i < 32; ++i) {
            const int code = codes[pair * 64 + i], late_code = codes[pair * 64 + i + 32];
            low[pair * 32 + i] = static_cast<uint8_t>((code & 15) | ((late_code & 15) << 4));
        }
    }
    if (BITS == 5) {
        for (int i = 0; i < 32; ++i) {
            int byte = 0;
            for (int sub = 0; sub < 8; ++sub) {
                byte |= (codes[sub * 32 + i] >> 4) << sub;
            }
            block[16 + i] = static_cast<uint8_t>(byte);
        }
    }
}

// Bytes of Q2_K: a scale and an offset of four bits a sub-block, codes, d, dmin.
void pack_q2_k(const uint8_t* codes, const LineFit& fit, int first, uint8_t* block) {
    for (int sub = 0; sub < 16; ++sub) {
        const int offset = static_cast<int>(fit.choice.offset[first + sub]);
        block[sub] =
            static_cast<uint8_t>(static_cast<int>(fit.choice.scale[first + sub]) | (offset << 4));
    }
    pack_pairs_of_bits(codes, block + 16);
    store_half(block + 80, half_from_float(fit.d[first]));
    store_half(block + 82, half_from_float(fit.dmin[first]));
}

template <typename Shape>
void find_codes(const float* values, const LineFit& fit, int first, uint8_t* codes) {
    for (int sub = 0; sub < SUBS_OF<Shape>; ++sub) {
        const float unit = inverse(fit.choice.scale[first + sub] * fit.d[first + sub]);
        const float offset = fit.choice.offset[first + sub] * fit.dmin[first + sub];
        store_codes<Shape::SUB>(values + sub * Shape::SUB, offset, unit, 0, Shape::TOP,
                                codes + sub * Shape::SUB);
    }
}

using Pack = void (*)(const uint8_t* codes, const LineFit& fit, int first, uint8_t* block);

template <typename Shape, int BYTES, Pack PACK>
void quantize(const float* row, const float* importance, int64_t columns, uint8_t* blocks) {
    for_tiles<Shape::SUB>(
        row, importance, columns, fill_costs<Shape>,
        [&](const Loaded<Shape::SUB>& loaded, int supers, int64_t first_super) {
            LineFit fit;
            fit_sub_blocks<Shape>(loaded.tile, importance != nullptr, fit);
            start_supers<Shape>(fit);
            choose_all<Shape>(loaded.tile, fit, fit.d, fit.dmin, 1, fit.choice);
            improve_supers<Shape>(loaded.tile, fit);
            for (int i = 0; i < supers; ++i) {
                uint8_t codes[SUPER];
                find_codes<Shape>(loaded.value + i * SUPER, fit, i * SUBS_OF<Shape>, codes);
                PACK(codes, fit, i * SUBS_OF<Shape>, blocks + (first_super + i) * BYTES);
            }
        });
}

// llama.cpp's costs, of which those of Q2_K without importance are the size of the value alone.
template <typename Shape>
void fill_best_costs(Loaded<Shape::SUB>& loaded, const float* importance, int supers) {
    if (importance != nullptr || Shape::SUB != 16) {
        fill_costs<Shape>(loaded, importance, supers);
        return;
    }
    for (int i = 0; i < supers * SUPER; ++i) {
        loaded.cost[i] = std::fabs(loaded.value[i]);
    }
}

template <typename Shape, int BYTES, Pack PACK, Dequantize READ>
void quantize_best(const float* row, const float* importance, int64_t columns, uint8_t* blocks) {
    for_tiles<Shape::SUB>(
        row, importance, columns, fill_best_costs<Shape>,
        [&](const Loaded<Shape::SUB>& loaded, int supers, int64_t first_super) {
            LineFit fit;
            fit_best_lines<Shape>(loaded.tile, fit);
            uint8_t* to = blocks + first_super * BYTES;
            for (int i = 0; i < supers; ++i) {
                uint8_t codes[SUPER];
                find_codes<Shape>(loaded.value + i * SUPER, fit, i * SUBS_OF<Shape>, codes);
                PACK(codes, fit, i * SUBS_OF<Shape>, to + i * BYTES);
            }
            const float* costs = importance ? importance + first_super * SUPER : nullptr;
            keep_cheaper_blocks<SUPER, BYTES>(loaded, costs, supers, quantize<Shape, BYTES, PACK>,
                                              READ, to);
        });
}

const Kernel KERNELS[] = {
    {"Q2_K", 256, 84, quantize<TwoBits, 84, pack_q2_k>,
     dequantize_q2_k<false>, dequantize_q2_k<true>, quantize_best<TwoBits, 84, pack_q2_k, dequantize_q2_k<false>>},
    {"Q4_K", 256, 144, quantize<FourBits, 144, pack<4>>,
     dequantize_q4_k<false>, dequantize_q4_k<true>, quantize_best<FourBits, 144, pack<4>, dequantize_q4_k<false>>},
    {"Q5_K", 256, 176, quantize<FiveBits, 176, pack<5>>,
     dequantize_q5_k<false>, dequantize_q5_k<true>, quantize_best<FiveBits, 176, pack<5>, dequantize_q5_k<false>>},
};

}  // namespace

const Family K_LINE{KERNELS, 3};

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
