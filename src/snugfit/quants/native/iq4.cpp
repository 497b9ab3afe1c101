// IQ4_NL and IQ4_XS: 4-bit codes that stand for sixteen unevenly spaced integers.

#include "best_scale.h"
#include "expand.h"
#include "grids.h"
#include "half.h"
#include "kernels.h"
#include "scale_search.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET {
namespace {

constexpr int BLOCK = 32;

// Thirty-two codes: the first sixteen in low nibbles, the others in high ones.
template <bool STREAM>
inline void write_values(const uint8_t* nibbles, float scale, float* out) {
    int8_t values[BLOCK];
    expand_nibbles<16>(nibbles, values);
    for (int i = 0; i < BLOCK; i += 16) {
        store_16(values + i, look_up(grids.iq4, load_16(values + i)));
    }
    write_scaled<STREAM, BLOCK>(values, scale, out);
}

template <bool STREAM>
void dequantize_iq4_nl(const uint8_t* blocks, int64_t columns, float* row) {
    for (int64_t start = 0; start < columns; start += 32, blocks += 18) {
        write_values<STREAM>(blocks + 2, half_to_float(load_half(blocks)), row + start);
    }
}

// Each 32 weights have a scale -32..31: its top two bits lie in a word, the others in nibbles.
template <bool STREAM>
void dequantize_iq4_xs(const uint8_t* blocks, int64_t columns, float* row) {
    for (int64_t start = 0; start < columns; start += SUPER, blocks += 136) {
        const float d = half_to_float(load_half(blocks));
        const int high = load_half(blocks + 2);
        for (int sub = 0; sub < 8; ++sub) {
            const int low = (blocks[4 + sub / 2] >> (sub % 2 * 4)) & 15;
            const int integer = (low | (((high >> (2 * sub)) & 3) << 4)) - 32;
            write_values<STREAM>(blocks + 8 + 16 * sub, d * static_cast<float>(integer),
                         row + start + 32 * sub);
        }
    }
}

// Rounds to the nearest value of the table, by counting the midpoints below.
struct Table {
    float lowest, midpoints[15], gaps[15];

    Table() : lowest(grids.iq4[0]) {
        for (int i = 0; i < 15; ++i) {
            midpoints[i] = 0.5f * static_cast<float>(grids.iq4[i] + grids.iq4[i + 1]);
            gaps[i] = static_cast<float>(grids.iq4[i + 1] - grids.iq4[i]);
        }
    }

    Floats operator()(Floats exact) const {
        Floats value = splat(lowest);
        for (int i = 0; i < 15; ++i) {
            value += exact > midpoints[i] ? splat(gaps[i]) : Floats{};
        }
        return value;
    }

    void write_codes(const float* values, float scale, uint8_t* nibbles) const {
        const float unit = inverse(scale);
        int codes[BLOCK] = {};
        for (int i = 0; i < 15; ++i) {
            for (int j = 0; j < BLOCK; ++j) {
                codes[j] += values[j] * unit > midpoints[i];
            }
        }
        for (int j = 0; j < BLOCK / 2; ++j) {
            nibbles[j] = static_cast<uint8_t>(codes[j] | (codes[j + BLOCK / 2] << 4));
        }
    }
};

// The values that the extreme one of a sub-block may have: the ends of the table, and about them.
constexpr float TARGETS[] = {-127.0f, -118.0f, -121.0f, -124.0f, -130.0f, -133.0f, -137.0f,
                             113.0f,  107.0f,  110.0f,  116.0f,  119.0f,  104.0f};

struct ExtraSmall {
    static constexpr int SUB = BLOCK;
    static constexpr Spread LOW_TARGETS{-150, -95}, HIGH_TARGETS{135, 85};
    static constexpr float LOWEST_SCALE = -32, HIGHEST_SCALE = 31;
    // Smaller ones help where few sub-blocks hold nearly all: more of them, less to round.
    alignas(64) static constexpr float SCALE_TARGETS[32] = {
        -32.0f, -32.3f, -31.7f, -31.4f, -31.0f, -30.5f, -30.0f, -29.0f, -28.0f, -27.0f, -26.0f,
        -25.0f, -24.0f, -23.0f, -22.0f, -21.0f, 31.0f,  31.3f,  30.7f,  30.4f,  30.0f,  29.5f,
        29.0f,  28.0f,  27.0f,  26.0f,  25.0f,  24.0f,  23.0f,  22.0f,  21.0f,  20.0f};
    Table table;

