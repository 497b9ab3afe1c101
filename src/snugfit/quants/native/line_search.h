// Least-squares fits of a scale and an offset to many sub-blocks at once: value = scale * code +
// offset.
#pragma once

#include "search.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET {

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
struct Ends {
    float low, high;
};
constexpr Ends ENDS[] = {{0, 0},         {0, -0.4f},     {0, 0.4f},     {-0.4f, 0},   {0.4f, 0},
                         {0, -0.8f},     {0, 0.8f},      {-0.4f, 0.4f}, {0.4f, 0.4f}, {-0.4f, -0.4f},
                         {0.4f, -0.4f},  {-0.4f, 0.8f},  {0.4f, -0.8f}};

// Returns the best line found for codes 0 to `top`. `rounds` alternate between codes and line.
template <int N, int COUNT>
Line fit_line(const Tile<N>& tile, int first, const Ends (&ends)[COUNT], float top, int rounds,
              bool offset_below_zero) {
    const LineBase base = line_base(tile, first, offset_below_zero);
    const Floats unit = inverse(base.spread);
    Line best{base.spread * (1.0f / top), base.low};
    Floats best_gain = splat(-3.4e38f);
    for (const Ends& end : ends) {
        const Floats inverse_scale = (top + end.high - end.low) * unit;
        const Floats offset = base.low - end.low * inverse(inverse_scale);
        const LineSums sums = sum_line(tile, first, base, offset, inverse_scale, top);
        const Line line = solve_line(base, sums, offset_below_zero);
        const Floats gain = gain_of(base, sums, line);
        const auto better = gain > best_gain;
        best_gain = better ? gain : best_gain;
        best.scale = better ? line.scale : best.scale;
        best.offset = better ? base.mean + line.offset - line.scale * sums.center : best.offset;
    }
    for (int round = 0; round < rounds; ++round) {
        const LineSums sums = sum_line(tile, first, base, best.offset, inverse(best.scale), top);
        const Line line = solve_line(base, sums, offset_below_zero);
        best = {line.scale, base.mean + line.offset - line.scale * sums.center};
    }
    return best;
}

// A line of 16-bit numbers, and the cost of storing the sub-block with it.
struct RoundedLine {
    Line line;
    Floats cost;
};

// Sub-blocks of few different values are met by many lines but for the rounding of scale and offset
// to 16 bits. Where the cost shows that, tries lines that end at smaller codes.
template <int N>
void try_smaller_codes(const Tile<N>& tile, int first, float top, RoundedLine& best) {
    constexpr float OFFSET_CHANGES[] = {1.0f, 1.0f - 0x1p-10f, 1.0f + 0x1p-10f};
    Floats cost_sum{};
    for (int i = 0; i < N; ++i) {
        cost_sum += lanes(&tile.cost[i][first]);
    }
    const Floats spread = best.line.scale * top;
    const auto nearly_exact = best.cost < spread * spread * cost_sum * 1e-6f;
    bool any = false;
    for (int lane = 0; lane < LANES; ++lane) {
        any |= nearly_exact[lane] != 0;
    }
    const Line start = best.line;
    for (int less = 0; any && less < 8; ++less) {
        const float stretch = top / (top - static_cast<float>(less));
        const Floats inverse_scale = inverse(start.scale * stretch);
        for (float change : OFFSET_CHANGES) {
            const Floats offset = round_to_half(start.offset * change);
            const Trial trial =
                try_scale<true>(tile, first, offset, inverse_scale, WholeCodes{0, top});
            const auto better = nearly_exact & (trial.cost < best.cost);
            best.line.scale = better ? trial.scale : best.line.scale;
            best.line.offset = better ? offset : best.line.offset;
            best.cost = better ? trial.cost : best.cost;
        }
    }
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
        keep_cheaper(best, try_scale<true>(tile, first, offset, inverse_scale, WholeCodes{0, top}));
    }
    RoundedLine rounded{{best.scale, offset}, best.cost};
    try_smaller_codes(tile, first, top, rounded);
    return rounded.line;
}

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
