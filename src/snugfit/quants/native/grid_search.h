// The nearest row of a grid, under costs of one's own, for many runs of weights at once.
//
// A row's two halves are numbered by their values, and the cost of a row is that of its first half
// plus that of its second. So the search tabulates what every half would cost each run, takes for
// every first half the cheapest of the second halves that occur with it, and finds the exact least
// of all rows with about one operation a row. A vector holds one number of each of LANES runs.
#pragma once

#include <cstdint>

#include "search.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET {

// A grid's rows, ordered by their first half.
template <int HALVES, int ROWS>
struct HalvedGrid {
    std::uint16_t start[HALVES + 1];  // where each first half's rows begin
    std::uint16_t second[ROWS];
    std::uint16_t row[ROWS];  // its place in the grid

    // Counts the rows of each first half, then puts each row in its place.
    void fill(const std::uint16_t (&first_half)[ROWS], const std::uint16_t (&second_half)[ROWS]) {
        for (int half = 0; half <= HALVES; ++half) {
            start[half] = 0;
        }
        for (int i = 0; i < ROWS; ++i) {
            ++start[first_half[i] + 1];
        }
        for (int half = 0; half < HALVES; ++half) {
            start[half + 1] = static_cast<std::uint16_t>(start[half + 1] + start[half]);
        }
        std::uint16_t next[HALVES];
        for (int half = 0; half < HALVES; ++half) {
            next[half] = start[half];
        }
        for (int i = 0; i < ROWS; ++i) {
            const int place = next[first_half[i]]++;
            second[place] = second_half[i];
            row[place] = static_cast<std::uint16_t>(i);
        }
    }
};

// What each half would cost each of RUNS runs.
template <int HALVES, int RUNS>
struct HalfCosts {
    alignas(64) float first[HALVES][RUNS];
    alignas(64) float second[HALVES][RUNS];
};

// Writes the least cost of each run to `cost`, and the first half that has it to `half`.
template <int HALVES, int ROWS, int RUNS>
void least_costs(const HalvedGrid<HALVES, ROWS>& grid, const HalfCosts<HALVES, RUNS>& costs,
                 float* cost, float* half) {
    constexpr int VECTORS = RUNS / LANES < 4 ? RUNS / LANES : 4;  // what registers hold
    for (int run = 0; run < RUNS; run += VECTORS * LANES) {
        Floats best[VECTORS], best_half[VECTORS];
        for (int v = 0; v < VECTORS; ++v) {
            best[v] = splat(3.4e38f);
            best_half[v] = Floats{};
        }
        for (int first = 0; first < HALVES; ++first) {
            const int end = grid.start[first + 1];
            int i = grid.start[first];
            if (i == end) {
                continue;
            }
            Floats least[VECTORS];
            for (int v = 0; v < VECTORS; ++v) {
                least[v] = lanes(costs.second[grid.second[i]] + run + v * LANES);
            }
            for (++i; i < end; ++i) {
                for (int v = 0; v < VECTORS; ++v) {
                    least[v] =
                        smaller(lanes(costs.second[grid.second[i]] + run + v * LANES), least[v]);
                }
            }
            for (int v = 0; v < VECTORS; ++v) {
                const Floats sum = lanes(costs.first[first] + run + v * LANES) + least[v];
                const auto better = sum < best[v];
                best[v] = better ? sum : best[v];
                best_half[v] = better ? splat(static_cast<float>(first)) : best_half[v];
            }
        }
        for (int v = 0; v < VECTORS; ++v) {
            lanes(cost + run + v * LANES) = best[v];
            lanes(half + run + v * LANES) = best_half[v];
        }
    }
}

// Returns the grid row of a run whose first half least_costs has found.
template <int HALVES, int ROWS, int RUNS>
int row_of(const HalvedGrid<HALVES, ROWS>& grid, const HalfCosts<HALVES, RUNS>& costs, int run,
           float half) {
    const int first = static_cast<int>(half);
    int best = grid.start[first];
    for (int i = best + 1; i < grid.start[first + 1]; ++i) {
        best = costs.second[grid.second[i]][run] < costs.second[grid.second[best]][run] ? i : best;
    }
    return grid.row[best];
}

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
