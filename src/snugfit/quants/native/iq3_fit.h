// How IQ3_XXS and IQ3_S choose scales, grid rows and signs.
//
// Every sub-block's scale is fitted alone, as if all levels could meet; d is taken from these fits;
// the nearest grid rows are searched under the most promising scales around each fit; and d is
// fitted again to what was chosen. Costs are computed from what will be stored, 16-bit rounding
// included.
#pragma once

#include <cmath>
#include <cstring>

#include "grids.h"
#include "run_search.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET::iq3 {

using std::int8_t;

constexpr int SUB = 32;
constexpr int RUNS = SUB / RUN;
constexpr int SUBS_OF_SUPER = SUPER / SUB;
constexpr int GROUP = 8;  // weights whose signs share a byte
constexpr int GROUPS = SUB / GROUP;
constexpr float HIGHEST_LEVEL = 15, HIGHEST_SCALE = 31;

// The scales that are looked at, around the fitted one. Rows are searched under the most promising.
constexpr int CANDIDATES = 7;
constexpr float AROUND[CANDIDATES] = {0, -2, 2, -4, 4, -6, 6};
// What it costs, in units of scale^2, that not all levels meet in the grid.
constexpr float GRID_COST = 0.2f;

// GRID_UNIT: what the grid's numbers are multiples of. SEARCHES: of rows, under one scale each.
struct ExtraExtraSmall {
    static constexpr int ROWS = 256, GRID_UNIT = 4, BYTES = 98, SEARCHES = 5;
    static constexpr float LAST_LEVEL = 15.5f;
    static constexpr bool EVEN_SIGNS = true;
    static const int8_t* grid() { return grids.iq3_xxs; }
};
struct Small {
    static constexpr int ROWS = 512, GRID_UNIT = 1, BYTES = 110, SEARCHES = 3;
    static constexpr float LAST_LEVEL = 15;
    static constexpr bool EVEN_SIGNS = false;
    static const int8_t* grid() { return grids.iq3_s; }
};

// Made of the tables that Python hands over before the first use of the type.
template <typename Shape>
const PairedGrid<Shape::ROWS>& paired_grid() {
    static const PairedGrid<Shape::ROWS> paired(Shape::grid(), Shape::GRID_UNIT);
    return paired;
}

// Scales of the sub-blocks of a tile, the rows under them, what both cost, and sums to fit d again.
struct Choice {
    alignas(64) float scale[SUBS], cost[SUBS], level_level[SUBS], value_level[SUBS];
    alignas(64) int code[RUNS][SUBS];
};

struct Fit {
    Tile<SUB> tile;  // of magnitudes; a weight whose sign is stored wrong is negative
    alignas(64) float relative[SUB][SUBS];  // costs, where the largest of a run is UNIT_COST
    alignas(64) int signs[GROUPS][SUBS];
    alignas(64) float alone[SUBS];     // the scale of each sub-block alone, d included
    alignas(64) float cost_sum[SUBS];  // of its weights
    alignas(64) float d[SUBS];         // of the super-block, repeated for its sub-blocks
    Choice choice;
};

// llama.cpp's costs: importance * sqrt(2 * mean square of the super-block + value^2), or the
// square of the value. To that square a part of the mean is added, or small weights would be left
// to chance.
inline void fill_costs(Loaded<SUB>& loaded, const float* importance, int supers) {
    for (int start = 0; start < supers * SUPER; start += SUPER) {
        const float* value = loaded.value + start;
        float* cost = loaded.cost + start;
        const float mean_square = sum_of_squares(value, SUPER) * (1.0f / SUPER);
        for (int i = 0; i < SUPER; ++i) {
            const float square = value[i] * value[i];
            cost[i] = importance != nullptr
                          ? importance[start + i] * std::sqrt(2.0f * mean_square + square)
                          : square + 0.4f * mean_square;
        }
    }
}

// --- signs -------------------------------------------------------------------------------------

inline void split_signs(Fit& fit, int first) {
    for (int group = 0; group < GROUPS; ++group) {
        Integers signs{};
        for (int i = 0; i < GROUP; ++i) {
            Floats& value = lanes(&fit.tile.value[group * GROUP + i][first]);
            signs |= (value < Floats{}) & (1 << i);
            value = magnitude(value);
        }
        integers(&fit.signs[group][first]) = signs;
    }
}

