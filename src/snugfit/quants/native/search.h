// Least-squares fits of a scale, or a scale and an offset, to many sub-blocks at once.
//
// A vector holds one number of each of LANES sub-blocks, so that sums over the weights of a
// sub-block need no sums across a vector. How many lanes there are changes no result.
#pragma once

#include <cstdint>

#include "half.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float Floats __attribute__((vector_size(4 * LANES), may_alias));

// Sub-blocks of a tile: a multiple of LANES everywhere, and whole super-blocks of every type.
constexpr int SUBS = 16;

// Larger weights overflow the scale of every type, and their squares would overflow a float.
constexpr float LARGEST = 3e8f;
// A spread below this is none: its inverse would overflow, and no scale can hold it.
constexpr float SMALLEST_SPREAD = 1e-20f;

// The weights of SUBS sub-blocks of N, and what an error of each costs; sub-blocks run along the
// last axis. Empty sub-blocks at a row's end are zeros of cost 1.
template <int N>
struct Tile {
    alignas(64) float value[N][SUBS];
    alignas(64) float cost[N][SUBS];
};

inline Floats splat(float value) { return value - Floats{}; }

inline Floats& lanes(float* first) { return *reinterpret_cast<Floats*>(first); }
inline Floats lanes(const float* first) { return *reinterpret_cast<const Floats*>(first); }

inline Floats smaller(Floats a, Floats b) { return a < b ? a : b; }
inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }
inline Floats magnitude(Floats a) { return larger(a, -a); }
inline Floats clamp(Floats a, float low, float high) {
    return smaller(larger(a, splat(low)), splat(high));
}

// Adding 1.5 * 2^23 leaves no bits for a fraction, so that the sum rounds to nearest, ties to even.
constexpr float ROUNDER = 12582912.0f;
inline Floats nearest(Floats a) { return (a + ROUNDER) - ROUNDER; }
inline float nearest(float a) { return (a + ROUNDER) - ROUNDER; }
inline float clamp(float a, float low, float high) { return a < low ? low : a > high ? high : a; }

// The same values as half.h's function, ties aside.
inline Floats round_to_half(Floats a) {
    const Floats bounded = clamp(a, -65504.0f, 65504.0f);
    const Floats split = bounded * 8193.0f;  // 2^13 + 1 leaves 11 of a float's 24 bits
    const Floats normal = split - (split - bounded);
    const Floats small = (bounded + 0.75f) - 0.75f;  // whole units of 2^-24
    return magnitude(bounded) < splat(6.103515625e-5f) ? small : normal;
}

inline Floats inverse(Floats a) {
    return magnitude(a) > splat(SMALLEST_SPREAD) ? 1.0f / a : Floats{};
}
inline float inverse(float a) {
    return a > SMALLEST_SPREAD || a < -SMALLEST_SPREAD ? 1.0f / a : 0.0f;
}
inline Floats divide(Floats a, Floats b) { return b > Floats{} ? a / b : Floats{}; }

// Sums in sixteen interleaved parts: an order that vector code of any width can keep.
inline float sum_of_squares(const float* values, std::int64_t count) {
    float parts[16] = {};
    for (std::int64_t i = 0; i < count; i += 16) {
        for (int j = 0; j < 16; ++j) {
            parts[j] += values[i + j] * values[i + j];
        }
    }
    float sum = 0;
    for (float part : parts) {
        sum += part;
    }
    return sum;
}

// Copies [SUBS][N] to [N][SUBS].
template <int N>
void transpose(const float* from, float (*to)[SUBS]) {
    for (int i = 0; i < N; ++i) {
        for (int sub = 0; sub < SUBS; ++sub) {
            to[i][sub] = from[sub * N + i];
        }
    }
}

// --- value = scale * code ----------------------------------------------------------------------

// Returns the value farthest from zero of each sub-block that starts at `first`.
template <int N>
Floats extreme_of(const Tile<N>& tile, int first) {
    Floats low{}, high{};
    for (int i = 0; i < N; ++i) {
        const Floats value = lanes(&tile.value[i][first]);
        low = smaller(low, value);
        high = larger(high, value);
    }
    return high > -low ? high : low;
}

// A scale, and the cost of storing the sub-block with it.
struct Trial {
    Floats scale, cost;
};

