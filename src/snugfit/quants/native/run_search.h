// The nearest grid rows to runs of four weights, under costs of one's own, for IQ3.
//
// The cost of a row is that of its first pair of weights plus that of its second, and a pair has
// only 64 different levels. So the search tabulates what every second pair would cost, takes for
// every first pair the cheapest of those that occur with it, and finds the exact least of all rows
// with little more than one operation a row. A vector holds one number of each of LANES runs.
#pragma once

#include "super_blocks.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET::iq3 {

using SNUGFIT_INSTRUCTION_SET::smaller;
using SNUGFIT_INSTRUCTION_SET::splat;

constexpr int RUN = 4;
constexpr int LEVELS = 8;
constexpr int LEVEL_BITS = 3;
constexpr int PAIRS = LEVELS * LEVELS;
// The code of a row holds its four levels, the first one in the last bits.
constexpr int CODES = PAIRS * PAIRS;

typedef int Integers __attribute__((vector_size(4 * LANES), may_alias));
inline Integers& integers(int* first) { return *reinterpret_cast<Integers*>(first); }
inline Integers integers(const int* first) { return *reinterpret_cast<const Integers*>(first); }
inline Integers splat(int value) { return value + Integers{}; }
inline Integers smaller(Integers a, Integers b) { return a < b ? a : b; }

// A grid's rows, ordered by their first pair. First pairs with equally many rows follow each other,
// since loops of ever changing lengths would be mispredicted.
template <int ROWS>
struct PairedGrid {
    int pairs = 0;
    uint8_t first[PAIRS] = {};
    std::uint16_t end[PAIRS] = {};  // of the rows of each of these
    uint8_t second[ROWS] = {};
    std::uint16_t row_of[CODES] = {};

    // unit: what the grid's numbers, which are odd, are multiplied by.
    PairedGrid(const std::int8_t* grid, int unit) {
        bool known[CODES] = {};
        uint8_t seconds[PAIRS][PAIRS], counts[PAIRS] = {};
        for (int row = 0; row < ROWS; ++row) {
            int code = 0;
            for (int i = 0; i < RUN; ++i) {
                const int level = (grid[row * RUN + i] / unit - 1) / 2;
                code |= (level & (LEVELS - 1)) << (i * LEVEL_BITS);
            }
            if (!known[code]) {
                const int pair = code % PAIRS;
                seconds[pair][counts[pair]++] = static_cast<uint8_t>(code / PAIRS);
                row_of[code] = static_cast<std::uint16_t>(row);
            }
            known[code] = true;
        }
        int rows = 0;
        for (int count = 1; count <= PAIRS; ++count) {
            for (int pair = 0; pair < PAIRS; ++pair) {
                if (counts[pair] != count) {
                    continue;
                }
                std::memcpy(second + rows, seconds[pair], static_cast<std::size_t>(count));
                rows += count;
                first[pairs] = static_cast<uint8_t>(pair);
                end[pairs++] = static_cast<std::uint16_t>(rows);
            }
        }
    }
};

// Costs are integers that end in the code of what they are the cost of: sums add up the codes, and
// the least one tells which it is. A weight's costs go from 0 to MOST_COST, four of which still
// fit; an error of one unit of the weight that counts most of its run costs UNIT_COST.
constexpr int CODE_BITS = 4 * LEVEL_BITS;
constexpr int MOST_COST = (1 << (29 - CODE_BITS)) - 1;
constexpr float UNIT_COST = MOST_COST / 64;
// Beyond these, all that counts is that the first or last level is the nearest.
constexpr float LOWEST_EXACT = -3, HIGHEST_EXACT = 20;

// Runs searched at once, as many as the registers of AVX2 have room for.
constexpr int TOGETHER = 32;
static_assert(TOGETHER % SUBS == 0, "whole vectors of runs of one place");

struct PairCosts {
    alignas(64) int first[2][LEVELS][TOGETHER];  // of each weight; a pair's are added in passing
    alignas(64) int second[PAIRS][TOGETHER];
};

// What the levels 1, 3, ... 13 and `last` would cost a weight at PLACE of its run.
template <int PLACE>
struct LevelCosts {
    Integers of[LEVELS];

    LevelCosts(Floats exact, Floats cost, float last) {
        exact = clamp(exact, LOWEST_EXACT, HIGHEST_EXACT);
        for (int i = 0; i < LEVELS; ++i) {
            const Floats error = exact - (i == LEVELS - 1 ? last : static_cast<float>(2 * i + 1));
            const Integers whole = __builtin_convertvector(cost * error * error, Integers);
            of[i] = (smaller(whole, splat(MOST_COST)) << CODE_BITS) + (i << (PLACE * LEVEL_BITS));
        }
    }
};

// Fills a column of LANES runs. exact: weights in units of their scale.
inline void fill_column(const Floats (&exact)[RUN], const Floats (&cost)[RUN], float last_level,
                        int column, PairCosts& costs) {
    const LevelCosts<0> first(exact[0], cost[0], last_level);
    const LevelCosts<1> second(exact[1], cost[1], last_level);
    for (int i = 0; i < LEVELS; ++i) {
        integers(costs.first[0][i] + column) = first.of[i];
        integers(costs.first[1][i] + column) = second.of[i];
    }
    const LevelCosts<2> third(exact[2], cost[2], last_level);
    const LevelCosts<3> fourth(exact[3], cost[3], last_level);
    for (int i = 0; i < PAIRS; ++i) {
        integers(costs.second[i] + column) = third.of[i % LEVELS] + fourth.of[i / LEVELS];
    }
}

// Writes the code of the nearest row of each run.
template <int ROWS>
void find_rows(const PairedGrid<ROWS>& grid, const PairCosts& costs, int* codes) {
    constexpr int VECTORS = TOGETHER / LANES < 4 ? TOGETHER / LANES : 4;  // in registers at once
    for (int run = 0; run < TOGETHER; run += VECTORS * LANES) {
        Integers best[VECTORS], least[VECTORS];
        for (Integers& cost : best) {
            cost = splat(0x7fffffff);
        }
        for (int i = 0, row = 0; i < grid.pairs; ++i) {
            for (Integers& cost : least) {
                cost = splat(0x7fffffff);
            }
            for (; row < grid.end[i]; ++row) {
                const int* cost = costs.second[grid.second[row]] + run;
                for (int v = 0; v < VECTORS; ++v) {
                    least[v] = smaller(integers(cost + v * LANES), least[v]);
                }
            }
            const int first = grid.first[i];
            for (int v = 0; v < VECTORS; ++v) {
                const int column = run + v * LANES;
                const Integers pair = integers(costs.first[0][first % LEVELS] + column) +
                                      integers(costs.first[1][first / LEVELS] + column);
                best[v] = smaller(pair + least[v], best[v]);
            }
        }
        for (int v = 0; v < VECTORS; ++v) {
            integers(codes + run + v * LANES) = best[v] & (CODES - 1);
        }
    }
}

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET::iq3