// Stores other signs for the weights of a group whose bits are set.
inline void turn(Fit& fit, int group, int first, Integers bits) {
    integers(&fit.signs[group][first]) ^= bits;
    for (int i = 0; i < GROUP; ++i) {
        Floats& value = lanes(&fit.tile.value[group * GROUP + i][first]);
        value = (bits & (1 << i)) != 0 ? -value : value;
    }
}

// IQ3_XXS cannot store an odd number of minus signs: turns the weight that costs least.
inline void make_signs_even(Fit& fit, int first) {
    for (int group = 0; group < GROUPS; ++group) {
        Floats least = splat(3.4e38f);
        Integers bit{};
        for (int i = 0; i < GROUP; ++i) {
            const Floats value = lanes(&fit.tile.value[group * GROUP + i][first]);
            const Floats price = lanes(&fit.tile.cost[group * GROUP + i][first]) * value * value;
            bit = price < least ? splat(1 << i) : bit;
            least = smaller(price, least);
        }
        Integers parity = integers(&fit.signs[group][first]);
        parity ^= parity >> 4;
        parity ^= parity >> 2;
        parity ^= parity >> 1;
        turn(fit, group, first, (parity & 1) != 0 ? bit : Integers{});
    }
}

template <typename Shape>
Floats level_of(const Choice& choice, int weight, int first) {
    const Integers code = integers(&choice.code[weight / RUN][first]);
    const Integers number = (code >> (weight % RUN * LEVEL_BITS)) & (LEVELS - 1);
    const Floats level = 2.0f * __builtin_convertvector(number, Floats) + 1.0f;
    return number == LEVELS - 1 ? splat(Shape::LAST_LEVEL) : level;
}

// Turns back a turned weight, and another of its group instead, where that costs less at the levels
// that were chosen. To turn one costs 4 * scale * its price; the turned one's price is negative.
template <typename Shape>
void turn_cheaper_ones(Fit& fit, int first) {
    for (int group = 0; group < GROUPS; ++group) {
        Floats least = splat(3.4e38f), next = least;
        Integers least_bit{}, next_bit{};
        for (int i = group * GROUP; i < (group + 1) * GROUP; ++i) {
            const Floats price = lanes(&fit.tile.cost[i][first]) *
                                 lanes(&fit.tile.value[i][first]) *
                                 level_of<Shape>(fit.choice, i, first);
            const Integers bit = splat(1 << (i % GROUP));
            next_bit = price < least ? least_bit : price < next ? bit : next_bit;
            next = price < least ? least : smaller(price, next);
            least_bit = price < least ? bit : least_bit;
            least = smaller(price, least);
        }
        turn(fit, group, first, least + next < Floats{} ? least_bit | next_bit : Integers{});
    }
}

// --- scales and rows ---------------------------------------------------------------------------

// Fills the sums of a choice.
template <typename Shape>
void measure(const Fit& fit, Choice& choice, int first) {
    const Floats scale = lanes(choice.scale + first) * lanes(fit.d + first);
    Floats cost_sum{}, level_level{}, value_level{};
    for (int i = 0; i < SUB; ++i) {
        const Floats value = lanes(&fit.tile.value[i][first]);
        const Floats cost = lanes(&fit.tile.cost[i][first]);
        const Floats level = level_of<Shape>(choice, i, first);
        const Floats error = scale * level - value;
        const Floats weighted = cost * level;
        cost_sum += cost * error * error;
        level_level += weighted * level;
        value_level += weighted * value;
    }
    lanes(choice.cost + first) = cost_sum;
    lanes(choice.level_level + first) = level_level;
    lanes(choice.value_level + first) = value_level;
}

// Chooses the nearest rows under the scales of a choice.
template <typename Shape>
void choose_rows(const Fit& fit, Choice& choice) {
    constexpr int PLACES = TOGETHER / SUBS;  // in a sub-block, of the runs searched at once
    for (int run = 0; run < RUNS; run += PLACES) {
        PairCosts costs;
        for (int column = 0; column < TOGETHER; column += LANES) {
            const int first = column % SUBS;
            const int weight = (run + column / SUBS) * RUN;
            const Floats unit = inverse(lanes(choice.scale + first) * lanes(fit.d + first));
            Floats exact[RUN], relative[RUN];
            for (int i = 0; i < RUN; ++i) {
                exact[i] = lanes(&fit.tile.value[weight + i][first]) * unit;
                relative[i] = lanes(&fit.relative[weight + i][first]);
            }
            fill_column(exact, relative, Shape::LAST_LEVEL, column, costs);
        }
        find_rows(paired_grid<Shape>(), costs, choice.code[run]);
    }
    for (int first = 0; first < SUBS; first += LANES) {
        measure<Shape>(fit, choice, first);
    }
}