// Returns the best scale, rounded to 16 bits where `HALF` asks for it, for the codes nearest to
// (value - offset) * inverse_scale. Sums are of the small differences from those codes, not of
// values, so that costs are exact enough to compare the rounding of scales.
template <bool HALF, int N>
Trial try_scale(const Tile<N>& tile, int first, Floats offset, Floats inverse_scale, float low,
                float high) {
    Floats code_code{}, rest_code{}, rest_rest{};
    for (int i = 0; i < N; ++i) {
        const Floats cost = lanes(&tile.cost[i][first]);
        const Floats exact = (lanes(&tile.value[i][first]) - offset) * inverse_scale;
        const Floats code = clamp(nearest(exact), low, high);
        const Floats rest = exact - code;
        const Floats weighted = cost * rest;
        code_code += cost * code * code;
        rest_code += weighted * code;
        rest_rest += weighted * rest;
    }
    const Floats step = inverse(inverse_scale);
    const Floats fitted = step + step * divide(rest_code, code_code);
    const Floats scale = HALF ? round_to_half(fitted) : fitted;
    const Floats change = scale - step;
    const Floats cost =
        change * (change * code_code - 2.0f * step * rest_code) + step * step * rest_rest;
    return {scale, cost};
}

inline void keep_cheaper(Trial& best, const Trial& trial) {
    const auto better = trial.cost < best.cost;
    best.scale = better ? trial.scale : best.scale;
    best.cost = better ? trial.cost : best.cost;
}

// Returns the best scale found for codes from `low` to `high`. Each target is the code that the
// extreme value would have; `rounds` then alternate between codes and the scale that fits them.
template <bool HALF, int N, int TARGETS>
Floats fit_scale(const Tile<N>& tile, int first, const float (&targets)[TARGETS], float low,
                 float high, int rounds) {
    const Floats unit = inverse(extreme_of(tile, first));
    Trial best{Floats{}, splat(3.4e38f)};
    for (float target : targets) {
        keep_cheaper(best, try_scale<HALF>(tile, first, Floats{}, target * unit, low, high));
    }
    for (int round = 0; round < rounds; ++round) {
        keep_cheaper(best, try_scale<HALF>(tile, first, Floats{}, inverse(best.scale), low, high));
    }
    return best.scale;
}

// --- value = scale * code + offset -------------------------------------------------------------

struct Line {
    Floats scale, offset;
};

// What does not depend on codes. Values are counted from their weighted mean, and codes from the
// code of that mean, so that one weight with nearly all of the cost leaves no rounding errors.
struct LineBase {
    Floats mean, low, spread, cost{}, value{};
};

struct LineSums {
    Floats center, code{}, code_code{}, value_code{};
};

template <int N>
LineBase line_base(const Tile<N>& tile, int first, bool offset_below_zero) {
    LineBase base;
    Floats low = lanes(&tile.value[0][first]);
    Floats high = low;
    Floats sum{};
    for (int i = 0; i < N; ++i) {
        const Floats value = lanes(&tile.value[i][first]);
        low = smaller(low, value);
        high = larger(high, value);
        base.cost += lanes(&tile.cost[i][first]);
        sum += value * lanes(&tile.cost[i][first]);
    }
    base.low = offset_below_zero ? smaller(low, Floats{}) : low;
    base.spread = high - base.low;
    base.mean = smaller(larger(divide(sum, base.cost), low), high);
    for (int i = 0; i < N; ++i) {
        base.value += (lanes(&tile.value[i][first]) - base.mean) * lanes(&tile.cost[i][first]);
    }
    return base;
}

// Sums over the codes nearest to (value - offset) * inverse_scale.
template <int N>
LineSums sum_line(const Tile<N>& tile, int first, const LineBase& base, Floats offset,
                  Floats inverse_scale, float top) {
    const Floats code_of_mean = (base.mean - offset) * inverse_scale;
    LineSums sums;
    sums.center = clamp(nearest(code_of_mean), 0, top);
    const Floats rest = code_of_mean - sums.center;
    const Floats lowest = -sums.center;
    const Floats highest = top - sums.center;
    for (int i = 0; i < N; ++i) {
        const Floats value = lanes(&tile.value[i][first]) - base.mean;
        const Floats code = smaller(larger(nearest(value * inverse_scale + rest), lowest), highest);
        const Floats weighted = code * lanes(&tile.cost[i][first]);
        sums.code += weighted;
        sums.code_code += weighted * code;
        sums.value_code += weighted * value;
    }
    return sums;
}

// The line of offset 0 that costs least; its offset is counted as in solve_line.
inline Line line_through_zero(const LineBase& base, const LineSums& sums) {
    const Floats center = sums.center;
    const Floats code_code = sums.code_code + center * (2.0f * sums.code + center * base.cost);
    const Floats from_mean = base.mean * (sums.code + center * base.cost);
    const Floats scale =
        larger(divide(sums.value_code + center * base.value + from_mean, code_code), Floats{});
    return {scale, scale * center - base.mean};
}

