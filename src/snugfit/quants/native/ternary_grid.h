// The grid of IQ1_S and IQ1_M: runs of eight codes -1, 0 and 1, of which it has 2048 of 6561.
//
// Runs whose nearest codes are no row of it are looked up together. The cost of a row is that of
// its first half plus that of its second: so the search tabulates what every half would cost, takes
// for every first half the cheapest of the second halves that occur with it, and finds the least of
// all rows with about one operation a row. A vector holds a 16-bit number of each of SHORT_LANES
// runs.
#pragma once

#include <cstring>
#include <initializer_list>

#include "grids.h"
#include "super_blocks.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET {

constexpr int RUN = 8;
constexpr int HALVES = 81;  // runs of four codes
constexpr int RUNS_OF_CODES = HALVES * HALVES;
constexpr int ROWS = 2048;

// A grid's rows, ordered by their first half.
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

// Runs of codes are numbered by their digits, as numbers of base 3.
struct TernaryGrid {
    HalvedGrid halved;
    std::int16_t place[RUNS_OF_CODES];  // the row, or -1 - a row nearby

    TernaryGrid() {
        std::uint16_t half[2][ROWS];
        for (std::int16_t& entry : place) {
            entry = NOWHERE;
        }
        for (int row = 0; row < ROWS; ++row) {
            for (int side = 0; side < 2; ++side) {
                int number = 0;
                for (int i = 0; i < RUN / 2; ++i) {
                    number = 3 * number + grids.iq1[row * RUN + side * RUN / 2 + i] + 1;
                }
                half[side][row] = static_cast<std::uint16_t>(number);
            }
            place[half[0][row] * HALVES + half[1][row]] = static_cast<std::int16_t>(row);
        }
        halved.fill(half[0], half[1]);
        while (spread()) {
        }
    }

  private:
    static constexpr std::int16_t NOWHERE = -1 - ROWS;

    // Gives runs without a row that of one which differs by a step; returns whether any is left.
    bool spread() {
        std::int16_t before[RUNS_OF_CODES];
        std::memcpy(before, place, sizeof before);
        bool left = false;
        for (int number = 0; number < RUNS_OF_CODES; ++number) {
            for (int power = 1; power < RUNS_OF_CODES && place[number] == NOWHERE; power *= 3) {
                const int digit = number / power % 3;
                for (int step : {digit > 0 ? -power : 0, digit < 2 ? power : 0}) {
                    const std::int16_t row = before[number + step];
                    if (row != NOWHERE) {
                        place[number] = static_cast<std::int16_t>(row < 0 ? row : -1 - row);
                    }
                }
            }
            left |= place[number] == NOWHERE;
        }
        return left;
    }
};

// Derived from the grid once, when it has been loaded.
inline const TernaryGrid& ternary_grid() {
    static const TernaryGrid grid;
    return grid;
}

inline Floats nearest_code(Floats exact) { return clamp(nearest(exact), -1.0f, 1.0f); }

typedef std::int16_t Shorts __attribute__((vector_size(4 * LANES), may_alias));
typedef std::int16_t HalfShorts __attribute__((vector_size(2 * LANES), may_alias));
typedef std::int32_t Ints __attribute__((vector_size(4 * LANES)));
constexpr int SHORT_LANES = 2 * LANES;

inline Shorts& shorts(std::int16_t* first) { return *reinterpret_cast<Shorts*>(first); }
inline Shorts shorts(const std::int16_t* first) { return *reinterpret_cast<const Shorts*>(first); }
inline Shorts smaller(Shorts a, Shorts b) { return a < b ? a : b; }

// Runs to look up in the grid, as they lie in the row, and where the row found goes.
template <int CAPACITY>
struct Lookups {
    int count = 0;
    alignas(64) float value[CAPACITY * RUN];
    alignas(64) float cost[CAPACITY * RUN];
    alignas(64) std::int8_t nearby[CAPACITY * RUN];  // codes of a row that is good, if not best
    alignas(64) float inverse_scale[CAPACITY];
    alignas(64) float shift[CAPACITY];
    std::int16_t* to[CAPACITY];

    void add(const float* values, const float* costs, float scale, float shifted, int nearby_row,
             std::int16_t* row) {
        std::memcpy(value + count * RUN, values, RUN * sizeof *values);
        std::memcpy(cost + count * RUN, costs, RUN * sizeof *costs);
        std::memcpy(nearby + count * RUN, grids.iq1 + nearby_row * RUN, RUN);
        inverse_scale[count] = inverse(scale);
        shift[count] = shifted;
        to[count++] = row;
    }
};

// What codes cost beyond the nearest ones: each of a run's eight, then all runs of four.
template <int RUNS>
struct CodeCosts {
    static constexpr float LARGEST_CODE_COST = 4095;  // eight fit into 16 bits
    static constexpr float NEARBY_COST = 4000;
    alignas(64) std::int16_t code[RUN][3][RUNS];
    alignas(64) std::int16_t half[2][HALVES][RUNS];

