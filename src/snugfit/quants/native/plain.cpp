// F32, F16 and BF16: types without blocks.

#include <cstring>

#include "expand.h"
#include "kernels.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET {
namespace {

void quantize_f32(const float* row, const float*, int64_t columns, uint8_t* blocks) {
    std::memcpy(blocks, row, static_cast<std::size_t>(columns) * 4);
}

// Eight floats from 32 or 16 bytes.
inline Eight eight_of_f32(const uint8_t* bytes) {
    Eight weights;
    std::memcpy(&weights, bytes, sizeof weights);
    return weights;
}

inline Eight eight_of_f16(const uint8_t* bytes) {
#if defined(__F16C__)
    return (Eight)_mm256_cvtph_ps((__m128i)load_16(bytes));
#else
    Eight weights;
    for (int i = 0; i < 8; ++i) {
        weights[i] = half_to_float(load_half(bytes + 2 * i));
    }
    return weights;
#endif
}

inline Eight eight_of_bf16(const uint8_t* bytes) {
    typedef std::uint16_t Words __attribute__((vector_size(16)));
    typedef std::uint32_t Integers __attribute__((vector_size(32)));
    const Words halves = (Words)load_16(bytes);
    return (Eight)(__builtin_convertvector(halves, Integers) << 16);
}

// Reads eight at a time, and what is left of a row with zeros behind it.
template <bool STREAM, int BYTES, Eight (*READ)(const uint8_t*)>
void dequantize(const uint8_t* blocks, int64_t columns, float* row) {
    int64_t i = 0;
    for (; i + 8 <= columns; i += 8) {
        store_eight<STREAM>(row + i, READ(blocks + BYTES * i));
    }
    if (i < columns) {
        const auto left = static_cast<std::size_t>(columns - i);
        uint8_t last[8 * BYTES] = {};
        std::memcpy(last, blocks + BYTES * i, BYTES * left);
        const Eight weights = READ(last);
        std::memcpy(row + i, &weights, sizeof(float) * left);
    }
}

void quantize_f16(const float* row, const float*, int64_t columns, uint8_t* blocks) {
    for (int64_t i = 0; i < columns; ++i) {
        const std::uint16_t half = half_from_float(row[i]);
        std::memcpy(blocks + 2 * i, &half, 2);
    }
}

void quantize_bf16(const float* row, const float*, int64_t columns, uint8_t* blocks) {
    for (int64_t i = 0; i < columns; ++i) {
        const std::uint16_t half = bfloat_from_float(row[i]);
        std::memcpy(blocks + 2 * i, &half, 2);
    }
}

const Kernel KERNELS[] = {
    {"F32", 1, 4, quantize_f32, dequantize<false, 4, eight_of_f32>,
     dequantize<true, 4, eight_of_f32>},
    {"F16", 1, 2, quantize_f16, dequantize<false, 2, eight_of_f16>,
     dequantize<true, 2, eight_of_f16>},
    {"BF16", 1, 2, quantize_bf16, dequantize<false, 2, eight_of_bf16>,
     dequantize<true, 2, eight_of_bf16>},
};

}  // namespace

// A finite number less itself is zero, and nothing else is. Looks at all of them instead of stopping
// at a bad one, so that it becomes vector code.
bool all_finite(const float* values, int64_t count) {
    std::uint32_t bad = 0;
    for (int64_t i = 0; i < count; ++i) {
        bad |= bits_of(values[i] - values[i]);
    }
    return bad == 0;
}

const Family PLAIN{KERNELS, 3};

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
