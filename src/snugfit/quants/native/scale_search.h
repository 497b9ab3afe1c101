// Super-blocks whose sub-blocks have an integer scale and no offset: value = d * scale * code.
//
// A shape says what a type is: SUB weights of a sub-block, LOWEST_SCALE and HIGHEST_SCALE, the
// SCALE_TARGETS where the search for d starts (what the largest scale would be), fit() for a
// sub-block alone, and codes(), which rounds to a code.
#pragma once

#include <cmath>

#include "super_blocks.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET {

// What is stored of the sub-blocks of a tile, what that costs, and sums to fit d again.
struct ScaleChoice {
    alignas(64) float scale[SUBS], cost[SUBS], code_code[SUBS], value_code[SUBS];
};

struct ScaleFit {
    alignas(64) float fitted[SUBS];  // of each sub-block alone
    alignas(64) float d[SUBS];       // of the super-block, repeated for its sub-blocks
    ScaleChoice choice;
};

// Tries `changes` integers next to each fitted scale under the super-block's d.
template <typename Shape>
void choose_scales(const Shape& shape, const Tile<Shape::SUB>& tile, int changes, ScaleFit& fit) {
    ScaleChoice& choice = fit.choice;
    for (int first = 0; first < SUBS; first += LANES) {
        const Floats step = lanes(fit.d + first);
        const Floats nearest_scale = nearest(lanes(fit.fitted + first) * inverse(step));
        lanes(choice.cost + first) = splat(3.4e38f);
        for (int change = 0; change < changes; ++change) {
            const Floats integer = clamp(nearest_scale + NEARBY[change], Shape::LOWEST_SCALE,
                                         Shape::HIGHEST_SCALE);
            const Floats scale = integer * step;
            const Floats inverse_scale = inverse(scale);
            Floats cost_sum{}, code_code{}, value_code{};
            for (int i = 0; i < Shape::SUB; ++i) {
                const Floats value = lanes(&tile.value[i][first]);
                const Floats cost = lanes(&tile.cost[i][first]);
                const Floats code = shape.codes(value * inverse_scale);
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

// Fits d to the chosen scales and codes of sub-blocks `first` to `end`.
inline float refit_scale(const ScaleChoice& choice, int first, int end, float d) {
    double square = 0, product = 0;
    for (int i = first; i < end; ++i) {
        const double scale = choice.scale[i];
        square += scale * scale * choice.code_code[i];
        product += scale * choice.value_code[i];
    }
    return square > 0 ? round_to_half(static_cast<float>(product / square)) : d;
}

template <typename Shape>
void start_scales(const Tile<Shape::SUB>& tile, ScaleFit& fit) {
    constexpr int COUNT = SUPER / Shape::SUB;
    alignas(64) float cost_sum[SUBS] = {};
    for (int i = 0; i < Shape::SUB; ++i) {
        for (int sub = 0; sub < SUBS; ++sub) {
            cost_sum[sub] += tile.cost[i][sub];
        }
    }
    for (int first = 0; first < SUBS; first += COUNT) {
        float extreme = 0;
        for (int i = first; i < first + COUNT; ++i) {
            extreme = std::fabs(fit.fitted[i]) > std::fabs(extreme) ? fit.fitted[i] : extreme;
        }
        const float d = best_step(fit.fitted + first, cost_sum + first, COUNT, extreme,
                                  Shape::SCALE_TARGETS,
                                  WholeCodes{Shape::LOWEST_SCALE, Shape::HIGHEST_SCALE});
        for (int i = first; i < first + COUNT; ++i) {
            fit.d[i] = d;
        }
    }
}

// Refits d of each super-block and keeps what came out cheaper.
template <typename Shape>
void improve_scales(const Shape& shape, const Tile<Shape::SUB>& tile, ScaleFit& fit) {
    constexpr int COUNT = SUPER / Shape::SUB;
    ScaleFit other = fit;
    for (int i = 0; i < SUBS; ++i) {
        const int first = i / COUNT * COUNT;
        other.d[i] = i > first ? other.d[first]
                               : refit_scale(fit.choice, first, first + COUNT, fit.d[first]);
    }
    choose_scales(shape, tile, 3, other);
    for (int first = 0; first < SUBS; first += COUNT) {
        float before = 0, after = 0;
        for (int i = first; i < first + COUNT; ++i) {
            before += fit.choice.cost[i];
            after += other.choice.cost[i];
        }
        for (int i = first; after < before && i < first + COUNT; ++i) {
            fit.d[i] = other.d[i];
            fit.choice.scale[i] = other.choice.scale[i];
        }
    }
}

// Finds d and the integer scale of every sub-block of a tile.
template <typename Shape>
void fit_scales(const Shape& shape, const Tile<Shape::SUB>& tile, bool uneven_costs,
                ScaleFit& fit) {
    for (int first = 0; first < SUBS; first += LANES) {
        lanes(fit.fitted + first) = shape.fit(tile, first, uneven_costs);
    }
    start_scales<Shape>(tile, fit);
    choose_scales(shape, tile, 1, fit);
    improve_scales(shape, tile, fit);
}

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
