// Q2_K, Q4_K and Q5_K: value = d * scale * code - dmin * offset, with integer scales and offsets.

#include <cmath>
#include <cstring>

#include "k_dequantize.h"
#include "kernels.h"
#include "line_search.h"
#include "super_blocks.h"

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
    static constexpr int ROUNDS = 2;
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
    static constexpr const Ends (&PLAIN_ENDS)[21] = ENDS;
};
struct FiveBits {
    static constexpr int SUB = 32;
    static constexpr float TOP = 31, LARGEST_INTEGER = 63;
    static constexpr const float (&STEP_TARGETS)[16] = TARGETS_UP_TO_63;
    static constexpr int ROUNDS = 1;
    static constexpr const Ends (&PLAIN_ENDS)[21] = ENDS;
};

template <typename Shape>
using TileOf = Tile<Shape::SUB>;
template <typename Shape>
constexpr int SUBS_OF = SUPER / Shape::SUB;

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

// What is stored of the sub-blocks of a tile, what that costs, and sums to fit d and dmin again.
struct LineChoice {
    alignas(64) float scale[SUBS], offset[SUBS], cost[SUBS];
    alignas(64) float code[SUBS], code_code[SUBS], value_code[SUBS];
};

// Sums over a sub-block whose scale and offset are fixed.
struct FixedSums {
    Floats error{}, code{}, code_code{}, value_code{};
};

template <typename Shape>
FixedSums sum_fixed(const TileOf<Shape>& tile, int first, Floats scale, Floats offset) {
    const Floats unit = inverse(scale);
    FixedSums sums;
    for (int i = 0; i < Shape::SUB; ++i) {
        const Floats value = lanes(&tile.value[i][first]);
        const Floats cost = lanes(&tile.cost[i][first]);
        const Floats code = clamp(nearest((value + offset) * unit), 0, Shape::TOP);
        const Floats error = scale * code - offset - value;
        const Floats weighted = code * cost;
        sums.error += cost * error * error;
        sums.code += weighted;
        sums.code_code += weighted * code;
        sums.value_code += weighted * value;
    }
    return sums;
}

// Returns the offset that suits the codes that scale and offset give.
template <typename Shape>
Floats refit_offset(const TileOf<Shape>& tile, int first, Floats scale, Floats offset) {
    const Floats unit = inverse(scale);
    Floats sum{}, cost_sum{};
    for (int i = 0; i < Shape::SUB; ++i) {
        const Floats value = lanes(&tile.value[i][first]);
        const Floats cost = lanes(&tile.cost[i][first]);
        const Floats code = clamp(nearest((value + offset) * unit), 0, Shape::TOP);
        sum += cost * (scale * code - value);
        cost_sum += cost;
    }
    return divide(sum, cost_sum);
}

// Tries the integers next to a fitted scale, each with the offset that then suits best.
template <typename Shape>
void choose_integers(const TileOf<Shape>& tile, int first, const float* d, const float* dmin,
                     const float* fit_scale, const float* fit_offset, int changes,
                     LineChoice& choice) {
    const Floats step = lanes(d + first);
    const Floats offset_step = lanes(dmin + first);
    const Floats offset_unit = inverse(offset_step);
    const Floats nearest_scale = nearest(lanes(fit_scale + first) * inverse(step));
    lanes(choice.cost + first) = splat(3.4e38f);
    for (int i = 0; i < changes; ++i) {
        const Floats integer = clamp(nearest_scale + NEARBY[i], 0, Shape::LARGEST_INTEGER);
        const Floats scale = integer * step;
        const Floats wanted = refit_offset<Shape>(tile, first, scale, lanes(fit_offset + first));
        const Floats offset = clamp(nearest(wanted * offset_unit), 0, Shape::LARGEST_INTEGER);
        const FixedSums sums = sum_fixed<Shape>(tile, first, scale, offset * offset_step);
        const auto better = sums.error < lanes(choice.cost + first);
        const auto keep = [&](float* kept, Floats value) {
            lanes(kept + first) = better ? value : lanes(kept + first);
        };
        keep(choice.scale, integer);
        keep(choice.offset, offset);
        keep(choice.code, sums.code);
        keep(choice.code_code, sums.code_code);
        keep(choice.value_code, sums.value_code);
        keep(choice.cost, sums.error);
    }
}

// Fits d and dmin of one super-block to its integers and codes, by least squares.
void refit_super(const LineChoice& choice, const float* cost_sum, const float* value_sum, int first,
                 int end, float& d, float& dmin) {
    double scale_scale = 0, scale_offset = 0, offset_offset = 0, scale_value = 0, offset_value = 0;
    for (int i = first; i < end; ++i) {
        const double scale = choice.scale[i];
        const double offset = choice.offset[i];
        scale_scale += scale * scale * choice.code_code[i];
        scale_offset += scale * offset * choice.code[i];
        offset_offset += offset * offset * cost_sum[i];
        scale_value += scale * choice.value_code[i];
        offset_value += offset * value_sum[i];
    }
    const double determinant = scale_scale * offset_offset - scale_offset * scale_offset;
    double new_d = d, new_dmin = dmin;
    if (determinant > 1e-9 * scale_scale * offset_offset) {
        new_d = (scale_value * offset_offset - offset_value * scale_offset) / determinant;
        new_dmin = (scale_value * scale_offset - offset_value * scale_scale) / determinant;
    } else if (offset_offset == 0 && scale_scale > 0) {
        new_d = scale_value / scale_scale;
    } else if (scale_scale == 0 && offset_offset > 0) {
        new_dmin = -offset_value / offset_offset;
    }
    if (new_d >= 0 && new_dmin >= 0) {
        d = round_to_half(static_cast<float>(new_d < 7e4 ? new_d : 7e4));
        dmin = round_to_half(static_cast<float>(new_dmin < 7e4 ? new_dmin : 7e4));
    }
}

