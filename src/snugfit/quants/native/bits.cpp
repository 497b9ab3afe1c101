// Q1_0 and Q2_0: a scale and one or two bits a weight.

#include "expand.h"
#include "half.h"
#include "kernels.h"
#include "magnitudes.h"
#include "super_blocks.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET {
namespace {

// A bit says whether the weight is d or -d.
template <bool STREAM>
void dequantize_q1_0(const uint8_t* blocks, int64_t columns, float* row) {
    for (int64_t start = 0; start < columns; start += 128, blocks += 18) {
        const float d = half_to_float(load_half(blocks));
        int8_t codes[128];
        for (int i = 0; i < 16; i += 2) {
            const Bytes16 masks = join(MASKS.of[blocks[2 + i]], MASKS.of[blocks[3 + i]]);
            store_16(codes + 8 * i, ~masks | 1);  // -1 or 1
        }
        write_scaled<STREAM, 128>(codes, d, row + start);
    }
}

// Takes the bytes of two vectors in turn; PART 0 of the first halves, 1 of the second ones.
template <int PART, typename Vector>
inline Vector in_turn(Vector a, Vector b) {
    if constexpr (sizeof(a[0]) == 1) {
        constexpr int P = 8 * PART;
        return __builtin_shufflevector(a, b, P, P + 16, P + 1, P + 17, P + 2, P + 18, P + 3, P + 19,
                                       P + 4, P + 20, P + 5, P + 21, P + 6, P + 22, P + 7, P + 23);
    } else {
        constexpr int P = 4 * PART;
        return __builtin_shufflevector(a, b, P, P + 8, P + 1, P + 9, P + 2, P + 10, P + 3, P + 11);
    }
}

// Sixteen bytes of four codes each to 64 codes -1 to 2.
inline void expand_fours(const uint8_t* bytes, int8_t* codes) {
    typedef std::uint16_t Words __attribute__((vector_size(16)));
    const Bytes16 fours = load_16(bytes);
    const Bytes16 a = fours & 3, b = bits_from<2>(fours, 3);
    const Bytes16 c = bits_from<4>(fours, 3), d = bits_from<6>(fours, 3);
    const Words first_ab = (Words)in_turn<0>(a, b), first_cd = (Words)in_turn<0>(c, d);
    const Words last_ab = (Words)in_turn<1>(a, b), last_cd = (Words)in_turn<1>(c, d);
    store_16(codes, (Bytes16)in_turn<0>(first_ab, first_cd) - 1);
    store_16(codes + 16, (Bytes16)in_turn<1>(first_ab, first_cd) - 1);
    store_16(codes + 32, (Bytes16)in_turn<0>(last_ab, last_cd) - 1);
    store_16(codes + 48, (Bytes16)in_turn<1>(last_ab, last_cd) - 1);
}

// Codes 0..3 are -1 to 2 times d, four of them in a byte.
template <bool STREAM>
void dequantize_q2_0(const uint8_t* blocks, int64_t columns, float* row) {
    for (int64_t start = 0; start < columns; start += 64, blocks += 18) {
        const float d = half_to_float(load_half(blocks));
        int8_t codes[64];
        expand_fours(blocks + 2, codes);
        write_scaled<STREAM, 64>(codes, d, row + start);
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
    {"Q1_0", 128, 18, quantize_q1_0, dequantize_q1_0<false>, dequantize_q1_0<true>},
    {"Q2_0", 64, 18, quantize_q2_0, dequantize_q2_0<false>, dequantize_q2_0<true>},
};

}  // namespace

const Family BITS{KERNELS, 2};

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
