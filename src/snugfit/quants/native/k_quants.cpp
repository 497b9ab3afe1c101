// Q4_K, Q5_K and Q6_K: super-blocks of 256 weights whose sub-blocks have small integer scales.
//
// Quantizing has three steps: fit every sub-block alone; take the super-block's scale from the
// largest fit; then choose each sub-block's integers under that scale, refit the scale to the
// choices, and repeat. Costs are computed from what will be stored, 16-bit rounding included.

#include <cmath>
#include <cstring>

#include "half.h"
#include "kernels.h"
#include "search.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET {
namespace {

using std::int64_t;
using std::uint8_t;

constexpr int SUPER = 256;
constexpr float NEARBY[] = {0, -1, 1};

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

// Calls fill_costs(loaded, importance from here or null, supers) and then
// work(loaded, supers, first super-block) for each tile of a row.
template <int N, typename FillCosts, typename Work>
void for_tiles(const float* row, const float* importance, int64_t columns,
               const FillCosts& fill_costs, const Work& work) {
    Loaded<N> loaded;
    for (int64_t start = 0; start < columns; start += Loaded<N>::WEIGHTS) {
        const int64_t left = columns - start;
        const int64_t count = left < Loaded<N>::WEIGHTS ? left : Loaded<N>::WEIGHTS;
        for (int64_t i = 0; i < Loaded<N>::WEIGHTS; ++i) {
            loaded.value[i] = 0;
            loaded.cost[i] = 1;
        }
        for (int64_t i = 0; i < count; ++i) {
            loaded.value[i] = clamp(row[start + i], -LARGEST, LARGEST);
        }
        const int supers = static_cast<int>(count / SUPER);
        fill_costs(loaded, importance != nullptr ? importance + start : nullptr, supers);
        transpose<N>(loaded.value, loaded.tile.value);
        transpose<N>(loaded.cost, loaded.tile.cost);
        work(loaded, supers, start / SUPER);
    }
}

// Returns the 16-bit step whose multiples from `low` to `high` come closest to `count` values, in
// squares weighted by `weights`. Each target is the multiple that the extreme value would have.
template <int TARGETS>
float best_step(const float* values, const float* weights, int count, float extreme,
                const float (&targets)[TARGETS], float low, float high) {
    static_assert(TARGETS % SUBS == 0, "targets fill whole vectors");
    alignas(64) float steps[TARGETS], costs[TARGETS];
    for (int first = 0; first < TARGETS; first += LANES) {
        const Floats unit = lanes(targets + first) * inverse(extreme);
        Floats square{}, product{};
        for (int i = 0; i < count; ++i) {
            const Floats integer = clamp(nearest(values[i] * unit), low, high);
            square += weights[i] * integer * integer;
            product += weights[i] * values[i] * integer;
        }
        const Floats step = round_to_half(divide(product, square));
        const Floats step_unit = inverse(step);
        Floats cost{};
        for (int i = 0; i < count; ++i) {
            const Floats error =
                step * clamp(nearest(values[i] * step_unit), low, high) - values[i];
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

// --- Q4_K and Q5_K: value = d * scale * code - dmin * offset, scale and offset 0..63 -------------

constexpr int LINE_SUB = 32;
constexpr int LINE_SUBS = SUPER / LINE_SUB;
constexpr float LARGEST_LINE_INTEGER = 63;

alignas(64) constexpr float STEP_TARGETS[16] = {63.0f, 63.4f, 62.6f, 62.2f, 61.8f, 61.4f,
                                                61.0f, 60.6f, 60.2f, 59.8f, 59.4f, 59.0f,
                                                58.0f, 57.0f, 55.5f, 64.5f};

// llama.cpp's costs: importance * sqrt(2 * mean square of the super-block + value^2), or without
// importance the root mean square of the sub-block + |value|.
void fill_line_costs(Loaded<LINE_SUB>& loaded, const float* importance, int supers) {
    const int group = importance != nullptr ? SUPER : LINE_SUB;
    for (int start = 0; start < supers * SUPER; start += group) {
        const float* value = loaded.value + start;
        float* cost = loaded.cost + start;
        const float mean_square = sum_of_squares(value, group) / static_cast<float>(group);
        const float root = std::sqrt(mean_square);
        if (importance != nullptr) {
            for (int i = 0; i < group; ++i) {
                cost[i] = importance[start + i] * std::sqrt(2 * mean_square + value[i] * value[i]);
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

inline FixedSums sum_fixed(const Tile<LINE_SUB>& tile, int first, Floats scale, Floats offset,
                           float top) {
    const Floats unit = inverse(scale);
    FixedSums sums;
    for (int i = 0; i < LINE_SUB; ++i) {
        const Floats value = lanes(&tile.value[i][first]);
        const Floats cost = lanes(&tile.cost[i][first]);
        const Floats code = clamp(nearest((value + offset) * unit), 0, top);
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
inline Floats refit_offset(const Tile<LINE_SUB>& tile, int first, Floats scale, Floats offset,
                           float top) {
    const Floats unit = inverse(scale);
    Floats sum{}, cost_sum{};
    for (int i = 0; i < LINE_SUB; ++i) {
        const Floats value = lanes(&tile.value[i][first]);
        const Floats cost = lanes(&tile.cost[i][first]);
        const Floats code = clamp(nearest((value + offset) * unit), 0, top);
        sum += cost * (scale * code - value);
        cost_sum += cost;
    }
    return divide(sum, cost_sum);
}

// Tries the integers next to a fitted scale, each with the offset that then suits best.
void choose_integers(const Tile<LINE_SUB>& tile, int first, float top, const float* d,
                     const float* dmin, const float* fit_scale, const float* fit_offset,
                     LineChoice& choice) {
    const Floats step = lanes(d + first);
    const Floats offset_step = lanes(dmin + first);
    const Floats offset_unit = inverse(offset_step);
    const Floats nearest_scale = nearest(lanes(fit_scale + first) * inverse(step));
    lanes(choice.cost + first) = splat(3.4e38f);
    for (float change : NEARBY) {
        const Floats integer = clamp(nearest_scale + change, 0, LARGEST_LINE_INTEGER);
        const Floats scale = integer * step;
        const Floats wanted = refit_offset(tile, first, scale, lanes(fit_offset + first), top);
        const Floats offset = clamp(nearest(wanted * offset_unit), 0, LARGEST_LINE_INTEGER);
        const FixedSums sums = sum_fixed(tile, first, scale, offset * offset_step, top);
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
                 float& d, float& dmin) {
    double scale_scale = 0, scale_offset = 0, offset_offset = 0, scale_value = 0, offset_value = 0;
    for (int i = first; i < first + LINE_SUBS; ++i) {
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

void fit_sub_blocks(const Tile<LINE_SUB>& tile, float top, int end, LineFit& fit) {
    for (int first = 0; first < end; first += LANES) {
        const Line line = fit_line(tile, first, top, 1, true);
        lanes(fit.scale + first) = line.scale;
        lanes(fit.offset + first) = -line.offset;
        Floats cost_sum{}, value_sum{};
        for (int i = 0; i < LINE_SUB; ++i) {
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

void start_supers(int supers, LineFit& fit) {
    for (int first = 0; first < supers * LINE_SUBS; first += LINE_SUBS) {
        const auto step = [&](const float* values) {
            return best_step(values + first, fit.cost_sum + first, LINE_SUBS,
                             largest_of(values + first, LINE_SUBS), STEP_TARGETS, 0,
                             LARGEST_LINE_INTEGER);
        };
        const float d = step(fit.scale), dmin = step(fit.offset);
        for (int i = first; i < first + LINE_SUBS; ++i) {
            fit.d[i] = d;
            fit.dmin[i] = dmin;
        }
    }
}

void choose_all(const Tile<LINE_SUB>& tile, float top, int end, const LineFit& fit, const float* d,
                const float* dmin, LineChoice& choice) {
    for (int first = 0; first < end; first += LANES) {
        choose_integers(tile, first, top, d, dmin, fit.scale, fit.offset, choice);
    }
}

// Refits each super-block and keeps what came out cheaper.
void improve_supers(const Tile<LINE_SUB>& tile, float top, int supers, LineFit& fit) {
    LineFit other = fit;
    for (int first = 0; first < supers * LINE_SUBS; first += LINE_SUBS) {
        refit_super(fit.choice, fit.cost_sum, fit.value_sum, first, other.d[first],
                    other.dmin[first]);
        for (int i = first + 1; i < first + LINE_SUBS; ++i) {
            other.d[i] = other.d[first];
            other.dmin[i] = other.dmin[first];
        }
    }
    choose_all(tile, top, supers * LINE_SUBS, fit, other.d, other.dmin, other.choice);
    for (int first = 0; first < supers * LINE_SUBS; first += LINE_SUBS) {
        float before = 0, after = 0;
        for (int i = first; i < first + LINE_SUBS; ++i) {
            before += fit.choice.cost[i];
            after += other.choice.cost[i];
        }
        for (int i = first; after < before && i < first + LINE_SUBS; ++i) {
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

void unpack_integers(const uint8_t* bytes, float* scales, float* offsets) {
    for (int i = 0; i < 4; ++i) {
        scales[i] = static_cast<float>(bytes[i] & 63);
        offsets[i] = static_cast<float>(bytes[4 + i] & 63);
        scales[i + 4] = static_cast<float>((bytes[8 + i] & 15) | ((bytes[i] >> 6) << 4));
        offsets[i + 4] = static_cast<float>((bytes[8 + i] >> 4) | ((bytes[4 + i] >> 6) << 4));
    }
}

// Bytes of a block: d, dmin, twelve of integers, fifth bits if any, nibbles.
template <int BITS>
struct LineLayout {
    static constexpr int HIGH = 16;
    static constexpr int LOW = HIGH + (BITS == 5 ? 32 : 0);
    static constexpr int BYTES = LOW + 128;
};

// Two sub-blocks share 32 bytes of nibbles; bit i of fifth-bit byte j belongs to weight j of
// sub-block i.
template <int BITS>
void pack_codes(const uint8_t* codes, uint8_t* block) {
    uint8_t* low = block + LineLayout<BITS>::LOW;
    for (int sub = 0; sub < LINE_SUBS; sub += 2) {
        const uint8_t* pair = codes + sub * LINE_SUB;
        for (int i = 0; i < LINE_SUB; ++i) {
            low[sub * 16 + i] =
                static_cast<uint8_t>((pair[i] & 15) | ((pair[i + LINE_SUB] & 15) << 4));
        }
    }
    if (BITS == 5) {
        for (int i = 0; i < LINE_SUB; ++i) {
            int byte = 0;
            for (int sub = 0; sub < LINE_SUBS; ++sub) {
                byte |= (codes[sub * LINE_SUB + i] >> 4) << sub;
            }
            block[LineLayout<BITS>::HIGH + i] = static_cast<uint8_t>(byte);
        }
    }
}

template <int BITS>
void write_line_block(const float* values, const LineFit& fit, int first, uint8_t* block) {
    uint8_t codes[SUPER];
    for (int sub = 0; sub < LINE_SUBS; ++sub) {
        const float unit = inverse(fit.choice.scale[first + sub] * fit.d[first + sub]);
        const float offset = fit.choice.offset[first + sub] * fit.dmin[first + sub];
        for (int i = 0; i < LINE_SUB; ++i) {
            const float code = nearest((values[sub * LINE_SUB + i] + offset) * unit);
            codes[sub * LINE_SUB + i] =
                static_cast<uint8_t>(static_cast<int>(clamp(code, 0, (1 << BITS) - 1)));
        }
    }
    store_half(block, half_from_float(fit.d[first]));
    store_half(block + 2, half_from_float(fit.dmin[first]));
    pack_integers(fit.choice.scale + first, fit.choice.offset + first, block + 4);
    pack_codes<BITS>(codes, block);
}

template <int BITS>
void quantize_line(const float* row, const float* importance, int64_t columns, uint8_t* blocks) {
    constexpr float TOP = (1 << BITS) - 1;
    for_tiles<LINE_SUB>(
        row, importance, columns, fill_line_costs,
        [&](const Loaded<LINE_SUB>& loaded, int supers, int64_t first_super) {
            LineFit fit;
            fit_sub_blocks(loaded.tile, TOP, SUBS, fit);
            start_supers(SUBS / LINE_SUBS, fit);
            choose_all(loaded.tile, TOP, SUBS, fit, fit.d, fit.dmin, fit.choice);
            improve_supers(loaded.tile, TOP, SUBS / LINE_SUBS, fit);
            for (int i = 0; i < supers; ++i) {
                uint8_t* block = blocks + (first_super + i) * LineLayout<BITS>::BYTES;
                write_line_block<BITS>(loaded.value + i * SUPER, fit, i * LINE_SUBS, block);
            }
        });
}

template <int BITS>
void dequantize_line(const uint8_t* blocks, int64_t columns, float* row) {
    for (int64_t start = 0; start < columns; start += SUPER, blocks += LineLayout<BITS>::BYTES) {
        const float d = half_to_float(load_half(blocks));
        const float dmin = half_to_float(load_half(blocks + 2));
        float scales[LINE_SUBS], offsets[LINE_SUBS];
        unpack_integers(blocks + 4, scales, offsets);
        for (int sub = 0; sub < LINE_SUBS; ++sub) {
            const uint8_t* low = blocks + LineLayout<BITS>::LOW + sub / 2 * LINE_SUB;
            const uint8_t* high = blocks + LineLayout<BITS>::HIGH;
            const float scale = d * scales[sub];
            const float offset = dmin * offsets[sub];
            float* out = row + start + sub * LINE_SUB;
            for (int i = 0; i < LINE_SUB; ++i) {
                int code = (low[i] >> (sub % 2 * 4)) & 15;
                if (BITS == 5) {
                    code |= ((high[i] >> sub) & 1) << 4;
                }
                out[i] = scale * static_cast<float>(code) - offset;
            }
        }
    }
}

// --- Q6_K: value = d * scale * code, scale -128..127, code -32..31 -------------------------------

constexpr int SCALE_SUB = 16;
constexpr int SCALE_SUBS = SUPER / SCALE_SUB;
static_assert(SCALE_SUBS == SUBS, "a tile is one super-block");

constexpr float TARGETS_6_BITS[] = {-32.0f, -31.1f, -31.4f, -31.7f, -32.3f, -32.6f,
                                    -32.9f, -30.7f, 30.6f,  31.0f,  31.3f,  -33.4f};

// llama.cpp's costs: the importance itself, or without it the square of the value.
void fill_scale_costs(Loaded<SCALE_SUB>& loaded, const float* importance, int) {
    for (int i = 0; i < SUPER; ++i) {
        loaded.cost[i] = importance != nullptr ? importance[i] : loaded.value[i] * loaded.value[i];
    }
}

struct ScaleChoice {
    alignas(64) float scale[SUBS], cost[SUBS], code_code[SUBS], value_code[SUBS];
};

// Tries the integers next to each fitted scale under the super-block's scale d.
void choose_scales(const Tile<SCALE_SUB>& tile, const float* fitted, float d, ScaleChoice& choice) {
    const float unit = inverse(d);
    for (int first = 0; first < SUBS; first += LANES) {
        const Floats nearest_scale = nearest(lanes(fitted + first) * unit);
        lanes(choice.cost + first) = splat(3.4e38f);
        for (float change : NEARBY) {
            const Floats integer = clamp(nearest_scale + change, -128, 127);
            const Floats scale = integer * d;
            const Floats inverse_scale = inverse(scale);
            Floats cost_sum{}, code_code{}, value_code{};
            for (int i = 0; i < SCALE_SUB; ++i) {
                const Floats value = lanes(&tile.value[i][first]);
                const Floats cost = lanes(&tile.cost[i][first]);
                const Floats code = clamp(nearest(value * inverse_scale), -32, 31);
                const Floats error = scale * code - value;
                const Floats weighted = code * cost;
                cost_sum += cost * error * error;
                code_code += weighted * code;
                value_code += weighted * value;
            }
            const auto better = cost_sum < lanes(choice.cost + first);
            const auto keep = [&](float* kept, Floats value) {
                lanes(kept + first) = better ? value : lanes(kept + first);
            };
            keep(choice.scale, integer);
            keep(choice.code_code, code_code);
            keep(choice.value_code, value_code);
            keep(choice.cost, cost_sum);
        }
    }
}

inline float total_cost(const ScaleChoice& choice) {
    float sum = 0;
    for (float cost : choice.cost) {
        sum += cost;
    }
    return sum;
}

// Fits d to the chosen scales and codes.
inline float refit_scale(const ScaleChoice& choice, float d) {
    double square = 0, product = 0;
    for (int i = 0; i < SUBS; ++i) {
        const double scale = choice.scale[i];
        square += scale * scale * choice.code_code[i];
        product += scale * choice.value_code[i];
    }
    return square > 0 ? round_to_half(static_cast<float>(product / square)) : d;
}

// The multiples of d that the largest scale may be; -128 is a step farther than 127.
alignas(64) constexpr float SCALE_TARGETS[16] = {
    -128.0f, -128.3f, -127.5f, -127.0f, -126.5f, -126.0f, -125.0f, -124.0f,
    127.0f,  127.3f,  126.5f,  126.0f,  125.0f,  124.0f,  123.0f,  122.0f};

float starting_scale(const Tile<SCALE_SUB>& tile, const float* fitted) {
    float extreme = 0;
    alignas(64) float cost_sum[SUBS] = {};
    for (int sub = 0; sub < SUBS; ++sub) {
        extreme = std::fabs(fitted[sub]) > std::fabs(extreme) ? fitted[sub] : extreme;
    }
    for (int i = 0; i < SCALE_SUB; ++i) {
        for (int sub = 0; sub < SUBS; ++sub) {
            cost_sum[sub] += tile.cost[i][sub];
        }
    }
    return best_step(fitted, cost_sum, SUBS, extreme, SCALE_TARGETS, -128, 127);
}

void pack_q6_k(const uint8_t* codes, uint8_t* block) {
    for (int half = 0; half < 2; ++half, codes += 128) {
        uint8_t* low = block + half * 64;
        uint8_t* high = block + 128 + half * 32;
        for (int i = 0; i < 32; ++i) {
            const int a = codes[i], b = codes[i + 32], c = codes[i + 64], d = codes[i + 96];
            low[i] = static_cast<uint8_t>((a & 15) | ((c & 15) << 4));
            low[i + 32] = static_cast<uint8_t>((b & 15) | ((d & 15) << 4));
            high[i] = static_cast<uint8_t>((a >> 4) | ((b >> 4) << 2) | ((c >> 4) << 4) |
                                           ((d >> 4) << 6));
        }
    }
}

void write_q6_k(const float* values, const ScaleChoice& choice, float d, uint8_t* block) {
    uint8_t codes[SUPER];
    for (int sub = 0; sub < SCALE_SUBS; ++sub) {
        const float unit = inverse(choice.scale[sub] * d);
        for (int i = 0; i < SCALE_SUB; ++i) {
            const float code = nearest(values[sub * SCALE_SUB + i] * unit) + 32;
            codes[sub * SCALE_SUB + i] = static_cast<uint8_t>(static_cast<int>(clamp(code, 0, 63)));
        }
        block[192 + sub] = static_cast<uint8_t>(static_cast<int>(choice.scale[sub]));
    }
    pack_q6_k(codes, block);
    store_half(block + 208, half_from_float(d));
}

void quantize_super(const Loaded<SCALE_SUB>& loaded, uint8_t* block) {
    alignas(64) float fitted[SUBS];
    for (int first = 0; first < SUBS; first += LANES) {
        lanes(fitted + first) = fit_scale<false>(loaded.tile, first, TARGETS_6_BITS, -32, 31, 1);
    }
    const float d = starting_scale(loaded.tile, fitted);
    ScaleChoice choice, other;
    choose_scales(loaded.tile, fitted, d, choice);
    const float other_d = refit_scale(choice, d);
    choose_scales(loaded.tile, fitted, other_d, other);
    const bool better = total_cost(other) < total_cost(choice);
    write_q6_k(loaded.value, better ? other : choice, better ? other_d : d, block);
}

void quantize_q6_k(const float* row, const float* importance, int64_t columns, uint8_t* blocks) {
    for_tiles<SCALE_SUB>(row, importance, columns, fill_scale_costs,
                         [&](const Loaded<SCALE_SUB>& loaded, int, int64_t super) {
                             quantize_super(loaded, blocks + super * 210);
                         });
}

void dequantize_q6_k(const uint8_t* blocks, int64_t columns, float* row) {
    for (int64_t start = 0; start < columns; start += SUPER, blocks += 210) {
        const float d = half_to_float(load_half(blocks + 208));
        for (int sub = 0; sub < SCALE_SUBS; ++sub) {
            const int part = sub % 8 / 2;  // which quarter of the 128 weights
            const int at = sub % 2 * 16;
            const uint8_t* low = blocks + sub / 8 * 64 + part % 2 * 32 + at;
            const uint8_t* high = blocks + 128 + sub / 8 * 32 + at;
            const float scale = d * static_cast<float>(static_cast<std::int8_t>(blocks[192 + sub]));
            float* out = row + start + sub * SCALE_SUB;
            for (int i = 0; i < SCALE_SUB; ++i) {
                const int nibble = (low[i] >> (part / 2 * 4)) & 15;
                const int code = nibble | (((high[i] >> (part * 2)) & 3) << 4);
                out[i] = scale * static_cast<float>(code - 32);
            }
        }
    }
}

}  // namespace

const Kernel K_QUANTS[3] = {
    {"quantize_q4_k", "dequantize_q4_k", 256, 144, quantize_line<4>, dequantize_line<4>},
    {"quantize_q5_k", "dequantize_q5_k", 256, 176, quantize_line<5>, dequantize_line<5>},
    {"quantize_q6_k", "dequantize_q6_k", 256, 210, quantize_q6_k, dequantize_q6_k},
};

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