struct LineFit {
    alignas(64) float scale[SUBS], offset[SUBS];  // of each sub-block alone; offset is subtracted
    alignas(64) float cost_sum[SUBS], value_sum[SUBS];
    alignas(64) float d[SUBS], dmin[SUBS];  // of the super-block, repeated for its sub-blocks
    LineChoice choice;
};

template <typename Shape>
void fit_sub_blocks(const TileOf<Shape>& tile, bool uneven_costs, LineFit& fit) {
    for (int first = 0; first < SUBS; first += LANES) {
        const Line line =
            uneven_costs
                ? fit_line(tile, first, ENDS, Shape::TOP, Shape::ROUNDS, true)
                : fit_line(tile, first, Shape::PLAIN_ENDS, Shape::TOP, Shape::ROUNDS, true);
        lanes(fit.scale + first) = line.scale;
        lanes(fit.offset + first) = -line.offset;
        Floats cost_sum{}, value_sum{};
        for (int i = 0; i < Shape::SUB; ++i) {
            const Floats cost = lanes(&tile.cost[i][first]);
            cost_sum += cost;
            value_sum += cost * lanes(&tile.value[i][first]);
        }
        lanes(fit.cost_sum + first) = cost_sum;
        lanes(fit.value_sum + first) = value_sum;
    }
}

inline float largest_of(const float* values, int count) {
    float largest = 0;
    for (int i = 0; i < count; ++i) {
        largest = values[i] > largest ? values[i] : largest;
    }
    return largest;
}

template <typename Shape>
void start_supers(LineFit& fit) {
    constexpr int COUNT = SUBS_OF<Shape>;
    for (int first = 0; first < SUBS; first += COUNT) {
        const auto step = [&](const float* values) {
            return best_step(values + first, fit.cost_sum + first, COUNT,
                             largest_of(values + first, COUNT), Shape::STEP_TARGETS, 0,
                             Shape::LARGEST_INTEGER);
        };
        const float d = step(fit.scale), dmin = step(fit.offset);
        for (int i = first; i < first + COUNT; ++i) {
            fit.d[i] = d;
            fit.dmin[i] = dmin;
        }
    }
}

template <typename Shape>
void choose_all(const TileOf<Shape>& tile, const LineFit& fit, const float* d, const float* dmin,
                int changes, LineChoice& choice) {
    for (int first = 0; first < SUBS; first += LANES) {
        choose_integers<Shape>(tile, first, d, dmin, fit.scale, fit.offset, changes, choice);
    }
}

// Refits each super-block and keeps what came out cheaper.
template <typename Shape>
void improve_supers(const TileOf<Shape>& tile, LineFit& fit) {
    constexpr int COUNT = SUBS_OF<Shape>;
    LineFit other = fit;
    for (int first = 0; first < SUBS; first += COUNT) {
        refit_super(fit.choice, fit.cost_sum, fit.value_sum, first, first + COUNT,
                    other.d[first], other.dmin[first]);
        for (int i = first + 1; i < first + COUNT; ++i) {
            other.d[i] = other.d[first];
            other.dmin[i] = other.dmin[first];
        }
    }
    choose_all<Shape>(tile, fit, other.d, other.dmin, 3, other.choice);
    for (int first = 0; first < SUBS; first += COUNT) {
        float before = 0, after = 0;
        for (int i = first; i < first + COUNT; ++i) {
            before += fit.choice.cost[i];
            after += other.choice.cost[i];
        }
        for (int i = first; after < before && i < first + COUNT; ++i) {
            fit.d[i] = other.d[i];
            fit.dmin[i] = other.dmin[i];
            fit.choice.scale[i] = other.choice.scale[i];
            fit.choice.offset[i] = other.choice.offset[i];
            fit.choice.cost[i] = other.choice.cost[i];
            fit.choice.code[i] = other.choice.code[i];
            fit.choice.code_code[i] = other.choice.code_code[i];
            fit.choice.value_code[i] = other.choice.value_code[i];
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

const Kernel KERNELS[] = {
    {"quantize_q2_k", "dequantize_q2_k", 256, 84, quantize<TwoBits, 84, pack_q2_k>,
     dequantize_q2_k},
    {"quantize_q4_k", "dequantize_q4_k", 256, 144, quantize<FourBits, 144, pack<4>>,
     dequantize_q4_k},
    {"quantize_q5_k", "dequantize_q5_k", 256, 176, quantize<FiveBits, 176, pack<5>>,
     dequantize_q5_k},
};

}  // namespace

const Family K_LINE{KERNELS, 3};

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
