// Q8_0, Q4_0, Q4_1, Q5_0 and Q5_1: blocks of 32 weights with a scale, and an offset in the _1
// types.

#include <cmath>
#include <cstring>

#include "expand.h"
#include "even_blocks.h"
#include "half.h"
#include "kernels.h"
#include "line_search.h"
#include "super_blocks.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET {
namespace {

constexpr int BLOCK = 32;
using Tiled = Loaded<BLOCK>;

// The codes that the value farthest from zero may have: few that together lose little, on weights
// of both signs and of one, with even and with uneven importance.
constexpr float TARGETS_4_BITS[] = {-8.0f, -7.85f, -8.1f, -8.25f, -8.4f, -8.6f, -7.6f,
                                    -7.3f, -7.0f,  -6.9f, -6.2f,  -9.0f, -9.4f};
constexpr float TARGETS_5_BITS[] = {-16.0f, -16.2f, -15.0f, -17.4f, -14.2f, -15.7f, -16.4f, -15.3f};
// Where costs are even, few of them are enough.
constexpr float EVEN_STARTS_4_BITS[] = {-8.0f, -8.7f};
constexpr float EVEN_STARTS_5_BITS[] = {-16.0f, -15.3f};

// Calls work(loaded, blocks, first block) for each tile of a row. With importance, an error counts
// by importance * sqrt(mean square of the row + value^2), which is llama.cpp's rule; without, all
// errors count alike.
template <typename Work>
void for_blocks(const float* row, const float* importance, int64_t columns, const Work& work) {
    float mean_square = 0;
    if (importance != nullptr) {
        const float sum = sum_of_squares(row, columns) / static_cast<float>(columns);
        mean_square = sum < LARGEST * LARGEST ? sum : LARGEST * LARGEST;
    }
    const auto fill_costs = [mean_square](Tiled& loaded, const float* from, int blocks) {
        for (int i = 0; i < blocks * BLOCK; ++i) {
            const float value = loaded.value[i];
            loaded.cost[i] = from[i] * std::sqrt(mean_square + value * value);
        }
    };
    for_tiles<BLOCK, BLOCK, true>(row, importance, columns, fill_costs, work);
}

void invert(const float* scale, float* unit) {
    for (int first = 0; first < SUBS; first += LANES) {
        lanes(unit + first) = inverse(lanes(scale + first));
    }
}

void to_halves(const float* values, std::uint16_t* halves) {
    std::uint16_t found[SUBS];  // which nothing else points to, so that this becomes vector code
    for (int i = 0; i < SUBS; ++i) {
        found[i] = half_from_float(values[i]);
    }
    std::memcpy(halves, found, sizeof found);
}

constexpr int VECTORS = BLOCK / LANES;
using Codes = Whole[VECTORS];

// Finds the codes of a block, from `low` to `high`, and adds `zero`.
inline void round_codes(const float* values, float offset, float unit, float low, float high,
                        int zero, Codes& codes) {
    for (int i = 0; i < VECTORS; ++i) {
        const Floats exact = (row_lanes(values + i * LANES) - offset) * unit;
        codes[i] = nearest_bytes(clamp(exact, low, high), zero);
    }
}

// Writes codes 0..15 as nibbles: the first half of the block low, the second half high.
inline void pack_nibbles(const Codes& codes, uint8_t* bytes) {
    Whole both[VECTORS / 2];
    for (int i = 0; i < VECTORS / 2; ++i) {
        both[i] = codes[i] | (codes[i + VECTORS / 2] << 4);
    }
    store_bytes<BLOCK / 2>(both, bytes);
}

// As pack_nibbles, for codes 0..31: their fifth bits, one bit a weight, and then their nibbles.
inline void pack_five_bits(const Codes& codes, uint8_t* bytes) {
    uint8_t small[BLOCK];
    store_bytes<BLOCK>(codes, small);
    for (int i = 0; i < BLOCK / 8; ++i) {
        const std::uint64_t bits = (load_8(small + 8 * i) >> 4) & EVERY_BYTE;
        // Moves bit 8 * j to bit 56 + j, for all eight at once.
        bytes[i] = static_cast<uint8_t>((bits * 0x0102040810204080) >> 56);
    }
    for (int i = 0; i < BLOCK / 2; i += 8) {
        const std::uint64_t low = load_8(small + i) & 15 * EVERY_BYTE;
        const std::uint64_t high = load_8(small + i + BLOCK / 2) & 15 * EVERY_BYTE;
        const std::uint64_t packed = low | (high << 4);
        std::memcpy(bytes + 4 + i, &packed, sizeof packed);
    }
}

// Bytes of a block: scale, offset if any, fifth bits if any, nibbles.
template <int BITS, bool OFFSET>
struct Layout {
    static constexpr int HIGH = OFFSET ? 4 : 2;
    static constexpr int LOW = HIGH + (BITS == 5 ? 4 : 0);
    static constexpr int BYTES = LOW + 16;
};

template <int BITS, bool OFFSET>
void write_codes(const Codes& codes, uint8_t* block) {
    if constexpr (BITS == 5) {
        pack_five_bits(codes, block + Layout<BITS, OFFSET>::HIGH);
    } else {
        pack_nibbles(codes, block + Layout<BITS, OFFSET>::LOW);
    }
}

// Writes scales and offsets, which are 16-bit numbers.
template <int BYTES, bool OFFSET>
void write_heads(const float* scale, const float* offset, int count, uint8_t* blocks) {
    std::uint16_t scale_bits[SUBS], offset_bits[SUBS];
    to_halves(scale, scale_bits);
    if (OFFSET) {
        to_halves(offset, offset_bits);
    }
    for (int i = 0; i < count; ++i) {
        store_half(blocks + i * BYTES, scale_bits[i]);
        if (OFFSET) {
            store_half(blocks + i * BYTES + 2, offset_bits[i]);
        }
    }
}

template <int BITS, bool OFFSET>
void write_blocks(const float* values, int count, const float* scale, const float* offset,
                  uint8_t* blocks) {
    constexpr int BYTES = Layout<BITS, OFFSET>::BYTES;
    constexpr int LOW = OFFSET ? 0 : -(1 << (BITS - 1)), HIGH = LOW + (1 << BITS) - 1;
    alignas(64) float unit[SUBS];
    invert(scale, unit);
    for (int i = 0; i < count; ++i) {
        Codes codes;
        round_codes(values + i * BLOCK, offset[i], unit[i], LOW, HIGH, -LOW, codes);
        write_codes<BITS, OFFSET>(codes, blocks + i * BYTES);
    }
    write_heads<BYTES, OFFSET>(scale, offset, count, blocks);
}

// Compares gains, and again costs where these are so small a part that gains cannot tell: there
// the rounding of scales to 16 bits decides.
template <int TARGETS>
Floats fit_symmetric(const Tile<BLOCK>& tile, int first, const float (&targets)[TARGETS],
                     const WholeCodes& codes) {
    const Saving found = fit_by_gain(tile, first, targets, codes, 0);
    Floats most{};
    for (int i = 0; i < BLOCK; ++i) {
        const Floats value = lanes(&tile.value[i][first]);
        most += lanes(&tile.cost[i][first]) * value * value;
    }
    const Floats scale = round_to_half(found.scale);
    const auto nearly_exact = most - found.gain < 1e-4f * most;
    bool any = false;
    for (int lane = 0; lane < LANES; ++lane) {
        any |= nearly_exact[lane] != 0;
    }
    if (any) {
        const Floats exact = fit_scale<true>(tile, first, targets, codes, 0);
        return nearly_exact ? exact : scale;
    }
    return scale;
}

template <int BITS, bool OFFSET>
void quantize_evenly(const float* row, int64_t columns, uint8_t* row_blocks) {
    constexpr int BYTES = Layout<BITS, OFFSET>::BYTES;
    for_groups(row, columns, [&](Group& group, int count, int64_t first_block) {
        uint8_t* blocks = row_blocks + first_block * BYTES;
        alignas(64) float scale[SUBS], offset[SUBS] = {};
        if constexpr (OFFSET) {
            fit_even_lines(group, (1 << BITS) - 1, scale, offset,
                           [&](int block, const Codes& codes) {
                               if (block < count) {
                                   write_codes<BITS, OFFSET>(codes, blocks + block * BYTES);
                               }
                           });
            write_heads<BYTES, OFFSET>(scale, offset, count, blocks);
        } else {
            if constexpr (BITS == 4) {
                fit_even_scales(group, EVEN_STARTS_4_BITS, -8, 7, scale);
            } else {
                fit_even_scales(group, EVEN_STARTS_5_BITS, -16, 15, scale);
            }
            write_blocks<BITS, OFFSET>(group.value, count, scale, offset, blocks);
        }
    });
}

template <int BITS, bool OFFSET>
void quantize(const float* row, const float* importance, int64_t columns, uint8_t* blocks) {
    if (importance == nullptr) {
        quantize_evenly<BITS, OFFSET>(row, columns, blocks);
        return;
    }
    constexpr float TOP = (1 << BITS) - 1;
    for_blocks(row, importance, columns, [&](const Tiled& loaded, int count, int64_t first_block) {
        alignas(64) float scale[SUBS], offset[SUBS] = {};
        for (int first = 0; first < count; first += LANES) {
            if constexpr (OFFSET) {
                const Line fitted = fit_line(loaded.tile, first, ENDS, TOP, 1, false);
                const Line line = round_line(loaded.tile, first, fitted, TOP);
                lanes(scale + first) = line.scale;
                lanes(offset + first) = line.offset;
            } else {
                lanes(scale + first) =
                    BITS == 4 ? fit_symmetric(loaded.tile, first, TARGETS_4_BITS, {-8, 7})
                              : fit_symmetric(loaded.tile, first, TARGETS_5_BITS, {-16, 15});
            }
        }
        write_blocks<BITS, OFFSET>(loaded.value, count, scale, offset,
                                   blocks + first_block * Layout<BITS, OFFSET>::BYTES);
    });
}

template <bool STREAM, int BITS, bool OFFSET>
void dequantize(const uint8_t* blocks, int64_t columns, float* row) {
    using Bytes = Layout<BITS, OFFSET>;
    constexpr uint8_t ZERO = OFFSET ? 0 : 1 << (BITS - 1);
    for (int64_t i = 0; i < columns; i += BLOCK, blocks += Bytes::BYTES) {
        const float scale = half_to_float(load_half(blocks));
        int8_t codes[BLOCK];
        expand_nibbles<BLOCK / 2>(blocks + Bytes::LOW, codes);
        for (int half = 0; half < BLOCK; half += 16) {
            Bytes16 both = load_16(codes + half);
            if (BITS == 5) {
                const uint8_t* fifth = blocks + Bytes::HIGH + half / 8;
                both |= join(MASKS.of[fifth[0]], MASKS.of[fifth[1]]) & 16;
            }
            store_16(codes + half, both - ZERO);
        }
        if constexpr (OFFSET) {
            const float offset = half_to_float(load_half(blocks + 2));
            write_line<STREAM, BLOCK>(codes, scale, offset, row + i);
        } else {
            write_scaled<STREAM, BLOCK>(codes, scale, row + i);
        }
    }
}

// llama.cpp ignores importance here, and so do we: at 8 bits it buys nothing.
void quantize_q8_0(const float* row, const float*, int64_t columns, uint8_t* blocks) {
    // -128 is left out: the products of some runtimes cannot hold it.
    constexpr float STARTS[] = {127.0f};
    for_groups(row, columns, [&](const Group& group, int count, int64_t first_block) {
        alignas(64) float scale[SUBS];
        fit_even_scales(group, STARTS, -127, 127, scale);
        alignas(64) float unit[SUBS];
        invert(scale, unit);
        uint8_t* first = blocks + first_block * 34;
        for (int i = 0; i < count; ++i) {
            Codes codes;
            round_codes(group.value + i * BLOCK, 0, unit[i], -127, 127, 0, codes);
            store_bytes<BLOCK>(codes, first + i * 34 + 2);
        }
        write_heads<34, false>(scale, nullptr, count, first);
    });
}

template <bool STREAM>
void dequantize_q8_0(const uint8_t* blocks, int64_t columns, float* row) {
    for (int64_t i = 0; i < columns; i += BLOCK, blocks += 34) {
        const float scale = half_to_float(load_half(blocks));
        write_scaled<STREAM, BLOCK>(reinterpret_cast<const int8_t*>(blocks + 2), scale, row + i);
    }
}

const Kernel KERNELS[] = {
    {"Q8_0", 32, 34, quantize_q8_0, dequantize_q8_0<false>, dequantize_q8_0<true>},
    {"Q4_0", 32, 18, quantize<4, false>, dequantize<false, 4, false>, dequantize<true, 4, false>},
    {"Q4_1", 32, 20, quantize<4, true>, dequantize<false, 4, true>, dequantize<true, 4, true>},
    {"Q5_0", 32, 22, quantize<5, false>, dequantize<false, 5, false>, dequantize<true, 5, false>},
    {"Q5_1", 32, 24, quantize<5, true>, dequantize<false, 5, true>, dequantize<true, 5, true>},
};

}  // namespace

const Family LEGACY{KERNELS, 5};

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