    Floats codes(Floats exact) const { return table(exact); }
    Floats fit(const Tile<SUB>& tile, int first, bool) const {
        return fit_scale<false>(tile, first, TARGETS, table, 1);
    }
};

// llama.cpp's costs: importance * sqrt(2 * mean square + value^2), or the square of the value. To
// that square a typical one is added, so that even costs come out lower than its, too.
// GROUP: the weights of the mean.
template <int GROUP>
void fill_costs(Loaded<BLOCK>& loaded, const float* importance, int groups) {
    for (int start = 0; start < groups * GROUP; start += GROUP) {
        const float* value = loaded.value + start;
        float* cost = loaded.cost + start;
        if (importance == nullptr) {
            const float base = 2 * typical_square(value, GROUP);
            for (int i = 0; i < GROUP; ++i) {
                cost[i] = value[i] * value[i] + base;
            }
        } else {
            const float base = sum_of_squares(value, GROUP) * (2.0f / GROUP);
            for (int i = 0; i < GROUP; ++i) {
                cost[i] = importance[start + i] * std::sqrt(base + value[i] * value[i]);
            }
        }
    }
}

void quantize_iq4_nl(const float* row, const float* importance, int64_t columns, uint8_t* blocks) {
    const Table table;
    for_tiles<BLOCK, BLOCK>(row, importance, columns, fill_costs<BLOCK>,
                     [&](const Loaded<BLOCK>& loaded, int count, int64_t first_block) {
                         alignas(64) float scale[SUBS];
                         for (int first = 0; first < SUBS; first += LANES) {
                             lanes(scale + first) =
                                 fit_scale<true>(loaded.tile, first, TARGETS, table, 2);
                         }
                         for (int i = 0; i < count; ++i) {
                             uint8_t* block = blocks + (first_block + i) * 18;
                             const std::uint16_t half = half_from_float(scale[i]);
                             store_half(block, half);
                             table.write_codes(loaded.value + i * BLOCK, half_to_float(half),
                                               block + 2);
                         }
                     });
}

void write_iq4_xs(const float* values, const Table& table, const float* scales, float d,
                  uint8_t* block) {
    int high = 0;
    for (int i = 0; i < 4; ++i) {
        const int even = static_cast<int>(scales[2 * i]) + 32;
        const int odd = static_cast<int>(scales[2 * i + 1]) + 32;
        high |= (even >> 4) << (4 * i) | (odd >> 4) << (4 * i + 2);
        block[4 + i] = static_cast<uint8_t>((even & 15) | ((odd & 15) << 4));
    }
    store_half(block, half_from_float(d));
    store_half(block + 2, static_cast<std::uint16_t>(high));
    for (int sub = 0; sub < 8; ++sub) {
        table.write_codes(values + sub * BLOCK, scales[sub] * d, block + 8 + 16 * sub);
    }
}

void quantize_iq4_xs(const float* row, const float* importance, int64_t columns, uint8_t* blocks) {
    const ExtraSmall shape;
    for_tiles<BLOCK>(row, importance, columns, fill_costs<SUPER>,
                     [&](const Loaded<BLOCK>& loaded, int supers, int64_t first_super) {
                         ScaleFit fit;
                         fit_scales(shape, loaded.tile, importance != nullptr, fit);
                         for (int i = 0; i < supers; ++i) {
                             write_iq4_xs(loaded.value + i * SUPER, shape.table,
                                          fit.choice.scale + 8 * i, fit.d[8 * i],
                                          blocks + (first_super + i) * 136);
                         }
                     });
}

// llama.cpp's costs without importance: the square of the value.
template <int GROUP>
void fill_best_costs(Loaded<BLOCK>& loaded, const float* importance, int groups) {
    if (importance != nullptr) {
        fill_costs<GROUP>(loaded, importance, groups);
        return;
    }
    for (int i = 0; i < groups * GROUP; ++i) {
        loaded.cost[i] = loaded.value[i] * loaded.value[i];
    }
}

void write_iq4_nl(const float* values, const Table& table, float scale, uint8_t* block) {
    const std::uint16_t half = half_from_float(scale);
    store_half(block, half);
    table.write_codes(values, half_to_float(half), block + 2);
}

Floats best_iq4_nl_scale(const Tile<BLOCK>& tile, int first, const Table& table) {
    Trial best = scan_scales<true>(tile, first, ExtraSmall::LOW_TARGETS, 64, table);
    keep_cheaper(best, scan_scales<true>(tile, first, ExtraSmall::HIGH_TARGETS, 48, table));
    keep_cheaper(best, try_scale<true>(tile, first, Floats{}, inverse(best.scale), table));
    return best.scale;
}

void quantize_best_iq4_nl(const float* row, const float* importance, int64_t columns,
                          uint8_t* blocks) {
    const Table table;
    for_tiles<BLOCK, BLOCK>(
        row, importance, columns, fill_best_costs<BLOCK>,
        [&](const Loaded<BLOCK>& loaded, int count, int64_t first_block) {
            alignas(64) float scale[SUBS];
            for (int first = 0; first < SUBS; first += LANES) {
                lanes(scale + first) = best_iq4_nl_scale(loaded.tile, first, table);
            }
            uint8_t* to = blocks + first_block * 18;
            for (int i = 0; i < count; ++i) {
                write_iq4_nl(loaded.value + i * BLOCK, table, scale[i], to + i * 18);
            }
            const float* costs = importance ? importance + first_block * BLOCK : nullptr;
            keep_cheaper_blocks<BLOCK, 18>(loaded, costs, count, quantize_iq4_nl,
                                           dequantize_iq4_nl<false>, to);
        });
}

void quantize_best_iq4_xs(const float* row, const float* importance, int64_t columns,
                          uint8_t* blocks) {
    const ExtraSmall shape;
    for_tiles<BLOCK>(
        row, importance, columns, fill_best_costs<SUPER>,
        [&](const Loaded<BLOCK>& loaded, int supers, int64_t first_super) {
            const StoredScales best = fit_best_scales(shape, loaded.tile);
            uint8_t* to = blocks + first_super * 136;
            for (int i = 0; i < supers; ++i) {
                write_iq4_xs(loaded.value + i * SUPER, shape.table, best.scale + 8 * i,
                             best.d[8 * i], to + i * 136);
            }
            const float* costs = importance ? importance + first_super * SUPER : nullptr;
            keep_cheaper_blocks<SUPER, 136>(loaded, costs, supers, quantize_iq4_xs,
                                            dequantize_iq4_xs<false>, to);
        });
}

const Kernel KERNELS[] = {
    {"IQ4_NL", 32, 18, quantize_iq4_nl, dequantize_iq4_nl<false>, dequantize_iq4_nl<true>,
     quantize_best_iq4_nl},
    {"IQ4_XS", 256, 136, quantize_iq4_xs, dequantize_iq4_xs<false>, dequantize_iq4_xs<true>,
     quantize_best_iq4_xs},
};

}  // namespace

const Family IQ4{KERNELS, 2};

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