inline void relate_costs(Fit& fit, int first) {
    for (int run = 0; run < SUB; run += RUN) {
        Floats largest{};
        for (int i = run; i < run + RUN; ++i) {
            largest = larger(largest, lanes(&fit.tile.cost[i][first]));
        }
        const Floats unit = UNIT_COST * inverse(largest);
        for (int i = run; i < run + RUN; ++i) {
            lanes(&fit.relative[i][first]) = lanes(&fit.tile.cost[i][first]) * unit;
        }
    }
}

// What the sub-blocks would cost under a scale about.
inline Floats estimate(const Fit& fit, int first, Floats scale) {
    const Floats unit = inverse(scale);
    Floats cost = GRID_COST * lanes(fit.cost_sum + first) * scale * scale;
    for (int i = 0; i < SUB; ++i) {
        const Floats value = lanes(&fit.tile.value[i][first]);
        const Floats error = scale * OddIntegers{HIGHEST_LEVEL}(value * unit) - value;
        cost += lanes(&fit.tile.cost[i][first]) * error * error;
    }
    return cost;
}

// Writes the scales around the fitted one, the most promising first.
inline void rank_scales(const Fit& fit, int first, float (*ranked)[SUBS]) {
    const Floats d = lanes(fit.d + first);
    const Floats exact = lanes(fit.alone + first) * inverse(d);
    const Floats middle = clamp(OddIntegers{HIGHEST_SCALE}(exact), 7.0f, HIGHEST_SCALE - 6.0f);
    Floats costs[CANDIDATES];
    for (int i = 0; i < CANDIDATES; ++i) {
        Floats scale = middle + AROUND[i];
        Floats cost = estimate(fit, first, scale * d);
        for (int j = 0; j < i; ++j) {
            const Floats other = lanes(&ranked[j][first]), other_cost = costs[j];
            const auto cheaper = cost < other_cost;
            lanes(&ranked[j][first]) = cheaper ? scale : other;
            costs[j] = cheaper ? cost : other_cost;
            scale = cheaper ? other : scale;
            cost = cheaper ? other_cost : cost;
        }
        lanes(&ranked[i][first]) = scale;
        costs[i] = cost;
    }
}

inline void keep_cheaper(Choice& best, const Choice& other, int first) {
    const auto better = lanes(other.cost + first) < lanes(best.cost + first);
    const auto keep = [&](float* kept, const float* found) {
        lanes(kept + first) = better ? lanes(found + first) : lanes(kept + first);
    };
    keep(best.scale, other.scale);
    keep(best.level_level, other.level_level);
    keep(best.value_level, other.value_level);
    keep(best.cost, other.cost);
    for (int run = 0; run < RUNS; ++run) {
        Integers& kept = integers(&best.code[run][first]);
        kept = better ? integers(&other.code[run][first]) : kept;
    }
}

template <typename Shape>
void choose_scales(Fit& fit) {
    alignas(64) float ranked[CANDIDATES][SUBS];
    for (int first = 0; first < SUBS; first += LANES) {
        rank_scales(fit, first, ranked);
        lanes(fit.choice.cost + first) = splat(3.4e38f);
    }
    for (int search = 0; search < Shape::SEARCHES; ++search) {
        Choice other;
        std::memcpy(other.scale, ranked[search], sizeof other.scale);
        choose_rows<Shape>(fit, other);
        for (int first = 0; first < SUBS; first += LANES) {
            keep_cheaper(fit.choice, other, first);
        }
    }
}

// The levels that the largest weight of a sub-block may have: the last one, and about it.
constexpr float LEVEL_TARGETS[] = {15.0f, 13.0f, 17.0f, 14.0f, 16.0f, 18.0f, 20.0f, 11.0f};
// What the largest scale of a super-block may be: less than 31, as rows may ask for a larger one.
alignas(64) constexpr float SCALE_TARGETS[16] = {25.0f, 25.5f, 26.0f, 26.5f, 24.7f, 24.5f,
                                                 24.3f, 24.0f, 23.5f, 23.0f, 22.5f, 22.0f,
                                                 21.5f, 21.0f, 20.5f, 20.0f};

