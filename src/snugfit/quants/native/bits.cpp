// Q1_0 and Q2_0: a scale and one or two bits a weight.

#include "expand.h"
#include "half.h"
#include "kernels.h"
#include "magnitudes.h"
#include "super_blocks.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET {
namespace {

// A bit says whether the weight is d or -d.
void dequantize_q1_0(const uint8_t* blocks, int64_t columns, float* row) {
    for (int64_t start = 0; start < columns; start += 128, blocks += 18) {
        const float d = half_to_float(load_half(blocks));
        int8_t codes[128];
        for (int i = 0; i < 16; i += 2) {
            const Bytes16 masks = join(MASKS.of[blocks[2 + i]], MASKS.of[blocks[3 + i]]);
            store_16(codes + 8 * i, ~masks | 1);  // -1 or 1
        }
        write_scaled<128>(codes, d, row + start);
    }
}

// Returns the eight pairs of bits of two bytes as bytes.
inline std::uint64_t spread_pairs(const uint8_t* bytes) {
    std::uint64_t word = load_half(bytes);
    word = (word | (word << 24)) & 0x000000ff000000ff;
    word = (word | (word << 12)) & 0x000f000f000f000f;
    return (word | (word << 6)) & 3 * EVERY_BYTE;
}

// Codes 0..3 are -1 to 2 times d, four of them in a byte.
void dequantize_q2_0(const uint8_t* blocks, int64_t columns, float* row) {
    for (int64_t start = 0; start < columns; start += 64, blocks += 18) {
        const float d = half_to_float(load_half(blocks));
        int8_t codes[64];
        for (int i = 0; i < 16; i += 4) {
            store_16(codes + 4 * i, join(spread_pairs(blocks + 2 + i), spread_pairs(blocks + 4 + i)) - 1);
        }
        write_scaled<64>(codes, d, row + start);
    }
}

void quantize_q1_0(const float* row, const float* importance, int64_t columns, uint8_t* blocks) {
    for (int64_t start = 0; start < columns; start += 128, blocks += 18) {
        Magnitudes<128> magnitudes;
        magnitudes.load(row + start, importance != nullptr ? importance + start : nullptr);
        store_half(blocks, half_from_float(mean_above(magnitudes, -1).value));
        for (int i = 0; i < 16; ++i) {
            int byte = 0;
            for (int bit = 0; bit < 8; ++bit) {
                byte |= (row[start + 8 * i + bit] >= 0) << bit;
            }
            blocks[2 + i] = static_cast<uint8_t>(byte);
        }
    }
}

constexpr int BLOCK = 64;

// The codes that the extreme value may take: beyond 2, it is clipped; below 0, d is negative.
constexpr float TARGETS[] = {1.0f, 2.0f, 1.5f, 2.6f, -1.5f};
constexpr float PLAIN_TARGETS[] = {1.0f, 2.0f, 2.6f, -1.5f};  // enough where costs are even

// llama.cpp ignores importance here; an error counts by it alone.
void fill_costs(Loaded<BLOCK>& loaded, const float* importance, int blocks) {
    for (int i = 0; i < blocks * BLOCK; ++i) {
        loaded.cost[i] = importance[i];
    }
}

void write_q2_0(const float* values, float scale, uint8_t* block) {
    const std::uint16_t half = half_from_float(scale);
    store_half(block, half);
    uint8_t codes[BLOCK];
    store_codes<BLOCK>(values, 0, inverse(half_to_float(half)), -1, 2, codes);
    for (int i = 0; i < BLOCK / 4; ++i) {
        std::uint32_t four_codes;
        std::memcpy(&four_codes, codes + 4 * i, sizeof four_codes);
        // Moves bits 8 * j to bits 24 + 2 * j, for all four at once.
        block[2 + i] = static_cast<uint8_t>((four_codes * 0x01041040u) >> 24);
    }
}

void quantize_q2_0(const float* row, const float* importance, int64_t columns, uint8_t* blocks) {
    for_tiles<BLOCK, BLOCK, true>(
        row, importance, columns, fill_costs,
        [&](const Loaded<BLOCK>& loaded, int count, int64_t first_block) {
            alignas(64) float scale[SUBS];
            for (int first = 0; first < SUBS; first += LANES) {
                const WholeCodes codes{-1, 2};
                lanes(scale + first) =
                    importance != nullptr
                        ? fit_coarse_scale(loaded.tile, first, TARGETS, codes, 1)
                        : fit_coarse_scale(loaded.tile, first, PLAIN_TARGETS, codes, 1);
            }
            for (int i = 0; i < count; ++i) {
                write_q2_0(loaded.value + i * BLOCK, scale[i], blocks + (first_block + i) * 18);
            }
        });
}

const Kernel KERNELS[] = {
    {"Q1_0", 128, 18, quantize_q1_0, dequantize_q1_0},
    {"Q2_0", 64, 18, quantize_q2_0, dequantize_q2_0},
};

}  // namespace

const Family BITS{KERNELS, 2};

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
