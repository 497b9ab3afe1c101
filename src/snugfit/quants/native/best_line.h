// The slower, better search for lines: value = d * scale * code - dmin * offset, with integers.
//
// Works as best_scale.h does: many pairs of d and dmin with the integers nearest to the lines that
// suit the sub-blocks alone, then many integers around the cheapest pair.
#pragma once

#include <algorithm>

#include "best_search.h"
#include "super_lines.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET {

// How far from a fitted line's integers to look.
struct Reach {
    int scale, offset;
};

// Integers, and what storing sub-blocks with them costs.
struct LineTrial {
    Floats scale, offset, cost;
};

inline void keep_cheaper(LineTrial& best, const LineTrial& trial) {
    const auto better = trial.cost < best.cost;
    best.scale = better ? trial.scale : best.scale;
    best.offset = better ? trial.offset : best.offset;
    best.cost = better ? trial.cost : best.cost;
}

template <typename Shape>
Floats line_cost(const TileOf<Shape>& tile, int first, Floats scale, Floats offset) {
    const Floats unit = inverse(scale);
    Floats cost{};
    for (int i = 0; i < Shape::SUB; ++i) {
        const Floats shifted = lanes(&tile.value[i][first]) + offset;
        const Floats error = scale * clamp(nearest(shifted * unit), 0, Shape::TOP) - shifted;
        cost += lanes(&tile.cost[i][first]) * error * error;
    }
    return cost;
}

// Tries the integers within reach of the fitted lines. An offset changes with its scale so that the
// middle code keeps its value.
template <typename Shape>
void try_integers(const TileOf<Shape>& tile, const LineFit& fit, const float* d, const float* dmin,
                  Reach reach, LineChoice& choice) {
    for (int first = 0; first < SUBS; first += LANES) {
        const Floats step = lanes(d + first), offset_step = lanes(dmin + first);
        const Floats fitted = lanes(fit.scale + first), fitted_offset = lanes(fit.offset + first);
        const Floats middle = nearest(fitted * inverse(step));
        const Floats offset_unit = inverse(offset_step);
        LineTrial best{Floats{}, Floats{}, splat(3.4e38f)};
        for (int i = -reach.scale; i <= reach.scale; ++i) {
            const Floats integer =
                clamp(middle + static_cast<float>(i), 0, Shape::LARGEST_INTEGER);
            const Floats scale = integer * step;
            const Floats wanted = fitted_offset + (scale - fitted) * (0.5f * Shape::TOP);
            const Floats middle_offset = nearest(wanted * offset_unit);
            for (int j = -reach.offset; j <= reach.offset; ++j) {
                const Floats offset =
                    clamp(middle_offset + static_cast<float>(j), 0, Shape::LARGEST_INTEGER);
                const Floats cost = line_cost<Shape>(tile, first, scale, offset * offset_step);
                keep_cheaper(best, {integer, offset, cost});
            }
        }
        lanes(choice.scale + first) = best.scale;
        lanes(choice.offset + first) = best.offset;
        lanes(choice.cost + first) = best.cost;
    }
}

// Returns in `d` and `dmin` what fits the chosen integers and their codes best.
template <typename Shape>
void fit_steps(const TileOf<Shape>& tile, LineFit& fit, float* d, float* dmin) {
    constexpr int COUNT = SUBS_OF<Shape>;
    LineChoice& choice = fit.choice;
    for (int first = 0; first < SUBS; first += LANES) {
        const Floats scale = lanes(choice.scale + first) * lanes(fit.d + first);
        const Floats offset = lanes(choice.offset + first) * lanes(fit.dmin + first);
        const FixedSums sums = sum_fixed<Shape>(tile, first, scale, offset);
        lanes(choice.code + first) = sums.code;
        lanes(choice.code_code + first) = sums.code_code;
        lanes(choice.value_code + first) = sums.value_code;
    }
    for (int first = 0; first < SUBS; first += COUNT) {
        float step = fit.d[first], offset_step = fit.dmin[first];
        refit_super(choice, fit.cost_sum, fit.value_sum, first, first + COUNT, step, offset_step);
        std::fill(d + first, d + first + COUNT, step);
        std::fill(dmin + first, dmin + first + COUNT, offset_step);
    }
}

template <typename Shape>
void try_steps(const TileOf<Shape>& tile, const float* d, const float* dmin, Reach reach,
               LineFit& fit) {
    LineChoice choice;
    try_integers<Shape>(tile, fit, d, dmin, reach, choice);
    bool cheaper[SUBS];
    find_cheaper<SUBS_OF<Shape>>(choice.cost, fit.choice.cost, cheaper);
    for (int i = 0; i < SUBS; ++i) {
        if (cheaper[i]) {
            fit.d[i] = d[i];
            fit.dmin[i] = dmin[i];
            fit.choice.scale[i] = choice.scale[i];
            fit.choice.offset[i] = choice.offset[i];
            fit.choice.cost[i] = choice.cost[i];
        }
    }
}

// Fits a step to the values of each super-block, of which the largest becomes `part` of the largest
// integer.
template <int COUNT>
void fit_all_steps(const float* values, const float* weights, float part, float top, float* steps) {
    for (int first = 0; first < SUBS; first += COUNT) {
        const float guess = largest_of(values + first, COUNT) / (part * top);
        const float step = fit_step(values + first, weights + first, COUNT, guess, 0, top);
        std::fill(steps + first, steps + first + COUNT, step);
    }
}

// Finds d, dmin and the integers of every sub-block of a tile.
template <typename Shape>
void fit_best_lines(const TileOf<Shape>& tile, LineFit& fit) {
    constexpr int COUNT = SUBS_OF<Shape>, STEPS = 8;
    fit_sub_blocks<Shape>(tile, true, fit);
    std::fill(fit.choice.cost, fit.choice.cost + SUBS, 3.4e38f);
    alignas(64) float d[STEPS][SUBS], dmin[STEPS][SUBS];
    for (int i = 0; i < STEPS; ++i) {
        const float part = LARGEST_PARTS.at(i, STEPS);
        fit_all_steps<COUNT>(fit.scale, fit.cost_sum, part, Shape::LARGEST_INTEGER, d[i]);
        fit_all_steps<COUNT>(fit.offset, fit.cost_sum, part, Shape::LARGEST_INTEGER, dmin[i]);
    }
    for (int i = 0; i < STEPS * STEPS; ++i) {
        try_steps<Shape>(tile, d[i / STEPS], dmin[i % STEPS], {0, 0}, fit);
    }
    for (int round = 0; round < 2; ++round) {
        fit_steps<Shape>(tile, fit, d[0], dmin[0]);
        try_steps<Shape>(tile, d[0], dmin[0], {4, 3}, fit);
    }
}

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
