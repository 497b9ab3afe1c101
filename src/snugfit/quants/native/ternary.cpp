// TQ1_0 and TQ2_0: super-blocks of 256 weights that are -d, 0 or d.

#include "expand.h"
#include "half.h"
#include "kernels.h"
#include "magnitudes.h"
#include "super_blocks.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET {
namespace {

constexpr int POWERS_OF_3[5] = {1, 3, 9, 27, 81};

// A byte is a fraction of 256 whose ternary digits are the codes, the first one foremost. Times
// three, modulo 256, it is the fraction that starts with the next digit.
inline Bytes16 first_digits(Bytes16 fractions) {
    const Bytes16 not_two = (Bytes16)(fractions < 171), zero = (Bytes16)(fractions < 86);
    return not_two + zero + 1;  // -1 to 1: a mask that is set is -1
}

template <int COUNT>
inline void expand_digits(const uint8_t* bytes, int8_t* codes) {
    for (int i = 0; i < COUNT; i += 16) {
        Bytes16 fractions = load_16(bytes + i);
        for (int digit = 0; digit < 5; ++digit) {
            store_16(codes + digit * COUNT + i, first_digits(fractions));
            fractions = fractions + fractions + fractions;
        }
    }
}

// 32 bytes of five digits, 16 of five, and 4 of four.
template <bool STREAM>
void dequantize_tq1_0(const uint8_t* blocks, int64_t columns, float* row) {
    for (int64_t start = 0; start < columns; start += SUPER, blocks += 54) {
        int8_t codes[SUPER];
        expand_digits<32>(blocks, codes);
        expand_digits<16>(blocks + 32, codes + 160);
        Bytes16 last{};
        for (int i = 0; i < 16; ++i) {
            last[i] = static_cast<uint8_t>(blocks[48 + i % 4] * POWERS_OF_3[i / 4]);
        }
        store_16(codes + 240, first_digits(last));
        write_scaled<STREAM, SUPER>(codes, half_to_float(load_half(blocks + 52)), row + start);
    }
}

template <bool STREAM>
void dequantize_tq2_0(const uint8_t* blocks, int64_t columns, float* row) {
    for (int64_t start = 0; start < columns; start += SUPER, blocks += 66) {
        const float d = half_to_float(load_half(blocks + 64));
        int8_t codes[SUPER];
        for (int half = 0; half < 2; ++half) {
            expand_pairs(blocks + 32 * half, [&](int at, Bytes16 pairs) {
                store_16(codes + 128 * half + at, pairs - 1);
            });
        }
        write_scaled<STREAM, SUPER>(codes, d, row + start);
    }
}

// Returns the 16-bit d of a block. Weights below d / 2 are zeros. The search starts from parts of
// the mean as thresholds, and from half the largest value, which is llama.cpp's only one.
std::uint16_t find_d(const Magnitudes<SUPER>& block) {
    const float mean = mean_above(block, -1).value;
    const float thresholds[] = {0.5f * block.largest(), 0.8f * mean, 1.5f * mean};
    Mean means[3];
    means_above(block, thresholds, means);
    Mean best = means[0];
    for (const Mean& found : means) {
        best = found.gain > best.gain ? found : best;
    }
    for (int round = 0; round < 2; ++round) {
        const Mean found = mean_above(block, 0.5f * best.value);
        best = found.gain > best.gain ? found : best;
    }
    return half_from_float(best.value);
}

// Calls pack(codes, d, block) with codes 0, 1 and 2 of each super-block.
template <int BYTES, typename Pack>
void quantize(const float* row, const float* importance, int64_t columns, uint8_t* blocks,
              const Pack& pack) {
    for (int64_t start = 0; start < columns; start += SUPER, blocks += BYTES) {
        Magnitudes<SUPER> magnitudes;
        magnitudes.load(row + start, importance != nullptr ? importance + start : nullptr);
        const std::uint16_t d = find_d(magnitudes);
        const Floats threshold = splat(0.5f * half_to_float(d));
        alignas(64) int whole[SUPER];
        for (int i = 0; i < SUPER; i += LANES) {
            const Floats value = row_lanes(row + start + i), one = splat(1.0f);
            const Floats above = value > threshold ? one : Floats{};
            store_whole(one + above - (value < -threshold ? one : Floats{}), whole + i);
        }
        uint8_t codes[SUPER];
        store_bytes<SUPER>(whole, codes);
        pack(codes, d, blocks);
    }
}

// As write_digits reads them. The fraction is rounded up, so that its digits come out whole.
template <int COUNT>
void pack_digits(const uint8_t* codes, int digits, uint8_t* bytes) {
    uint8_t packed[COUNT];  // which nothing else points to, so that this becomes vector code
    for (int i = 0; i < COUNT; ++i) {
        int number = 0;
        for (int digit = 0; digit < digits; ++digit) {
            number += codes[digit * COUNT + i] * POWERS_OF_3[4 - digit];
        }
        packed[i] = static_cast<uint8_t>((number * 256 + 242) / 243);
    }
    std::memcpy(bytes, packed, sizeof packed);
}

void quantize_tq1_0(const float* row, const float* importance, int64_t columns, uint8_t* blocks) {
    quantize<54>(row, importance, columns, blocks,
                 [](const uint8_t* codes, std::uint16_t d, uint8_t* block) {
                     pack_digits<32>(codes, 5, block);
                     pack_digits<16>(codes + 160, 5, block + 32);
                     pack_digits<4>(codes + 240, 4, block + 48);
                     store_half(block + 52, d);
                 });
}

void quantize_tq2_0(const float* row, const float* importance, int64_t columns, uint8_t* blocks) {
    quantize<66>(row, importance, columns, blocks,
                 [](const uint8_t* codes, std::uint16_t d, uint8_t* block) {
                     pack_pairs_of_bits(codes, block);
                     store_half(block + 64, d);
                 });
}

const Kernel KERNELS[] = {
    {"TQ1_0", 256, 54, quantize_tq1_0, dequantize_tq1_0<false>, dequantize_tq1_0<true>},
    {"TQ2_0", 256, 66, quantize_tq2_0, dequantize_tq2_0<false>, dequantize_tq2_0<true>},
};

}  // namespace

const Family TERNARY{KERNELS, 2};

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
