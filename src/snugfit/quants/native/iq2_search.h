// Scales and grid rows of IQ2_XXS, IQ2_XS and IQ2_S: magnitude = step * multiple * level, where a
// super-block's step is d / 8 and a sub-block's multiple is an odd integer.
//
// The search fits every sub-block alone: first with the nearest levels, whether the grid has them
// or not, then with the nearest rows under a few scales around. The step comes from those scales;
// rows are then chosen under its multiples, and the step is fitted again to them.
#pragma once

#include "level_grid.h"
#include "super_blocks.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET {

constexpr float LEVELS[3] = {8, 25, 43};
constexpr float HIGHEST_MULTIPLE = 31;

// What the largest magnitude of a sub-block may be, in units of its scale.
constexpr float LEVEL_TARGETS[] = {43.0f, 36.0f, 51.0f, 62.0f, 80.0f};
// What the largest scale of a super-block may be, in units of its step.
alignas(64) constexpr float STEP_TARGETS[16] = {31.0f, 31.6f, 30.4f, 29.8f, 29.2f, 28.6f,
                                                28.0f, 27.4f, 26.7f, 26.0f, 25.0f, 24.0f,
                                                32.4f, 33.3f, 35.0f, 38.0f};

// What is stored of the sub-blocks of a tile, what that costs, and sums to fit scales again.
template <int N>
struct RowFit {
    alignas(64) float step[SUBS];  // of the super-block, repeated for its sub-blocks
    alignas(64) float multiple[SUBS];
    alignas(64) float cost[SUBS], level_level[SUBS], value_level[SUBS];
    alignas(64) std::int32_t pattern[N / RUN][SUBS];

    void take(const RowFit& other, int sub) {
        multiple[sub] = other.multiple[sub];
        cost[sub] = other.cost[sub];
        level_level[sub] = other.level_level[sub];
        value_level[sub] = other.value_level[sub];
        for (int run = 0; run < N / RUN; ++run) {
            pattern[run][sub] = other.pattern[run][sub];
        }
    }
};

// The scales of sub-blocks alone, and what squares of their changes cost.
struct SubFit {
    alignas(64) float scale[SUBS], weight[SUBS];
};

struct NearestLevel {
    Floats operator()(Floats exact) const {
        const Floats upper = exact < splat(34.0f) ? splat(LEVELS[1]) : splat(LEVELS[2]);
        return exact < splat(16.5f) ? splat(LEVELS[0]) : upper;
    }
};

// Takes the last digit off patterns, and returns its level.
inline Floats next_level(Ints& patterns) {
    const Ints third = patterns * 21846 >> 16;  // exact for numbers of 13 bits
    const Ints digit = patterns - third * 3;
    patterns = third;
    return __builtin_convertvector(digit * 17 + 8 + (digit >> 1), Floats);
}

// Finds the nearest rows under the scale of each sub-block. Costs are summed anew, as those that
// the search compares are not exact.
template <int N>
void choose_rows(const LevelGrid& grid, const Tile<N>& tile, const float* scale, RowFit<N>& fit) {
    choose_patterns(grid, LEVELS, tile, scale, fit.pattern);
    for (int sub = 0; sub < SUBS; sub += LANES) {
        const Floats scales = lanes(scale + sub);
        Floats cost_sum{}, level_level{}, value_level{};
        for (int run = 0; run < N / RUN; ++run) {
            Ints patterns = ints(&fit.pattern[run][sub]);
            for (int i = run * RUN; i < (run + 1) * RUN; ++i) {
                const Floats level = next_level(patterns);
                const Floats value = lanes(&tile.value[i][sub]);
                const Floats cost = lanes(&tile.cost[i][sub]);
                const Floats error = scales * level - value;
                const Floats weighted = cost * level;
                cost_sum += cost * error * error;
                level_level += weighted * level;
                value_level += weighted * value;
            }
        }
        lanes(fit.cost + sub) = cost_sum;
        lanes(fit.level_level + sub) = level_level;
        lanes(fit.value_level + sub) = value_level;
    }
}

// Rounds as d is rounded, of which it is an eighth.
struct RoundStep {
    template <typename Number>
    Number operator()(Number step) const {
        return round_to_half(step * 8.0f) * 0.125f;
    }
};