// Fits the scale of each sub-block alone: as if all levels could meet or, where the weights differ
// too little for that, as their mean, so that all have the first level.
template <typename Shape>
void fit_alone(Fit& fit, int first) {
    const Floats scale =
        fit_coarse_scale(fit.tile, first, LEVEL_TARGETS, OddIntegers{HIGHEST_LEVEL}, 1);
    if (Shape::EVEN_SIGNS) {
        make_signs_even(fit, first);
    }
    Floats cost_sum{}, value_sum{}, flat_cost{};
    for (int i = 0; i < SUB; ++i) {
        cost_sum += lanes(&fit.tile.cost[i][first]);
        value_sum += lanes(&fit.tile.cost[i][first]) * lanes(&fit.tile.value[i][first]);
    }
    const Floats mean = larger(divide(value_sum, cost_sum), Floats{});
    for (int i = 0; i < SUB; ++i) {
        const Floats error = lanes(&fit.tile.value[i][first]) - mean;
        flat_cost += lanes(&fit.tile.cost[i][first]) * error * error;
    }
    lanes(fit.cost_sum + first) = cost_sum;
    lanes(fit.alone + first) = flat_cost < estimate(fit, first, scale) ? mean : scale;
}

template <typename Shape>
void start_scales(Fit& fit) {
    alignas(64) float weight[SUBS];  // what an error of each scale costs, about
    for (int first = 0; first < SUBS; first += LANES) {
        fit_alone<Shape>(fit, first);
        const Floats unit = inverse(lanes(fit.alone + first));
        Floats square_sum{};
        for (int i = 0; i < SUB; ++i) {
            const Floats exact = lanes(&fit.tile.value[i][first]) * unit;
            square_sum += lanes(&fit.tile.cost[i][first]) * exact * exact;
        }
        lanes(weight + first) = square_sum;
    }
    for (int first = 0; first < SUBS; first += SUBS_OF_SUPER) {
        const float d = best_step(fit.alone + first, weight + first, SUBS_OF_SUPER,
                                  largest_of(fit.alone + first, SUBS_OF_SUPER), SCALE_TARGETS,
                                  OddIntegers{HIGHEST_SCALE});
        for (int i = first; i < first + SUBS_OF_SUPER; ++i) {
            fit.d[i] = d;
        }
    }
}

// Fits the d of each super-block to the rows that were chosen, and keeps what is cheaper.
template <typename Shape>
void refit_d(Fit& fit) {
    float d_before[SUBS], costs_before[SUBS];
    std::memcpy(d_before, fit.d, sizeof fit.d);
    std::memcpy(costs_before, fit.choice.cost, sizeof fit.choice.cost);
    for (int start = 0; start < SUBS; start += SUBS_OF_SUPER) {
        double square = 0, product = 0;
        for (int i = start; i < start + SUBS_OF_SUPER; ++i) {
            const double scale = fit.choice.scale[i];
            square += scale * scale * fit.choice.level_level[i];
            product += scale * fit.choice.value_level[i];
        }
        for (int i = start; i < start + SUBS_OF_SUPER && square > 0 && product > 0; ++i) {
            fit.d[i] = round_to_half(static_cast<float>(product / square));
        }
    }
    for (int first = 0; first < SUBS; first += LANES) {
        measure<Shape>(fit, fit.choice, first);
    }
    for (int start = 0; start < SUBS; start += SUBS_OF_SUPER) {
        float cost = 0, cost_before = 0;
        for (int i = start; i < start + SUBS_OF_SUPER; ++i) {
            cost += fit.choice.cost[i];
            cost_before += costs_before[i];
        }
        for (int i = start; i < start + SUBS_OF_SUPER && cost_before < cost; ++i) {
            fit.d[i] = d_before[i];
        }
    }
}

template <typename Shape>
void fit_tile(Fit& fit) {
    for (int first = 0; first < SUBS; first += LANES) {
        split_signs(fit, first);
        relate_costs(fit, first);
    }
    start_scales<Shape>(fit);
    choose_scales<Shape>(fit);
    for (int first = 0; first < SUBS && Shape::EVEN_SIGNS; first += LANES) {
        turn_cheaper_ones<Shape>(fit, first);
        measure<Shape>(fit, fit.choice, first);
    }
    refit_d<Shape>(fit);
}

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET::iq3
