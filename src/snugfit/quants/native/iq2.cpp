// IQ2_XXS, IQ2_XS and IQ2_S: costs, signs, and bytes as iq_dequantize.cpp reads them.

#include <cmath>
#include <cstring>

#include "grids.h"
#include "iq2_search.h"
#include "iq_dequantize.h"
#include "kernels.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET {
namespace {

// Which weight of each run changes its sign, or -1.
template <int N>
using Flips = std::int32_t[N / RUN][SUBS];

// Replaces values by their magnitudes, and marks runs with an odd number of minus signs by 0.
template <int N>
void take_magnitudes(Tile<N>& tile, Flips<N>& flips) {
    for (int run = 0; run < N / RUN; ++run) {
        for (int sub = 0; sub < SUBS; sub += LANES) {
            Ints odd{};
            for (int i = run * RUN; i < (run + 1) * RUN; ++i) {
                Floats& value = lanes(&tile.value[i][sub]);
                odd ^= value < Floats{};
                value = magnitude(value);
            }
            ints(&flips[run][sub]) = ~odd;
        }
    }
}

// Makes the number of minus signs of every run even: the weight for which that costs least takes
// the other sign, and its magnitude counts as negative.
template <int N>
void flip_odd_runs(Tile<N>& tile, const float* scale, Flips<N>& flips) {
    for (int run = 0; run < N / RUN; ++run) {
        for (int sub = 0; sub < SUBS; sub += LANES) {
            const Floats scales = lanes(scale + sub), unit = inverse(scales);
            Floats least = splat(3.4e38f);
            Ints flip{};
            for (int i = 0; i < RUN; ++i) {
                const Floats value = lanes(&tile.value[run * RUN + i][sub]);
                const Floats error = scales * NearestLevel{}(value * unit) - value;
                const Floats other = scales * LEVELS[0] + value;
                const Floats loss =
                    lanes(&tile.cost[run * RUN + i][sub]) * (other * other - error * error);
                const auto better = loss < least;
                least = better ? loss : least;
                flip = better ? Ints{} + i : flip;
            }
            flip |= ints(&flips[run][sub]);
            for (int i = 0; i < RUN; ++i) {
                Floats& value = lanes(&tile.value[run * RUN + i][sub]);
                value = flip == i ? -value : value;
            }
            ints(&flips[run][sub]) = flip;
        }
    }
}

// The runs of a super-block, in the row's order.
struct Runs {
    int row[SUPER / RUN], signs[SUPER / RUN], integer[SUPER / RUN];
};

// A byte for two sub-blocks of 16 weights.
void pack_integers(const Runs& runs, uint8_t* bytes) {
    for (int i = 0; i < 8; ++i) {
        bytes[i] = static_cast<uint8_t>(runs.integer[4 * i] | (runs.integer[4 * i + 2] << 4));
    }
}

// The types. FACTORS change the first fit of a sub-block's scale to where the rows are searched.
struct Xxs {
    static constexpr int SUB = 32, ROWS = 256, BYTES = 66;
    static constexpr bool EVEN_SIGNS = true;
    static constexpr float FACTORS[] = {1.0f, 0.8f, 1.2f, 1.5f};
    static constexpr float MEAN_SQUARES = 1;
    static const std::int8_t* grid() { return grids.iq2_xxs; }
    static void pack(const Runs& runs, uint8_t* bytes) {
        for (int first = 0; first < SUPER / RUN; first += 4, bytes += 8) {
            auto word = static_cast<std::uint32_t>(runs.integer[first]) << 28;
            for (int i = 0; i < 4; ++i) {
                bytes[i] = static_cast<uint8_t>(runs.row[first + i]);
                word |= static_cast<std::uint32_t>(runs.signs[first + i] & 127) << (7 * i);
            }
            store_half(bytes + 4, static_cast<std::uint16_t>(word & 0xffff));
            store_half(bytes + 6, static_cast<std::uint16_t>(word >> 16));
        }
    }
};

struct Xs {
    static constexpr int SUB = 16, ROWS = 512, BYTES = 74;
    static constexpr bool EVEN_SIGNS = true;
    static constexpr float FACTORS[] = {1.0f, 0.8f, 1.2f, 1.5f};
    static constexpr float MEAN_SQUARES = 1;
    static const std::int8_t* grid() { return grids.iq2_xs; }
    static void pack(const Runs& runs, uint8_t* bytes) {
        for (int run = 0; run < SUPER / RUN; ++run) {
            const int code = runs.row[run] | ((runs.signs[run] & 127) << 9);
            store_half(bytes + 2 * run, static_cast<std::uint16_t>(code));
        }
        pack_integers(runs, bytes + 64);
    }
};

struct S {
    static constexpr int SUB = 16, ROWS = 1024, BYTES = 82;
    static constexpr bool EVEN_SIGNS = false;
    static constexpr float FACTORS[] = {1.0f, 0.75f, 1.3f};
    static constexpr float MEAN_SQUARES = 2;
    static const std::int8_t* grid() { return grids.iq2_s; }
    static void pack(const Runs& runs, uint8_t* bytes) {
        std::memset(bytes + 64, 0, 8);
        for (int run = 0; run < SUPER / RUN; ++run) {
            const int high = (runs.row[run] >> 8) << (run % 4 * 2);
            bytes[run] = static_cast<uint8_t>(runs.row[run] & 255);
            bytes[32 + run] = static_cast<uint8_t>(runs.signs[run]);
            bytes[64 + run / 4] = static_cast<uint8_t>(bytes[64 + run / 4] | high);
        }
        pack_integers(runs, bytes + 72);
    }
};

// llama.cpp's costs. Without importance it refuses the types of even signs; here it then is 1.
template <typename Type>
void fill_costs(Loaded<Type::SUB>& loaded, const float* importance, int blocks) {
    for (int first = 0; first < blocks * SUPER; first += SUPER) {
        const float mean_square =
            sum_of_squares(loaded.value + first, SUPER) * (Type::MEAN_SQUARES / SUPER);
        for (int i = first; i < first + SUPER; ++i) {
            const float square = loaded.value[i] * loaded.value[i];
            if (importance == nullptr && !Type::EVEN_SIGNS) {
                loaded.cost[i] = 0.25f * mean_square + square;
            } else {
                loaded.cost[i] = (importance != nullptr ? importance[i] : 1.0f) *
                                 std::sqrt(mean_square + square);
            }
        }
    }
}

// Packs the super-block that starts at sub-block `first` of a tile, and at `values` in the row.
template <typename Type>
void pack_block(const LevelGrid& grid, const float* values, int first,
                const RowFit<Type::SUB>& fit, const Flips<Type::SUB>& flips, uint8_t* block) {
    constexpr int COUNT = Type::SUB / RUN;
    Runs runs;
    for (int place = 0; place < SUPER / RUN; ++place) {
        const int sub = first + place / COUNT, run = place % COUNT;
        runs.row[place] = grid.row[fit.pattern[run][sub]];
        runs.integer[place] = static_cast<int>(fit.multiple[sub]) / 2;
        runs.signs[place] = 0;
        for (int i = 0; i < RUN; ++i) {
            runs.signs[place] |= (values[place * RUN + i] < 0) << i;
        }
        if (Type::EVEN_SIGNS && flips[run][sub] >= 0) {
            runs.signs[place] ^= 1 << flips[run][sub];
        }
    }
    store_half(block, half_from_float(fit.step[first] * 8.0f));
    Type::pack(runs, block + 2);
}

template <typename Type>
void quantize(const float* row, const float* importance, int64_t columns, uint8_t* blocks) {
    constexpr int N = Type::SUB;
    static const LevelGrid grid(Type::grid(), Type::ROWS, LEVELS);
    for_tiles<N>(row, importance, columns, fill_costs<Type>,
                 [&](Loaded<N>& loaded, int count, int64_t start) {
                     alignas(64) Flips<N> flips;
                     take_magnitudes(loaded.tile, flips);
                     SubFit alone;
                     for (int sub = 0; sub < SUBS; sub += LANES) {
                         lanes(alone.scale + sub) =
                             fit_coarse_scale(loaded.tile, sub, LEVEL_TARGETS, NearestLevel{}, 1);
                     }
                     if (Type::EVEN_SIGNS) {
                         flip_odd_runs(loaded.tile, alone.scale, flips);
                     }
                     RowFit<N> fit{};
                     fit_rows(grid, loaded.tile, Type::FACTORS, alone, fit);
                     for (int i = 0; i < count; ++i) {
                         pack_block<Type>(grid, loaded.value + i * SUPER, i * (SUPER / N), fit,
                                          flips, blocks + (start + i) * Type::BYTES);
                     }
                 });
}

const Kernel KERNELS[] = {
    {"IQ2_XXS", 256, 66, quantize<Xxs>, dequantize_iq2_xxs<false>, dequantize_iq2_xxs<true>},
    {"IQ2_XS", 256, 74, quantize<Xs>, dequantize_iq2_xs<false>, dequantize_iq2_xs<true>},
    {"IQ2_S", 256, 82, quantize<S>, dequantize_iq2_s<false>, dequantize_iq2_s<true>},
};

}  // namespace

const Family IQ2{KERNELS, 3};

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
