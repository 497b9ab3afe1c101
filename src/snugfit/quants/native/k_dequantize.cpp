// Blocks of Q2_K, Q3_K, Q4_K, Q5_K and Q6_K to weights.

#include "k_dequantize.h"

#include "expand.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET {
namespace {

constexpr int SUPER = 256;

// Eight pairs of six bits in twelve bytes, as k_line.cpp packs them.
void unpack_integers(const uint8_t* bytes, float* scales, float* offsets) {
    for (int i = 0; i < 4; ++i) {
        scales[i] = static_cast<float>(bytes[i] & 63);
        offsets[i] = static_cast<float>(bytes[4 + i] & 63);
        scales[i + 4] = static_cast<float>((bytes[8 + i] & 15) | ((bytes[i] >> 6) << 4));
        offsets[i + 4] = static_cast<float>((bytes[8 + i] >> 4) | ((bytes[4 + i] >> 6) << 4));
    }
}

// Sixteen scales -32..31 in twelve bytes: low nibbles of i and i + 8 share byte i, and the top two
// bits of i lie in byte 8 + i % 4.
void unpack_q3_k_scales(const uint8_t* bytes, float* scales) {
    for (int i = 0; i < 16; ++i) {
        const int low = (bytes[i % 8] >> (i / 8 * 4)) & 15;
        const int high = (bytes[8 + i % 4] >> (i / 4 * 2)) & 3;
        scales[i] = static_cast<float>((low | (high << 4)) - 32);
    }
}

// Adds `value` to the codes of run i of 32 weights where bit i of the weight's byte is set.
template <int RUN = 0>
void add_bits(const uint8_t* bytes, uint8_t value, int8_t* codes) {
    for (int i = 0; i < 32; i += 16) {
        const Bytes16 added = bits_from<RUN>(load_16(bytes + i), 1) * value;
        store_16(codes + 32 * RUN + i, load_16(codes + 32 * RUN + i) + added);
    }
    if constexpr (RUN < 7) {
        add_bits<RUN + 1>(bytes, value, codes);
    }
}

template <bool STREAM, int BITS>
void dequantize_line(const uint8_t* blocks, int64_t columns, float* row) {
    constexpr int LOW = BITS == 5 ? 48 : 16;  // d, dmin, integers, fifth bits if any, nibbles
    for (int64_t start = 0; start < columns; start += SUPER, blocks += LOW + 128) {
        const float d = half_to_float(load_half(blocks));
        const float dmin = half_to_float(load_half(blocks + 2));
        float scales[8], offsets[8];
        unpack_integers(blocks + 4, scales, offsets);
        int8_t codes[SUPER];
        for (int pair = 0; pair < 4; ++pair) {
            expand_nibbles<32>(blocks + LOW + 32 * pair, codes + 64 * pair);
        }
        if (BITS == 5) {
            add_bits(blocks + 16, 16, codes);
        }
        for (int sub = 0; sub < 8; ++sub) {
            write_line<STREAM, 32>(codes + 32 * sub, d * scales[sub], -(dmin * offsets[sub]),
                           row + start + 32 * sub);
        }
    }
}

}  // namespace

template <bool STREAM>
void dequantize_q4_k(const uint8_t* blocks, int64_t columns, float* row) {
    dequantize_line<STREAM, 4>(blocks, columns, row);
}

template <bool STREAM>
void dequantize_q5_k(const uint8_t* blocks, int64_t columns, float* row) {
    dequantize_line<STREAM, 5>(blocks, columns, row);
}

template <bool STREAM>
void dequantize_q2_k(const uint8_t* blocks, int64_t columns, float* row) {
    for (int64_t start = 0; start < columns; start += SUPER, blocks += 84) {
        const float d = half_to_float(load_half(blocks + 80));
        const float dmin = half_to_float(load_half(blocks + 82));
        int8_t codes[SUPER];
        for (int half = 0; half < 2; ++half) {
            expand_pairs(blocks + 16 + 32 * half, [&](int at, Bytes16 pairs) {
                store_16(codes + 128 * half + at, pairs);
            });
        }
        for (int sub = 0; sub < 16; ++sub) {
            const float scale = d * static_cast<float>(blocks[sub] & 15);
            const float offset = dmin * static_cast<float>(blocks[sub] >> 4);
            write_line<STREAM, 16>(codes + 16 * sub, scale, -offset, row + start + 16 * sub);
        }
    }
}

// The third bit of weight j of 32-weight run i is bit i of byte j; where it is not set, 4 is
// subtracted.
template <bool STREAM>
void dequantize_q3_k(const uint8_t* blocks, int64_t columns, float* row) {
    for (int64_t start = 0; start < columns; start += SUPER, blocks += 110) {
        const float d = half_to_float(load_half(blocks + 108));
        float scales[16];
        unpack_q3_k_scales(blocks + 96, scales);
        int8_t codes[SUPER];
        for (int half = 0; half < 2; ++half) {
            expand_pairs(blocks + 32 + 32 * half, [&](int at, Bytes16 pairs) {
                store_16(codes + 128 * half + at, pairs - 4);
            });
        }
        add_bits(blocks, 4, codes);
        for (int sub = 0; sub < 16; ++sub) {
            write_scaled<STREAM, 16>(codes + 16 * sub, d * scales[sub], row + start + 16 * sub);
        }
    }
}

// 64 bytes of low nibbles and 32 of upper pairs of bits to 128 codes -32..31.
void expand_six_bits(const uint8_t* low, const uint8_t* high, int8_t* codes) {
    expand_nibbles<64>(low, codes);
    expand_pairs(high, [&](int at, Bytes16 pairs) {
        store_16(codes + at, (load_16(codes + at) | (pairs * 16)) - 32);
    });
}

template <bool STREAM>
void dequantize_q6_k(const uint8_t* blocks, int64_t columns, float* row) {
    for (int64_t start = 0; start < columns; start += SUPER, blocks += 210) {
        const float d = half_to_float(load_half(blocks + 208));
        int8_t codes[SUPER];
        expand_six_bits(blocks, blocks + 128, codes);
        expand_six_bits(blocks + 64, blocks + 160, codes + 128);
        for (int sub = 0; sub < 16; ++sub) {
            const float scale = d * static_cast<float>(static_cast<int8_t>(blocks[192 + sub]));
            write_scaled<STREAM, 16>(codes + 16 * sub, scale, row + start + 16 * sub);
        }
    }
}

template void dequantize_q4_k<false>(const uint8_t*, int64_t, float*);
template void dequantize_q4_k<true>(const uint8_t*, int64_t, float*);
template void dequantize_q5_k<false>(const uint8_t*, int64_t, float*);
template void dequantize_q5_k<true>(const uint8_t*, int64_t, float*);
template void dequantize_q2_k<false>(const uint8_t*, int64_t, float*);
template void dequantize_q2_k<true>(const uint8_t*, int64_t, float*);
template void dequantize_q3_k<false>(const uint8_t*, int64_t, float*);
template void dequantize_q3_k<true>(const uint8_t*, int64_t, float*);
template void dequantize_q6_k<false>(const uint8_t*, int64_t, float*);
template void dequantize_q6_k<true>(const uint8_t*, int64_t, float*);

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