// Fits the scale of each sub-block alone. Each factor changes the scales where the search starts.
template <int N, int FACTORS>
void fit_alone(const LevelGrid& grid, const Tile<N>& tile, const float (&factors)[FACTORS],
               RowFit<N>& fit, SubFit& alone) {
    alignas(64) float start[SUBS], scale[SUBS], gain[SUBS] = {};
    for (int sub = 0; sub < SUBS; ++sub) {
        start[sub] = alone.scale[sub];
        alone.scale[sub] = alone.weight[sub] = 0;
    }
    for (float factor : factors) {
        for (int sub = 0; sub < SUBS; ++sub) {
            scale[sub] = factor * start[sub];
        }
        choose_rows(grid, tile, scale, fit);
        for (int sub = 0; sub < SUBS; sub += LANES) {
            const Floats value_level = lanes(fit.value_level + sub);
            const Floats fitted = divide(value_level, lanes(fit.level_level + sub));
            const Floats saved = fitted * value_level;  // against storing zeros
            const auto better = (saved > lanes(gain + sub)) & (fitted > Floats{});
            const auto keep = [&](float* kept, Floats value) {
                lanes(kept + sub) = better ? value : lanes(kept + sub);
            };
            keep(gain, saved);
            keep(alone.scale, fitted);
            keep(alone.weight, lanes(fit.level_level + sub));
        }
    }
}

// Chooses between the two odd integers next to each scale under the super-block's step.
template <int N>
void choose_multiples(const LevelGrid& grid, const Tile<N>& tile, const SubFit& alone,
                      RowFit<N>& fit) {
    RowFit<N> other = fit;
    alignas(64) float scale[SUBS], other_scale[SUBS];
    for (int sub = 0; sub < SUBS; sub += LANES) {
        const Floats step = lanes(fit.step + sub);
        const Floats exact = lanes(alone.scale + sub) * inverse(step);
        const Floats multiple = OddIntegers{HIGHEST_MULTIPLE}(exact);
        const Floats next = multiple + (exact > multiple ? splat(2) : splat(-2));
        lanes(fit.multiple + sub) = multiple;
        lanes(other.multiple + sub) = clamp(next, 1, HIGHEST_MULTIPLE);
        lanes(scale + sub) = multiple * step;
        lanes(other_scale + sub) = lanes(other.multiple + sub) * step;
    }
    choose_rows(grid, tile, scale, fit);
    choose_rows(grid, tile, other_scale, other);
    for (int sub = 0; sub < SUBS; ++sub) {
        if (other.cost[sub] < fit.cost[sub]) {
            fit.take(other, sub);
        }
    }
}

// Returns the step that fits the rows of sub-blocks `first` to `end`, under their multiples.
template <int N>
float refit_step(const RowFit<N>& fit, int first, int end) {
    double square = 0, product = 0;
    for (int i = first; i < end; ++i) {
        const double multiple = fit.multiple[i];
        square += multiple * multiple * fit.level_level[i];
        product += multiple * fit.value_level[i];
    }
    return product > 0 ? RoundStep{}(static_cast<float>(product / square)) : fit.step[first];
}

// Finds the step, the multiples and the rows of a tile of magnitudes, from first scales.
template <int N, int FACTORS>
void fit_rows(const LevelGrid& grid, const Tile<N>& tile, const float (&factors)[FACTORS],
              SubFit& alone, RowFit<N>& fit) {
    constexpr int COUNT = SUPER / N;
    fit_alone(grid, tile, factors, fit, alone);
    for (int i = 0; i < SUBS; ++i) {
        fit.step[i] = i % COUNT > 0 ? fit.step[i - 1]
                                    : best_step(alone.scale + i, alone.weight + i, COUNT,
                                                largest_of(alone.scale + i, COUNT), STEP_TARGETS,
                                                OddIntegers{HIGHEST_MULTIPLE}, RoundStep{});
    }
    choose_multiples(grid, tile, alone, fit);
    for (int i = 0; i < SUBS; ++i) {
        fit.step[i] = i % COUNT > 0 ? fit.step[i - 1] : refit_step(fit, i, i + COUNT);
    }
}

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
