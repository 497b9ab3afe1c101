// Blocks of Q2_K, Q3_K, Q4_K, Q5_K and Q6_K to weights.

#include "k_dequantize.h"

#include "half.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET {
namespace {

using std::int64_t;
using std::uint8_t;

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

template <int BITS>
void dequantize_line(const uint8_t* blocks, int64_t columns, float* row) {
    constexpr int LOW = BITS == 5 ? 48 : 16;  // d, dmin, integers, fifth bits if any, nibbles
    for (int64_t start = 0; start < columns; start += SUPER, blocks += LOW + 128) {
        const float d = half_to_float(load_half(blocks));
        const float dmin = half_to_float(load_half(blocks + 2));
        float scales[8], offsets[8];
        unpack_integers(blocks + 4, scales, offsets);
        for (int sub = 0; sub < 8; ++sub) {
            const uint8_t* low = blocks + LOW + sub / 2 * 32;
            const uint8_t* high = blocks + 16;
            const float scale = d * scales[sub];
            const float offset = dmin * offsets[sub];
            float* out = row + start + sub * 32;
            for (int i = 0; i < 32; ++i) {
                int code = (low[i] >> (sub % 2 * 4)) & 15;
                if (BITS == 5) {
                    code |= ((high[i] >> sub) & 1) << 4;
                }
                out[i] = scale * static_cast<float>(code) - offset;
            }
        }
    }
}

}  // namespace

void dequantize_q4_k(const uint8_t* blocks, int64_t columns, float* row) {
    dequantize_line<4>(blocks, columns, row);
}

void dequantize_q5_k(const uint8_t* blocks, int64_t columns, float* row) {
    dequantize_line<5>(blocks, columns, row);
}

// In Q2_K and Q3_K, 32 bytes hold two bits each of weights i, i + 32, i + 64 and i + 96.
void dequantize_q2_k(const uint8_t* blocks, int64_t columns, float* row) {
    for (int64_t start = 0; start < columns; start += SUPER, blocks += 84) {
        const float d = half_to_float(load_half(blocks + 80));
        const float dmin = half_to_float(load_half(blocks + 82));
        for (int sub = 0; sub < 16; ++sub) {
            const uint8_t* codes = blocks + 16 + sub / 8 * 32 + sub % 2 * 16;
            const int shift = sub % 8 / 2 * 2;
            const float scale = d * static_cast<float>(blocks[sub] & 15);
            const float offset = dmin * static_cast<float>(blocks[sub] >> 4);
            float* out = row + start + sub * 16;
            for (int i = 0; i < 16; ++i) {
                out[i] = scale * static_cast<float>((codes[i] >> shift) & 3) - offset;
            }
        }
    }
}

void dequantize_q3_k(const uint8_t* blocks, int64_t columns, float* row) {
    for (int64_t start = 0; start < columns; start += SUPER, blocks += 110) {
        const float d = half_to_float(load_half(blocks + 108));
        float scales[16];
        unpack_q3_k_scales(blocks + 96, scales);
        for (int sub = 0; sub < 16; ++sub) {
            const uint8_t* codes = blocks + 32 + sub / 8 * 32 + sub % 2 * 16;
            const uint8_t* high = blocks + sub % 2 * 16;
            const int shift = sub % 8 / 2 * 2;
            const float scale = d * scales[sub];
            float* out = row + start + sub * 16;
            for (int i = 0; i < 16; ++i) {
                const int code = ((codes[i] >> shift) & 3) | (((high[i] >> (sub / 2)) & 1) << 2);
                out[i] = scale * static_cast<float>(code - 4);
            }
        }
    }
}

void dequantize_q6_k(const uint8_t* blocks, int64_t columns, float* row) {
    for (int64_t start = 0; start < columns; start += SUPER, blocks += 210) {
        const float d = half_to_float(load_half(blocks + 208));
        for (int sub = 0; sub < 16; ++sub) {
            const int part = sub % 8 / 2;  // which quarter of the 128 weights
            const int at = sub % 2 * 16;
            const uint8_t* low = blocks + sub / 8 * 64 + part % 2 * 32 + at;
            const uint8_t* high = blocks + 128 + sub / 8 * 32 + at;
            const float scale = d * static_cast<float>(static_cast<std::int8_t>(blocks[192 + sub]));
            float* out = row + start + sub * 16;
            for (int i = 0; i < 16; ++i) {
                const int nibble = (low[i] >> (part / 2 * 4)) & 15;
                const int code = nibble | (((high[i] >> (part * 2)) & 3) << 4);
                out[i] = scale * static_cast<float>(code - 32);
            }
        }
    }
}

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