    // The best row costs no more than the one nearby, which gives the unit. So codes that cost more
    // than that may all cost the same.
    void fill_codes(const Tile<RUN>& tile, const float (&nearby)[RUN][SUBS],
                    const float* inverse_scale, const float* shift, int start) {
        for (int run = 0; run < SUBS; run += LANES) {
            Floats extra[RUN][3], bound{};
            for (int i = 0; i < RUN; ++i) {
                const Floats cost = lanes(&tile.cost[i][run]);
                const Floats row_code = lanes(&nearby[i][run]);
                const Floats exact =
                    lanes(&tile.value[i][run]) * lanes(inverse_scale + run) - lanes(shift + run);
                const Floats twice = 2.0f * cost * exact;
                const Floats below = cost + twice, above = cost - twice;
                const Floats least = smaller(smaller(below, above), Floats{});
                extra[i][0] = below - least;
                extra[i][1] = -least;
                extra[i][2] = above - least;
                bound += row_code * (cost * row_code - twice) - least;
            }
            const Floats unit = NEARBY_COST / larger(bound, splat(1e-30f));
            for (int i = 0; i < 3 * RUN; ++i) {
                const Floats units = smaller(extra[i / 3][i % 3] * unit, splat(LARGEST_CODE_COST));
                *reinterpret_cast<HalfShorts*>(&code[i / 3][i % 3][start + run]) =
                    __builtin_convertvector(__builtin_convertvector(units, Ints), HalfShorts);
            }
        }
    }

    void fill_halves(int side) {
        const auto* codes = code + side * RUN / 2;
        for (int run = 0; run < RUNS; run += SHORT_LANES) {
            const auto pair = [&](int i, int first, int second) {
                return shorts(codes[i][first] + run) + shorts(codes[i + 1][second] + run);
            };
            Shorts later[3][3];
            for (int i = 0; i < 3; ++i) {
                for (int j = 0; j < 3; ++j) {
                    later[i][j] = pair(2, i, j);
                }
            }
            for (int i = 0; i < 9; ++i) {
                const Shorts earlier = pair(0, i / 3, i % 3);
                for (int j = 0; j < 9; ++j) {
                    shorts(half[side][9 * i + j] + run) = earlier + later[j / 3][j % 3];
                }
            }
        }
    }
};

// Writes the first half of each run's cheapest row.
template <int RUNS>
void find_first_halves(const HalvedGrid& grid, const CodeCosts<RUNS>& costs,
                       std::int16_t* half) {
    constexpr int VECTORS = RUNS / SHORT_LANES;
    Shorts best[VECTORS], best_half[VECTORS];
    for (int v = 0; v < VECTORS; ++v) {
        best[v] = Shorts{} + std::int16_t{0x7fff};
        best_half[v] = Shorts{};
    }
    for (int first = 0; first < HALVES; ++first) {
        Shorts least[VECTORS], other_least[VECTORS];  // two, so that they need not wait
        for (int v = 0; v < VECTORS; ++v) {
            least[v] = other_least[v] = Shorts{} + std::int16_t{0x3fff};
        }
        const int end = grid.start[first + 1];
        for (int i = grid.start[first]; i < end; i += 2) {
            const std::int16_t* second = costs.half[1][grid.second[i]];
            const std::int16_t* other = costs.half[1][grid.second[i + 1 < end ? i + 1 : i]];
            for (int v = 0; v < VECTORS; ++v) {
                least[v] = smaller(shorts(second + v * SHORT_LANES), least[v]);
                other_least[v] = smaller(shorts(other + v * SHORT_LANES), other_least[v]);
            }
        }
        for (int v = 0; v < VECTORS; ++v) {
            const Shorts sum = shorts(costs.half[0][first] + v * SHORT_LANES) +
                               smaller(least[v], other_least[v]);
            const Shorts better = sum < best[v];
            best[v] = smaller(sum, best[v]);
            best_half[v] = better ? Shorts{} + static_cast<std::int16_t>(first) : best_half[v];
        }
    }
    for (int v = 0; v < VECTORS; ++v) {
        shorts(half + v * SHORT_LANES) = best_half[v];
    }
}

// Returns the cheapest row of those that start with a half.
template <int RUNS>
std::int16_t find_row(const HalvedGrid& grid, const CodeCosts<RUNS>& costs, int run,
                      int half) {
    const int start = grid.start[half], count = grid.start[half + 1] - start;
    int least = 0x7fffffff;  // costs, and places below them
    for (int i = 0; i < count; ++i) {
        const int cost = costs.half[1][grid.second[start + i]][run] * HALVES + i;
        least = cost < least ? cost : least;
    }
    return static_cast<std::int16_t>(grid.row[start + least % HALVES]);
}

template <int RUNS, int CAPACITY>
void look_up_some(const TernaryGrid& grid, const Lookups<CAPACITY>& lookups, int start) {
    CodeCosts<RUNS> costs;
    for (int some = 0; some < RUNS; some += SUBS) {
        const int from = start + some;
        Tile<RUN> tile;
        alignas(64) float codes[SUBS * RUN], nearby[RUN][SUBS];
        for (int i = 0; i < SUBS * RUN; ++i) {
            codes[i] = static_cast<float>(lookups.nearby[from * RUN + i]);
        }
        transpose<RUN>(lookups.value + from * RUN, tile.value);
        transpose<RUN>(lookups.cost + from * RUN, tile.cost);
        transpose<RUN>(codes, nearby);
        costs.fill_codes(tile, nearby, lookups.inverse_scale + from, lookups.shift + from, some);
    }
    costs.fill_halves(0);
    costs.fill_halves(1);
    alignas(64) std::int16_t half[RUNS];
    find_first_halves(grid.halved, costs, half);
    const int left = lookups.count - start;
    for (int run = 0; run < RUNS && run < left; ++run) {
        *lookups.to[start + run] = find_row(grid.halved, costs, run, half[run]);
    }
}

template <int CAPACITY>
void look_up(const TernaryGrid& grid, const Lookups<CAPACITY>& lookups) {
    int start = 0;
    for (; lookups.count - start > 16; start += 32) {
        look_up_some<32>(grid, lookups, start);
    }
    if (start < lookups.count) {
        look_up_some<SHORT_LANES <= 16 ? 16 : 32>(grid, lookups, start);
    }
}

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
