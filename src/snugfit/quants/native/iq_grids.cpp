// IQ1_S to IQ3_S: runs of 4 or 8 weights are rows of a grid, with signs apart in IQ2 and IQ3.

#include <cstring>

#include "grids.h"
#include "half.h"
#include "iq2.h"
#include "kernels.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET {
namespace {

using std::int64_t;
using std::int8_t;
using std::uint8_t;

constexpr int SUPER = 256;
constexpr float IQ1_SHIFT = 0.125f;

inline std::uint32_t load_word(const uint8_t* bytes) {
    return load_half(bytes) | (static_cast<std::uint32_t>(load_half(bytes + 2)) << 16);
}

// Signs of eight weights from seven bits: the eighth makes the number of minus signs even.
inline int even_signs(std::uint32_t bits) {
    int parity = static_cast<int>(bits & 127);
    parity ^= parity >> 4;
    parity ^= parity >> 2;
    parity ^= parity >> 1;
    return static_cast<int>(bits & 127) | ((parity & 1) << 7);
}

template <int N>
inline void write_signed(const int8_t* grid, float scale, int signs, float* out) {
    for (int i = 0; i < N; ++i) {
        const float value = scale * static_cast<float>(grid[i]);
        out[i] = (signs >> i) & 1 ? -value : value;
    }
}

inline void write_shifted(const int8_t* grid, float scale, float shift, float* out) {
    for (int i = 0; i < 8; ++i) {
        out[i] = scale * (static_cast<float>(grid[i]) + shift);
    }
}

// Each 32 weights: four grid indices of a byte, then four times seven signs and a 4-bit scale.
void dequantize_iq2_xxs(const uint8_t* blocks, int64_t columns, float* row) {
    for (int64_t start = 0; start < columns; start += SUPER, blocks += 66) {
        const float d = half_to_float(load_half(blocks));
        for (int group = 0; group < 8; ++group) {
            const uint8_t* indices = blocks + 2 + 8 * group;
            const std::uint32_t signs = load_word(indices + 4);
            const float scale = d * (0.5f + static_cast<float>(signs >> 28)) * 0.25f;
            for (int i = 0; i < 4; ++i) {
                write_signed<8>(grids.iq2_xxs + 8 * indices[i], scale, even_signs(signs >> (7 * i)),
                                row + start + 32 * group + 8 * i);
            }
        }
    }
}

// Each 8 weights: a grid index of nine bits and seven signs; each 16: a 4-bit scale.
void dequantize_iq2_xs(const uint8_t* blocks, int64_t columns, float* row) {
    for (int64_t start = 0; start < columns; start += SUPER, blocks += 74) {
        const float d = half_to_float(load_half(blocks));
        for (int run = 0; run < 32; ++run) {
            const int integer = (blocks[66 + run / 4] >> (run / 2 % 2 * 4)) & 15;
            const float scale = d * (0.5f + static_cast<float>(integer)) * 0.25f;
            const std::uint32_t code = load_half(blocks + 2 + 2 * run);
            write_signed<8>(grids.iq2_xs + 8 * (code & 511), scale, even_signs(code >> 9),
                            row + start + 8 * run);
        }
    }
}

// As IQ2_XS, with ten bits of index in two places and all eight signs stored.
void dequantize_iq2_s(const uint8_t* blocks, int64_t columns, float* row) {
    for (int64_t start = 0; start < columns; start += SUPER, blocks += 82) {
        const float d = half_to_float(load_half(blocks));
        for (int run = 0; run < 32; ++run) {
            const int integer = (blocks[74 + run / 4] >> (run / 2 % 2 * 4)) & 15;
            const float scale = d * (0.5f + static_cast<float>(integer)) * 0.25f;
            const int high = (blocks[66 + run / 4] >> (run % 4 * 2)) & 3;
            write_signed<8>(grids.iq2_s + 8 * (blocks[2 + run] | (high << 8)), scale,
                            blocks[34 + run], row + start + 8 * run);
        }
    }
}

// Each 32 weights: eight grid indices of a byte; behind all of them, signs and scale as in IQ2_XXS.
void dequantize_iq3_xxs(const uint8_t* blocks, int64_t columns, float* row) {
    for (int64_t start = 0; start < columns; start += SUPER, blocks += 98) {
        const float d = half_to_float(load_half(blocks));
        for (int group = 0; group < 8; ++group) {
            const std::uint32_t signs = load_word(blocks + 66 + 4 * group);
            const float scale = d * (0.5f + static_cast<float>(signs >> 28)) * 0.5f;
            for (int i = 0; i < 8; ++i) {
                const int8_t* grid = grids.iq3_xxs + 4 * blocks[2 + 8 * group + i];
                write_signed<4>(grid, scale, even_signs(signs >> (i / 2 * 7)) >> (i % 2 * 4),
                                row + start + 32 * group + 4 * i);
            }
        }
    }
}

// Each 4 weights: a grid index of nine bits and four signs; each 32: a 4-bit scale.
void dequantize_iq3_s(const uint8_t* blocks, int64_t columns, float* row) {
    for (int64_t start = 0; start < columns; start += SUPER, blocks += 110) {
        const float d = half_to_float(load_half(blocks));
        for (int run = 0; run < 64; ++run) {
            const int integer = (blocks[106 + run / 16] >> (run / 8 % 2 * 4)) & 15;
            const float scale = d * static_cast<float>(1 + 2 * integer);
            const int high = (blocks[66 + run / 8] >> (run % 8)) & 1;
            write_signed<4>(grids.iq3_s + 4 * (blocks[2 + run] | (high << 8)), scale,
                            blocks[74 + run / 2] >> (run % 2 * 4), row + start + 4 * run);
        }
    }
}

// Each 32 weights: four grid indices of eleven bits, a 3-bit scale, the sign of the shift.
void dequantize_iq1_s(const uint8_t* blocks, int64_t columns, float* row) {
    for (int64_t start = 0; start < columns; start += SUPER, blocks += 50) {
        const float d = half_to_float(load_half(blocks));
        for (int group = 0; group < 8; ++group) {
            const int high = load_half(blocks + 34 + 2 * group);
            const float scale = d * static_cast<float>(2 * ((high >> 12) & 7) + 1);
            const float shift = high & 0x8000 ? -IQ1_SHIFT : IQ1_SHIFT;
            for (int i = 0; i < 4; ++i) {
                const int index = blocks[2 + 4 * group + i] | (((high >> (3 * i)) & 7) << 8);
                write_shifted(grids.iq1 + 8 * index, scale, shift,
                              row + start + 32 * group + 8 * i);
            }
        }
    }
}

// Each 8 weights: a grid index of eleven bits and the sign of the shift; each 16: a 3-bit scale.
// The scales leave four bits in each of four words, which together are d.
void dequantize_iq1_m(const uint8_t* blocks, int64_t columns, float* row) {
    for (int64_t start = 0; start < columns; start += SUPER, blocks += 56) {
        int words[4], half = 0;
        for (int i = 0; i < 4; ++i) {
            words[i] = load_half(blocks + 48 + 2 * i);
            half |= (words[i] >> 12) << (4 * i);
        }
        const float d = half_to_float(static_cast<std::uint16_t>(half));
        for (int run = 0; run < 32; ++run) {
            const int integer = (words[run / 8] >> (run / 2 % 4 * 3)) & 7;
            const float scale = d * static_cast<float>(2 * integer + 1);
            const int high = blocks[32 + run / 2] >> (run % 2 * 4);
            write_shifted(grids.iq1 + 8 * (blocks[run] | ((high & 7) << 8)), scale,
                          high & 8 ? -IQ1_SHIFT : IQ1_SHIFT, row + start + 8 * run);
        }
    }
}

const Kernel KERNELS[] = {
    {"quantize_iq2_xxs", "dequantize_iq2_xxs", 256, 66, quantize_iq2_xxs, dequantize_iq2_xxs},
    {"quantize_iq2_xs", "dequantize_iq2_xs", 256, 74, quantize_iq2_xs, dequantize_iq2_xs},
    {"quantize_iq2_s", "dequantize_iq2_s", 256, 82, quantize_iq2_s, dequantize_iq2_s},
    {"quantize_iq3_xxs", "dequantize_iq3_xxs", 256, 98, nullptr, dequantize_iq3_xxs},
    {"quantize_iq3_s", "dequantize_iq3_s", 256, 110, nullptr, dequantize_iq3_s},
    {"quantize_iq1_s", "dequantize_iq1_s", 256, 50, nullptr, dequantize_iq1_s},
    {"quantize_iq1_m", "dequantize_iq1_m", 256, 56, nullptr, dequantize_iq1_m},
};

}  // namespace

const Family IQ_GRIDS{KERNELS, 7};

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
