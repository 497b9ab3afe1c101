// The search behind IQ1_S and IQ1_M: value = d * integer * (code + shift), with codes -1, 0 and 1
// of which runs of eight form rows of a grid, and shifts of -1/8 or 1/8.
//
// Sub-blocks are fitted as if all codes were allowed, d follows from the fits, and the integers
// from d. Runs whose nearest codes are no row of the grid then take the row that costs least. With
// rows found, integers and d are fitted again.
#pragma once

#include "super_blocks.h"
#include "ternary_grid.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET {

constexpr float SHIFT = 0.125f;
constexpr float HIGHEST_INTEGER = 15;

// What is stored of a tile's sub-blocks, and sums to fit scales again: of squares of code + shift,
// and of its products with the values, by cost.
template <int N>
struct TernaryFit {
    static constexpr int RUNS = N / RUN;
    alignas(64) float scale[SUBS];  // of each sub-block alone, then what rows are chosen for
    alignas(64) float integer[SUBS];
    alignas(64) float code_code[SUBS], value_code[SUBS];
    alignas(64) float shift[RUNS][SUBS];
    float d[SUBS];  // of the super-block, repeated for its sub-blocks
    std::int16_t row[SUBS][RUNS];
};

struct Products {
    Floats code_code, value_code;

    void add(Floats cost, Floats value, Floats code) {
        const Floats weighted = cost * code;
        code_code += weighted * code;
        value_code += weighted * value;
    }
    Floats cost_of(Floats scale) const {  // beyond that of storing zeros
        return scale * (scale * code_code - 2.0f * value_code);
    }
};

// IQ1_S has one shift for all runs of a sub-block, IQ1_M one for each.
template <int N>
constexpr int RUNS_OF_SHIFT = N == 32 ? 4 : 1;

// Sums over the weights that share a shift, with nearest codes, for the better shift of the two.
template <int N>
Products best_shift(const Tile<N>& tile, int first, int start, Floats scale, Floats inverse_scale,
                    Floats& shift) {
    Products both[2]{};
    for (int i = start; i < start + RUN * RUNS_OF_SHIFT<N>; ++i) {
        const Floats value = lanes(&tile.value[i][first]);
        const Floats cost = lanes(&tile.cost[i][first]);
        const Floats exact = value * inverse_scale;
        both[0].add(cost, value, nearest_code(exact - SHIFT) + SHIFT);
        both[1].add(cost, value, nearest_code(exact + SHIFT) - SHIFT);
    }
    const auto below = both[1].cost_of(scale) < both[0].cost_of(scale);
    shift = below ? splat(-SHIFT) : splat(SHIFT);
    return {below ? both[1].code_code : both[0].code_code,
            below ? both[1].value_code : both[0].value_code};
}

// Sums over whole sub-blocks, each shift the better one.
template <int N>
Products nearest_products(const Tile<N>& tile, int first, Floats scale) {
    Products sum{};
    const Floats inverse_scale = inverse(scale);
    for (int start = 0; start < N; start += RUN * RUNS_OF_SHIFT<N>) {
        Floats shift;
        const Products some = best_shift(tile, first, start, scale, inverse_scale, shift);
        sum.code_code += some.code_code;
        sum.value_code += some.value_code;
    }
    return sum;
}

// The least magnitudes that are not stored as zeros, as parts of the largest.
constexpr float THRESHOLDS[4] = {0.7f, 0.45f, 0.28f, 0.17f};
// Values of 1 are 1.125 or 0.875 with a shift, so that a scale with it is smaller or larger.
constexpr float PARTS_OF_SCALE[] = {0.9f, 1.1f};

// Fits scales as if there were no shifts.
template <int N>
Floats fit_unshifted(const Tile<N>& tile, int first) {
    const Floats extreme = magnitude(extreme_of(tile, first));
    Floats cost_sum[4]{}, product[4]{};
    for (int i = 0; i < N; ++i) {
        const Floats value = magnitude(lanes(&tile.value[i][first]));
        const Floats cost = lanes(&tile.cost[i][first]);
        const Floats weighted = cost * value;
        for (int j = 0; j < 4; ++j) {
            const auto kept = value > extreme * THRESHOLDS[j];
            cost_sum[j] += kept ? cost : Floats{};
            product[j] += kept ? weighted : Floats{};
        }
    }
    Floats best_scale{}, best_gain{};
    for (int j = 0; j < 4; ++j) {
        const Floats scale = divide(product[j], cost_sum[j]);
        const Floats gain = scale * product[j];
        best_scale = gain > best_gain ? scale : best_scale;
        best_gain = larger(gain, best_gain);
    }
    return best_scale;
}

// Fits sub-blocks alone, as if all codes were allowed.
template <int N>
void fit_alone(const Tile<N>& tile, int first, TernaryFit<N>& fit) {
    const Floats start = fit_unshifted(tile, first);
    Floats best_scale{}, best_gain{}, best_square{};
    for (float part : PARTS_OF_SCALE) {
        const Products sum = nearest_products(tile, first, start * part);
        const Floats scale = divide(sum.value_code, sum.code_code);
        const Floats gain = scale * sum.value_code;
        const auto better = (gain > best_gain) & (scale > Floats{});
        best_gain = better ? gain : best_gain;
        best_scale = better ? scale : best_scale;
        best_square = better ? sum.code_code : best_square;
    }
    lanes(fit.scale + first) = best_scale;
    lanes(fit.code_code + first) = best_square;
}

