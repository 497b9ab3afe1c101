// IQ1 and IQ2: runs of 8 weights are rows of a grid, with signs apart in IQ2.

#include <cstring>

#include "grids.h"
#include "half.h"
#include "kernels.h"
#include "signed_runs.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET {
namespace {

using std::int64_t;
using std::int8_t;
using std::uint8_t;

constexpr int SUPER = 256;
constexpr float IQ1_SHIFT = 0.125f;

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
    {"quantize_iq2_xxs", "dequantize_iq2_xxs", 256, 66, nullptr, dequantize_iq2_xxs},
    {"quantize_iq2_xs", "dequantize_iq2_xs", 256, 74, nullptr, dequantize_iq2_xs},
    {"quantize_iq2_s", "dequantize_iq2_s", 256, 82, nullptr, dequantize_iq2_s},
    {"quantize_iq1_s", "dequantize_iq1_s", 256, 50, nullptr, dequantize_iq1_s},
    {"quantize_iq1_m", "dequantize_iq1_m", 256, 56, nullptr, dequantize_iq1_m},
};

}  // namespace

const Family IQ_GRIDS{KERNELS, 5};

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
