// Q8_0, Q4_0, Q4_1, Q5_0 and Q5_1: blocks of 32 weights with a scale, and an offset in the _1
// types.

#include <cmath>
#include <cstring>

#include "expand.h"
#include "half.h"
#include "kernels.h"
#include "line_search.h"
#include "super_blocks.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET {
namespace {

constexpr int BLOCK = 32;
using Tiled = Loaded<BLOCK>;

// The codes that the value farthest from zero may take. It often pays to clip it a little, or to
// give it the positive end although the negative one has a code more.
constexpr float TARGETS_4_BITS[] = {-8.0f, -6.6f, -7.0f, -7.2f, -7.4f, -7.6f, -7.8f,  -8.2f,
                                    -8.4f, -8.6f, -8.8f, -9.1f, -9.4f, -9.8f, -10.4f, 6.2f,
                                    6.6f,  7.0f,  7.3f,  7.6f,  8.0f,  8.6f};
constexpr float TARGETS_5_BITS[] = {-16.0f, -14.6f, -15.0f, -15.2f, -15.4f, -15.6f, -15.8f,
                                    -16.2f, -16.4f, -16.6f, -16.9f, -17.3f, -17.8f, -18.6f,
                                    14.2f,  14.6f,  15.0f,  15.3f,  15.6f,  16.2f};
// Where costs are even, few of them are enough.
constexpr float EVEN_TARGETS_4_BITS[] = {-8.0f, -7.3f, -8.7f, 7.2f};
constexpr float EVEN_TARGETS_5_BITS[] = {-16.0f, -15.3f, -16.6f, 15.3f};
constexpr Ends EVEN_ENDS[] = {{0, 0}, {0.4f, -0.4f}, {-0.4f, 0.4f}};
constexpr float TARGETS_8_BITS[] = {127.0f, 126.5f, 127.4f};

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

// Writes codes 0..15 as nibbles: the first half of the block low, the second half high.
void pack_nibbles(const uint8_t* codes, uint8_t* bytes) {
    uint8_t packed[BLOCK / 2];  // which nothing else points to, so that this becomes vector code
    for (int i = 0; i < BLOCK / 2; ++i) {
        packed[i] = static_cast<uint8_t>((codes[i] & 15) | ((codes[i + BLOCK / 2] & 15) << 4));
    }
    std::memcpy(bytes, packed, sizeof packed);
}

// Writes the fifth bit of codes 0..31, one bit a weight.
void pack_fifth_bits(const uint8_t* codes, uint8_t* bytes) {
    for (int i = 0; i < BLOCK / 8; ++i) {
        int byte = 0;
        for (int bit = 0; bit < 8; ++bit) {
            byte |= (codes[8 * i + bit] >> 4) << bit;
        }
        bytes[i] = static_cast<uint8_t>(byte);
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
void write_block(const float* values, float scale, float offset, uint8_t* block) {
    using Bytes = Layout<BITS, OFFSET>;
    const std::uint16_t scale_bits = half_from_float(scale);
    const std::uint16_t offset_bits = half_from_float(offset);
    const float unit = inverse(half_to_float(scale_bits));
    const float base = OFFSET ? half_to_float(offset_bits) : 0.0f;
    const float zero = OFFSET ? 0.0f : static_cast<float>(1 << (BITS - 1));
    uint8_t codes[BLOCK];
    for (int i = 0; i < BLOCK; ++i) {
        const float code = nearest((values[i] - base) * unit) + zero;
        codes[i] = static_cast<uint8_t>(static_cast<int>(clamp(code, 0, (1 << BITS) - 1)));
    }
    store_half(block, scale_bits);
    if (OFFSET) {
        store_half(block + 2, offset_bits);
    }
    if (BITS == 5) {
        pack_fifth_bits(codes, block + Bytes::HIGH);
    }
    pack_nibbles(codes, block + Bytes::LOW);
}

template <int BITS>
Floats fit_symmetric(const Tile<BLOCK>& tile, int first, bool even) {
    constexpr WholeCodes CODES{-(1 << (BITS - 1)), (1 << (BITS - 1)) - 1};
    if constexpr (BITS == 4) {
        return even ? fit_scale<true>(tile, first, EVEN_TARGETS_4_BITS, CODES, 0)
                    : fit_scale<true>(tile, first, TARGETS_4_BITS, CODES, 2);
    } else {
        return even ? fit_scale<true>(tile, first, EVEN_TARGETS_5_BITS, CODES, 0)
                    : fit_scale<true>(tile, first, TARGETS_5_BITS, CODES, 2);
    }
}

template <int BITS, bool OFFSET>
void quantize(const float* row, const float* importance, int64_t columns, uint8_t* blocks) {
    constexpr float TOP = (1 << BITS) - 1;
    const bool even = importance == nullptr;
    for_blocks(row, importance, columns, [&](const Tiled& loaded, int count, int64_t first_block) {
        alignas(64) float scale[SUBS], offset[SUBS] = {};
        for (int first = 0; first < count; first += LANES) {
            if constexpr (OFFSET) {
                const Line fitted = even
                                        ? fit_line(loaded.tile, first, EVEN_ENDS, TOP, 0, false)
                                        : fit_line(loaded.tile, first, ENDS, TOP, 1, false);
                const Line line = round_line(loaded.tile, first, fitted, TOP);
                lanes(scale + first) = line.scale;
                lanes(offset + first) = line.offset;
            } else {
                lanes(scale + first) = fit_symmetric<BITS>(loaded.tile, first, even);
            }
        }
        for (int i = 0; i < count; ++i) {
            uint8_t* block = blocks + (first_block + i) * Layout<BITS, OFFSET>::BYTES;
            write_block<BITS, OFFSET>(loaded.value + i * BLOCK, scale[i], offset[i], block);
        }
    });
}

template <int BITS, bool OFFSET>
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
            write_line<BLOCK>(codes, scale, offset, row + i);
        } else {
            write_scaled<BLOCK>(codes, scale, row + i);
        }
    }
}