inline float nearest_integer(float exact) {
    return clamp(2.0f * nearest(0.5f * (exact - 1.0f)) + 1.0f, 1.0f, HIGHEST_INTEGER);
}
// The integers that the largest scale of a super-block may have.
alignas(64) constexpr float INTEGER_TARGETS[] = {15.0f, 14.5f, 15.5f, 14.0f, 16.0f, 13.0f,
                                                 12.0f, 11.0f, 17.0f, 10.0f, 9.0f,  8.0f,
                                                 7.0f,  6.0f,  5.0f,  3.0f};

// Chooses integers and shifts under d.
template <int N>
void choose_integers(const Tile<N>& tile, int first, TernaryFit<N>& fit) {
    const Floats d = lanes(fit.d + first);
    const Floats integer = OddIntegers{HIGHEST_INTEGER}(lanes(fit.scale + first) * inverse(d));
    const Floats scale = d * integer;
    lanes(fit.integer + first) = integer;
    lanes(fit.scale + first) = scale;
    const Floats inverse_scale = inverse(scale);
    for (int start = 0; start < N; start += RUN * RUNS_OF_SHIFT<N>) {
        Floats shift;
        best_shift(tile, first, start, scale, inverse_scale, shift);
        for (int run = 0; run < RUNS_OF_SHIFT<N>; ++run) {
            lanes(&fit.shift[start / RUN + run][first]) = shift;
        }
    }
}

// Finds the grid row of every run.
template <int N>
void find_rows(const Loaded<N>& loaded, const TernaryGrid& grid,
               Lookups<SUBS * N / RUN>& lookups, TernaryFit<N>& fit) {
    lookups.count = 0;
    for (int run = 0; run < N / RUN; ++run) {
        alignas(64) float number[SUBS];
        for (int first = 0; first < SUBS; first += LANES) {
            const Floats inverse_scale = inverse(lanes(fit.scale + first));
            const Floats shift = lanes(&fit.shift[run][first]);
            Floats digits{};
            for (int i = 0; i < RUN; ++i) {
                const Floats value = lanes(&loaded.tile.value[run * RUN + i][first]);
                digits = digits * 3.0f + nearest_code(value * inverse_scale - shift);
            }
            lanes(number + first) = digits + static_cast<float>(RUNS_OF_CODES / 2);
        }
        for (int sub = 0; sub < SUBS; ++sub) {
            const std::int16_t row = grid.place[static_cast<int>(number[sub])];
            fit.row[sub][run] = row;
            if (row < 0) {
                const int start = sub * N + run * RUN;
                lookups.add(loaded.value + start, loaded.cost + start, fit.scale[sub],
                            fit.shift[run][sub], -1 - row, &fit.row[sub][run]);
            }
        }
    }
    look_up(grid, lookups);
}

// Sums the products of values with the rows found.
template <int N>
void sum_rows(const Loaded<N>& loaded, TernaryFit<N>& fit) {
    alignas(64) float codes[N * SUBS];
    for (int sub = 0; sub < SUBS; ++sub) {
        for (int run = 0; run < N / RUN; ++run) {
            const std::int8_t* row = grids.iq1 + fit.row[sub][run] * RUN;
            for (int i = 0; i < RUN; ++i) {
                codes[sub * N + run * RUN + i] = static_cast<float>(row[i]) + fit.shift[run][sub];
            }
        }
    }
    Tile<N> turned;
    transpose<N>(codes, turned.value);
    for (int first = 0; first < SUBS; first += LANES) {
        Products sum{};
        for (int i = 0; i < N; ++i) {
            sum.add(lanes(&loaded.tile.cost[i][first]), lanes(&loaded.tile.value[i][first]),
                    lanes(&turned.value[i][first]));
        }
        lanes(fit.code_code + first) = sum.code_code;
        lanes(fit.value_code + first) = sum.value_code;
    }
}

// Fits integers and d to the rows of one super-block, whose sub-blocks are `first` to `end`.
template <int N>
void refit(TernaryFit<N>& fit, int first, int end) {
    double square = 0, product = 0;
    for (int i = first; i < end; ++i) {
        const double integer = fit.integer[i];
        square += integer * integer * fit.code_code[i];
        product += integer * fit.value_code[i];
    }
    const float d = square > 0 ? round_to_half(static_cast<float>(product / square)) : fit.d[first];
    const float unit = inverse(d);
    for (int i = first; i < end; ++i) {
        const float alone = fit.code_code[i] > 0 ? fit.value_code[i] / fit.code_code[i] : 0.0f;
        fit.d[i] = d;
        fit.integer[i] = nearest_integer(alone * unit);
    }
}

// Finds what to store of a tile.
template <int N>
void fit_ternary(const Loaded<N>& loaded, const TernaryGrid& grid,
                 Lookups<SUBS * N / RUN>& lookups, TernaryFit<N>& fit) {
    constexpr int COUNT = SUPER / N;
    for (int first = 0; first < SUBS; first += LANES) {
        fit_alone(loaded.tile, first, fit);
    }
    for (int first = 0; first < SUBS; first += COUNT) {
        const float d = best_step(fit.scale + first, fit.code_code + first, COUNT,
                                  largest_of(fit.scale + first, COUNT), INTEGER_TARGETS,
                                  OddIntegers{HIGHEST_INTEGER});
        for (int i = first; i < first + COUNT; ++i) {
            fit.d[i] = d;
        }
    }
    for (int first = 0; first < SUBS; first += LANES) {
        choose_integers(loaded.tile, first, fit);
    }
    find_rows(loaded, grid, lookups, fit);
    sum_rows(loaded, fit);
    for (int first = 0; first < SUBS; first += COUNT) {
        for (int round = 0; round < 2; ++round) {
            refit(fit, first, first + COUNT);
        }
    }
}

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
