// F32, F16 and BF16: types without blocks.

#include <cstring>

#include "half.h"
#include "kernels.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET {
namespace {

using std::int64_t;
using std::uint8_t;

void quantize_f32(const float* row, const float*, int64_t columns, uint8_t* blocks) {
    std::memcpy(blocks, row, static_cast<std::size_t>(columns) * 4);
}

void dequantize_f32(const uint8_t* blocks, int64_t columns, float* row) {
    std::memcpy(row, blocks, static_cast<std::size_t>(columns) * 4);
}

void quantize_f16(const float* row, const float*, int64_t columns, uint8_t* blocks) {
    for (int64_t i = 0; i < columns; ++i) {
        const std::uint16_t half = half_from_float(row[i]);
        std::memcpy(blocks + 2 * i, &half, 2);
    }
}

void dequantize_f16(const uint8_t* blocks, int64_t columns, float* row) {
    for (int64_t i = 0; i < columns; ++i) {
        std::uint16_t half;
        std::memcpy(&half, blocks + 2 * i, 2);
        row[i] = half_to_float(half);
    }
}

void quantize_bf16(const float* row, const float*, int64_t columns, uint8_t* blocks) {
    for (int64_t i = 0; i < columns; ++i) {
        const std::uint16_t half = bfloat_from_float(row[i]);
        std::memcpy(blocks + 2 * i, &half, 2);
    }
}

void dequantize_bf16(const uint8_t* blocks, int64_t columns, float* row) {
    for (int64_t i = 0; i < columns; ++i) {
        std::uint16_t half;
        std::memcpy(&half, blocks + 2 * i, 2);
        row[i] = float_of(static_cast<std::uint32_t>(half) << 16);
    }
}

const Kernel KERNELS[] = {
    {"F32", 1, 4, quantize_f32, dequantize_f32},
    {"F16", 1, 2, quantize_f16, dequantize_f16},
    {"BF16", 1, 2, quantize_bf16, dequantize_bf16},
};

}  // namespace

// Looks at every value instead of stopping at a bad one, so that it becomes vector code.
bool all_finite(const float* values, int64_t count) {
    std::int32_t largest = 0;
    for (int64_t i = 0; i < count; ++i) {
        const auto bits = static_cast<std::int32_t>(bits_of(values[i]) & 0x7fffffffu);
        largest = bits > largest ? bits : largest;
    }
    return largest < 0x7f800000;
}

const Family PLAIN{KERNELS, 3};

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