// llama.cpp ignores importance here, and so do we: at 8 bits it buys nothing.
void quantize_q8_0(const float* row, const float*, int64_t columns, uint8_t* blocks) {
    for_blocks(row, nullptr, columns, [&](const Tiled& loaded, int count, int64_t first_block) {
        alignas(64) float scale[SUBS];
        for (int first = 0; first < count; first += LANES) {
            // -128 is left out: the products of some runtimes cannot hold it.
            lanes(scale + first) =
                fit_scale<true>(loaded.tile, first, TARGETS_8_BITS, WholeCodes{-127, 127}, 1);
        }
        for (int i = 0; i < count; ++i) {
            uint8_t* block = blocks + (first_block + i) * 34;
            const std::uint16_t scale_bits = half_from_float(scale[i]);
            const float unit = inverse(half_to_float(scale_bits));
            store_half(block, scale_bits);
            for (int j = 0; j < BLOCK; ++j) {
                const float code = nearest(loaded.value[i * BLOCK + j] * unit);
                block[2 + j] = static_cast<uint8_t>(static_cast<int>(clamp(code, -127, 127)));
            }
        }
    });
}

void dequantize_q8_0(const uint8_t* blocks, int64_t columns, float* row) {
    for (int64_t i = 0; i < columns; i += BLOCK, blocks += 34) {
        const float scale = half_to_float(load_half(blocks));
        write_scaled<BLOCK>(reinterpret_cast<const int8_t*>(blocks + 2), scale, row + i);
    }
}

const Kernel KERNELS[] = {
    {"quantize_q8_0", "dequantize_q8_0", 32, 34, quantize_q8_0, dequantize_q8_0},
    {"quantize_q4_0", "dequantize_q4_0", 32, 18, quantize<4, false>, dequantize<4, false>},
    {"quantize_q4_1", "dequantize_q4_1", 32, 20, quantize<4, true>, dequantize<4, true>},
    {"quantize_q5_0", "dequantize_q5_0", 32, 22, quantize<5, false>, dequantize<5, false>},
    {"quantize_q5_1", "dequantize_q5_1", 32, 24, quantize<5, true>, dequantize<5, true>},
};

}  // namespace

const Family LEGACY{KERNELS, 5};

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
