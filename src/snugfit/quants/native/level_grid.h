// The nearest row of a grid under costs of one's own, for many runs of eight weights at once, where
// every weight has one of three levels.
//
// The cost of a row is that of its first four weights plus that of its last four. There are only 81
// such halves, so the search tabulates what each would cost, and takes for every first half the
// cheapest of the second halves that occur with it. Many first halves share such second halves:
// their minima are found once. A vector holds one number of each of LANES runs.
#pragma once

#include <cstdint>

#include "search.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET {

typedef std::int32_t Ints __attribute__((vector_size(4 * LANES), may_alias));

inline Ints& ints(std::int32_t* first) { return *reinterpret_cast<Ints*>(first); }
inline Ints ints(const std::int32_t* first) { return *reinterpret_cast<const Ints*>(first); }
inline Ints smaller(Ints a, Ints b) { return a < b ? a : b; }

constexpr int RUN = 8;      // weights of a row
constexpr int HALVES = 81;  // 3^4
constexpr int PATTERNS = HALVES * HALVES;
constexpr int MOST_ROWS = 2048;
constexpr int MOST_SHARED = 80;

// Levels of a row are the digits 0..2 of its pattern, a number in base three, the first the last.
struct LevelGrid {
    // Of the minima that are found once, which two they are of: second halves by their number, or
    // shared minima from HALVES on.
    int shared;
    std::uint8_t left[MOST_SHARED], right[MOST_SHARED];
    // The minima that each first half needs: nodes start[half] to start[half + 1].
    std::uint16_t start[HALVES + 1];
    std::uint8_t node[MOST_ROWS];
    std::uint16_t row[PATTERNS];

    LevelGrid(const std::int8_t* grid, int rows, const float (&levels)[3]) {
        Needed needed{};
        for (int i = 0; i < rows; ++i) {
            int pattern = 0;
            for (int weight = RUN - 1; weight >= 0; --weight) {
                const std::int8_t level = grid[i * RUN + weight];
                pattern = 3 * pattern + (level == levels[1]) + 2 * (level == levels[2]);
            }
            row[pattern] = static_cast<std::uint16_t>(i);
            needed[pattern / HALVES][pattern % HALVES] = 1;
        }
        share(needed);
        int count = 0;
        for (int half = 0; half < HALVES; ++half) {
            start[half] = static_cast<std::uint16_t>(count);
            for (int i = 0; i < HALVES + shared; ++i) {
                if (needed[i][half]) {
                    node[count++] = static_cast<std::uint8_t>(i);
                }
            }
        }
        start[HALVES] = static_cast<std::uint16_t>(count);
    }

private:
    // Which first halves need which node: 0 or 1.
    using Needed = std::uint8_t[HALVES + MOST_SHARED][HALVES];

    // Again and again takes the two nodes that most first halves need together for a new one.
    void share(Needed& needed) {
        for (shared = 0; shared < MOST_SHARED; ++shared) {
            const int nodes = HALVES + shared;
            int most = 2;  // fewer are not worth storing
            for (int a = 0; a < nodes; ++a) {
                for (int b = 0; b < a; ++b) {
                    int count = 0;
                    for (int half = 0; half < HALVES; ++half) {
                        count += needed[a][half] & needed[b][half];
                    }
                    if (count > most) {
                        most = count;
                        left[shared] = static_cast<std::uint8_t>(a);
                        right[shared] = static_cast<std::uint8_t>(b);
                    }
                }
            }
            if (most == 2) {
                return;
            }
            for (int half = 0; half < HALVES; ++half) {
                std::uint8_t &a = needed[left[shared]][half], &b = needed[right[shared]][half];
                const std::uint8_t both = a & b;
                needed[nodes][half] = both;
                a ^= both;
                b ^= both;
            }
        }
    }
};

// Costs are whole numbers with the pattern in their last bits, so that a minimum brings it along.
constexpr int PATTERN_BITS = 13;
constexpr float LARGEST_COST = (1 << (31 - PATTERN_BITS)) - 16;

// Two runs of each sub-block of a tile are searched at once: enough to hide the latency of a
// minimum, and few enough for their costs to stay in the first cache.
constexpr int RUNS = 2 * SUBS;
struct HalvesCosts {
    alignas(64) std::int32_t first[HALVES][RUNS];
    alignas(64) std::int32_t second[HALVES + MOST_SHARED][RUNS];
};