// Returns the line that costs least for given codes. Its offset is that of the centered codes.
inline Line solve_line(const LineBase& base, const LineSums& sums, bool offset_below_zero) {
    const Floats whole = base.cost * sums.code_code;
    const Floats determinant = whole - sums.code * sums.code;
    // Where all codes are equal, only rounding errors are left.
    const auto solvable = determinant > 1e-6f * whole;
    const Floats divisor = solvable ? determinant : splat(1.0f);
    const Floats scale = (base.cost * sums.value_code - base.value * sums.code) / divisor;
    const Floats offset = (sums.code_code * base.value - sums.code * sums.value_code) / divisor;
    Line line{solvable ? scale : Floats{}, solvable ? offset : Floats{}};
    if (offset_below_zero) {
        const Line through_zero = line_through_zero(base, sums);
        const auto above = line.offset + base.mean > line.scale * sums.center;
        line.scale = above ? through_zero.scale : line.scale;
        line.offset = above ? through_zero.offset : line.offset;
    }
    return line;
}

// The cost that a line saves against the mean alone, for codes whose sums are given.
inline Floats gain_of(const LineBase& base, const LineSums& sums, const Line& line) {
    const Floats from_scale = 2.0f * sums.value_code - line.scale * sums.code_code;
    const Floats from_offset = 2.0f * base.value - line.offset * base.cost;
    return line.scale * from_scale + line.offset * (from_offset - 2.0f * line.scale * sums.code);
}

// Where a search for a line starts: the code of the smallest value, and that of the largest one,
// counted from `top`. Codes beyond the ends are clipped. Moving the low end moves the boundaries
// between codes, which matters most where many weights share few codes.
constexpr float LOW_ENDS[] = {0.0f, -0.4f, 0.4f};
constexpr float HIGH_ENDS[] = {0.0f, -1.2f, -0.8f, -0.4f, 0.4f, 0.8f, 1.2f};

// Returns the best line found for codes 0 to `top`. `rounds` alternate between codes and line.
template <int N>
Line fit_line(const Tile<N>& tile, int first, float top, int rounds, bool offset_below_zero) {
    const LineBase base = line_base(tile, first, offset_below_zero);
    const Floats unit = inverse(base.spread);
    Line best{base.spread * (1.0f / top), base.low};
    Floats best_gain = splat(-3.4e38f);
    const auto try_ends = [&](float low_end, float high_end) {
        const Floats inverse_scale = (top + high_end - low_end) * unit;
        const Floats offset = base.low - low_end * inverse(inverse_scale);
        const LineSums sums = sum_line(tile, first, base, offset, inverse_scale, top);
        const Line line = solve_line(base, sums, offset_below_zero);
        const Floats gain = gain_of(base, sums, line);
        const auto better = gain > best_gain;
        best_gain = better ? gain : best_gain;
        best.scale = better ? line.scale : best.scale;
        best.offset = better ? base.mean + line.offset - line.scale * sums.center : best.offset;
    };
    for (float high_end : HIGH_ENDS) {
        for (float low_end : LOW_ENDS) {
            try_ends(low_end, high_end);
        }
    }
    for (int round = 0; round < rounds; ++round) {
        const LineSums sums = sum_line(tile, first, base, best.offset, inverse(best.scale), top);
        const Line line = solve_line(base, sums, offset_below_zero);
        best = {line.scale, base.mean + line.offset - line.scale * sums.center};
    }
    return best;
}

// Rounds the offset to 16 bits, and fits a 16-bit scale to the rounded offset.
template <int N>
Line round_line(const Tile<N>& tile, int first, const Line& line, float top) {
    // Equal values leave the scale free: it then holds what a smaller offset lacks.
    const auto flat = line.scale == Floats{};
    const Floats below = line.offset - magnitude(line.offset) * 0x1p-11f;
    const Floats offset = round_to_half(flat ? below : line.offset);
    const Floats scale = flat ? (line.offset - offset) * (1.0f / top) : line.scale;
    Trial best{round_to_half(scale), splat(3.4e38f)};
    for (int round = 0; round < 2; ++round) {
        const Floats inverse_scale = inverse(round == 0 ? scale : best.scale);
        keep_cheaper(best, try_scale<true>(tile, first, offset, inverse_scale, 0, top));
    }
    return {best.scale, offset};
}

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
