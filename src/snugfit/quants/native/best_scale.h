// The slower, better search for scales: value = d * scale * code, with integer scales.
//
// A finely stepped scan finds the best scale of each sub-block alone. Then many d are tried, each
// with the integers nearest to those scales; and around the cheapest d, whose fit to all codes is
// solved for, many integers. What an integer costs is so jagged that more of them are worth more
// than better guesses. A shape is that of scale_search.h, with LOW_TARGETS and HIGH_TARGETS, the
// codes that the extreme value of a sub-block may have.
#pragma once

#include <algorithm>
#include <cmath>

#include "best_search.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET {

// What is stored of the sub-blocks of a tile, d repeated for those of a super-block, and its cost.
struct StoredScales {
    alignas(64) float d[SUBS], scale[SUBS] = {}, cost[SUBS];
};

// Returns the best scale for targets spread over a range.
template <bool HALF, int N, typename Codes>
Trial scan_scales(const Tile<N>& tile, int first, Spread targets, int count, const Codes& codes) {
    const Floats unit = inverse(extreme_of(tile, first));
    Trial best{Floats{}, splat(3.4e38f)};
    for (int i = 0; i < count; ++i) {
        const Floats inverse_scale = targets.at(i, count) * unit;
        keep_cheaper(best, try_scale<HALF>(tile, first, Floats{}, inverse_scale, codes));
    }
    return best;
}

// Tries every integer within `reach` of the fitted scales, under the d that is stored.
template <typename Shape>
void try_integers(const Shape& shape, const Tile<Shape::SUB>& tile, const float* fitted, int reach,
                  StoredScales& stored) {
    for (int first = 0; first < SUBS; first += LANES) {
        const Floats d = lanes(stored.d + first);
        const Floats middle = nearest(lanes(fitted + first) * inverse(d));
        Trial best{lanes(stored.scale + first), lanes(stored.cost + first)};
        for (int change = -reach; change <= reach; ++change) {
            const Floats integer = clamp(middle + static_cast<float>(change), Shape::LOWEST_SCALE,
                                         Shape::HIGHEST_SCALE);
            const Floats scale = integer * d;
            const Floats unit = inverse(scale);
            Floats cost{};
            for (int i = 0; i < Shape::SUB; ++i) {
                const Floats value = lanes(&tile.value[i][first]);
                const Floats error = scale * shape.codes(value * unit) - value;
                cost += lanes(&tile.cost[i][first]) * error * error;
            }
            keep_cheaper(best, {integer, cost});
        }
        lanes(stored.scale + first) = best.scale;
        lanes(stored.cost + first) = best.cost;
    }
}

// Returns in `d` what fits the stored integers and their codes best.
template <typename Shape>
void fit_steps(const Shape& shape, const Tile<Shape::SUB>& tile, const StoredScales& stored,
               float* d) {
    constexpr int COUNT = SUPER / Shape::SUB;
    alignas(64) float square[SUBS], product[SUBS];
    for (int first = 0; first < SUBS; first += LANES) {
        const Floats integer = lanes(stored.scale + first);
        const Floats unit = inverse(integer * lanes(stored.d + first));
        Floats code_code{}, value_code{};
        for (int i = 0; i < Shape::SUB; ++i) {
            const Floats value = lanes(&tile.value[i][first]);
            const Floats code = shape.codes(value * unit);
            const Floats weighted = code * lanes(&tile.cost[i][first]);
            code_code += weighted * code;
            value_code += weighted * value;
        }
        lanes(square + first) = integer * integer * code_code;
        lanes(product + first) = integer * value_code;
    }
    for (int first = 0; first < SUBS; first += COUNT) {
        double squares = 0, products = 0;
        for (int i = first; i < first + COUNT; ++i) {
            squares += square[i];
            products += product[i];
        }
        const float fitted =
            squares > 0 ? round_to_half(static_cast<float>(products / squares)) : stored.d[first];
        for (int i = first; i < first + COUNT; ++i) {
            d[i] = fitted;
        }
    }
}

template <int COUNT>
void keep_cheaper(StoredScales& best, const StoredScales& trial) {
    bool cheaper[SUBS];
    find_cheaper<COUNT>(trial.cost, best.cost, cheaper);
    for (int i = 0; i < SUBS; ++i) {
        if (cheaper[i]) {
            best.d[i] = trial.d[i];
            best.scale[i] = trial.scale[i];
            best.cost[i] = trial.cost[i];
        }
    }
}

// The best scales of each sub-block alone, of the better sign and of the other, and its costs' sum.
struct FittedScales {
    alignas(64) float better[SUBS], other[SUBS], weight[SUBS];
};

template <typename Shape>
FittedScales scan_sub_blocks(const Shape& shape, const Tile<Shape::SUB>& tile) {
    const auto codes = [&](Floats exact) { return shape.codes(exact); };
    FittedScales fitted;
    for (int first = 0; first < SUBS; first += LANES) {
        const Trial low = scan_scales<false>(tile, first, Shape::LOW_TARGETS, 16, codes);
        const Trial high = scan_scales<false>(tile, first, Shape::HIGH_TARGETS, 10, codes);
        const auto is_high = high.cost < low.cost;
        lanes(fitted.better + first) = is_high ? high.scale : low.scale;
        lanes(fitted.other + first) = is_high ? low.scale : high.scale;
        Floats weight{};
        for (int i = 0; i < Shape::SUB; ++i) {
            weight += lanes(&tile.cost[i][first]);
        }
        lanes(fitted.weight + first) = weight;
    }
    return fitted;
}

// Fits d to the scales of each super-block, of which the largest becomes `part` of the lowest one.
template <typename Shape>
void fit_all_steps(const FittedScales& fitted, float part, float* d) {
    constexpr int COUNT = SUPER / Shape::SUB;
    for (int first = 0; first < SUBS; first += COUNT) {
        const float* scale = fitted.better + first;
        float extreme = 0;
        for (int i = 0; i < COUNT; ++i) {
            extreme = std::fabs(scale[i]) > std::fabs(extreme) ? scale[i] : extreme;
        }
        const float step =
            fit_step(scale, fitted.weight + first, COUNT, extreme / (part * Shape::LOWEST_SCALE),
                     Shape::LOWEST_SCALE, Shape::HIGHEST_SCALE);
        std::fill(d + first, d + first + COUNT, step);
    }
}

// Finds d and the integer scale of every sub-block of a tile.
template <typename Shape>
StoredScales fit_best_scales(const Shape& shape, const Tile<Shape::SUB>& tile) {
    constexpr int COUNT = SUPER / Shape::SUB, STEPS = 32;
    const FittedScales fitted = scan_sub_blocks(shape, tile);
    StoredScales best;
    std::fill(best.cost, best.cost + SUBS, 3.4e38f);
    StoredScales trial = best;
    for (int i = 0; i < STEPS; ++i) {
        fit_all_steps<Shape>(fitted, LARGEST_PARTS.at(i, STEPS), trial.d);
        std::fill(trial.cost, trial.cost + SUBS, 3.4e38f);
        try_integers(shape, tile, fitted.better, 0, trial);
        keep_cheaper<COUNT>(best, trial);
    }
    fit_steps(shape, tile, best, trial.d);
    std::fill(trial.cost, trial.cost + SUBS, 3.4e38f);
    try_integers(shape, tile, fitted.better, 6, trial);
    try_integers(shape, tile, fitted.other, 2, trial);
    keep_cheaper<COUNT>(best, trial);
    return best;
}

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
