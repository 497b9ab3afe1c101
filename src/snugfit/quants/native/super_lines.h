// Super-blocks whose sub-blocks have a line of integers: value = d * scale * code - dmin * offset.
//
// A shape says what a type is: SUB weights of a sub-block, its TOP code, the LARGEST_INTEGER of
// scale and offset, the STEP_TARGETS where the search for d and dmin starts, and how many ROUNDS
// refine a sub-block's line, which starts at PLAIN_ENDS where costs are even.
#pragma once

#include <cmath>

#include "line_search.h"
#include "super_blocks.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET {

template <typename Shape>
using TileOf = Tile<Shape::SUB>;
template <typename Shape>
constexpr int SUBS_OF = SUPER / Shape::SUB;

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
inline void refit_super(const LineChoice& choice, const float* cost_sum, const float* value_sum,
                        int first, int end, float& d, float& dmin) {
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

template <typename Shape>
void start_supers(LineFit& fit) {
    constexpr int COUNT = SUBS_OF<Shape>;
    for (int first = 0; first < SUBS; first += COUNT) {
        const auto step = [&](const float* values) {
            return best_step(values + first, fit.cost_sum + first, COUNT,
                             largest_of(values + first, COUNT), Shape::STEP_TARGETS,
                             WholeCodes{0, Shape::LARGEST_INTEGER});
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

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