// Sums the costs of four weights' levels for all of their halves.
inline void sum_halves(const Ints (*level_cost)[3], std::int32_t* to) {
    Ints low[9];
    for (int pair = 0; pair < 9; ++pair) {
        low[pair] = level_cost[0][pair % 3] + level_cost[1][pair / 3];
    }
    for (int high = 0; high < 9; ++high) {
        const Ints high_cost = level_cost[2][high % 3] + level_cost[3][high / 3];
        for (int pair = 0; pair < 9; ++pair, to += RUNS) {
            ints(to) = low[pair] + high_cost;
        }
    }
}

// Tabulates what the halves cost LANES runs, whose weights are SUBS floats apart, under a scale.
// Costs count from the least of each weight, as parts of the largest that a row could have.
inline void cost_halves(const float* value, const float* cost, Floats scale,
                        const float (&levels)[3], std::int32_t* first, std::int32_t* second) {
    Floats level_cost[RUN][3], least[RUN], largest{};
    const Floats scaled[3] = {scale * levels[0], scale * levels[1], scale * levels[2]};
    for (int i = 0; i < RUN; ++i) {
        for (int level = 0; level < 3; ++level) {
            const Floats error = scaled[level] - lanes(value + i * SUBS);
            level_cost[i][level] = lanes(cost + i * SUBS) * error * error;
        }
        least[i] = smaller(smaller(level_cost[i][0], level_cost[i][2]), level_cost[i][1]);
        largest += larger(level_cost[i][0], level_cost[i][2]) - least[i];
    }
    const Floats unit = largest > splat(1e-30f) ? LARGEST_COST / largest : Floats{};
    Ints whole[RUN][3];
    int place = 1;
    for (int i = 0; i < RUN; ++i, place *= 3) {
        for (int level = 0; level < 3; ++level) {
            const Floats exact = (level_cost[i][level] - least[i]) * unit;
            whole[i][level] =
                (__builtin_convertvector(exact, Ints) << PATTERN_BITS) + place * level;
        }
    }
    sum_halves(whole, first);
    sum_halves(whole + 4, second);
}

// Writes the cheapest pattern of each run.
inline void cheapest_patterns(const LevelGrid& grid, HalvesCosts& costs, std::int32_t* patterns) {
    constexpr int VECTORS = RUNS / LANES < 4 ? RUNS / LANES : 4;  // what registers hold
    for (int i = 0; i < grid.shared; ++i) {
        const std::int32_t* left = costs.second[grid.left[i]];
        const std::int32_t* right = costs.second[grid.right[i]];
        for (int run = 0; run < RUNS; run += LANES) {
            ints(costs.second[HALVES + i] + run) = smaller(ints(left + run), ints(right + run));
        }
    }
    for (int run = 0; run < RUNS; run += VECTORS * LANES) {
        Ints best[VECTORS];
        for (int v = 0; v < VECTORS; ++v) {
            best[v] = Ints{} + 0x7fffffff;
        }
        for (int half = 0; half < HALVES; ++half) {
            const int end = grid.start[half + 1];
            int i = grid.start[half];
            if (i == end) {
                continue;
            }
            Ints least[VECTORS];
            for (int v = 0; v < VECTORS; ++v) {
                least[v] = ints(costs.second[grid.node[i]] + run + v * LANES);
            }
            for (++i; i < end; ++i) {
                for (int v = 0; v < VECTORS; ++v) {
                    least[v] =
                        smaller(least[v], ints(costs.second[grid.node[i]] + run + v * LANES));
                }
            }
            for (int v = 0; v < VECTORS; ++v) {
                best[v] = smaller(best[v], ints(costs.first[half] + run + v * LANES) + least[v]);
            }
        }
        for (int v = 0; v < VECTORS; ++v) {
            ints(patterns + run + v * LANES) = best[v] & ((1 << PATTERN_BITS) - 1);
        }
    }
}

// The cheapest patterns of all runs of a tile, under a scale for each sub-block. Weight i of run k
// of a sub-block is its weight 8 * k + i.
template <int N>
void choose_patterns(const LevelGrid& grid, const float (&levels)[3], const Tile<N>& tile,
                     const float* scale, std::int32_t (*patterns)[SUBS]) {
    HalvesCosts costs;
    for (int run = 0; run < N / RUN; run += RUNS / SUBS) {
        for (int place = 0; place < RUNS; place += LANES) {
            const int weight = (run + place / SUBS) * RUN, sub = place % SUBS;
            cost_halves(&tile.value[weight][sub], &tile.cost[weight][sub], lanes(scale + sub),
                        levels, costs.first[0] + place, costs.second[0] + place);
        }
        cheapest_patterns(grid, costs, patterns[run]);
    }
}

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
