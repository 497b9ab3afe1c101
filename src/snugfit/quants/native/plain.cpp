// F32, F16 and BF16: types without blocks.

#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

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
    int64_t i = 0;
#if defined(__F16C__)
    for (; i + 8 <= columns; i += 8) {
        const void* halves = blocks + 2 * i;
        _mm256_storeu_ps(row + i, _mm256_cvtph_ps(_mm_loadu_si128(
                                      static_cast<const __m128i*>(halves))));
    }
#endif
    for (; i < columns; ++i) {
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

// A finite number less itself is zero, and nothing else is. Looks at all of them instead of stopping
// at a bad one, so that it becomes vector code.
bool all_finite(const float* values, int64_t count) {
    std::uint32_t bad = 0;
    for (int64_t i = 0; i < count; ++i) {
        bad |= bits_of(values[i] - values[i]);
    }
    return bad == 0;
}

void stream(const float* from, int64_t count, float* to) {
    int64_t done = 0;
#if defined(__SSE2__)
    // No ordinary stores on the way: a line that gets both kinds costs more than either.
    if (reinterpret_cast<std::uintptr_t>(to) % 16 == 0) {
        for (; done + 4 <= count; done += 4) {
            _mm_stream_ps(to + done, _mm_loadu_ps(from + done));
        }
    }
#endif
    std::memcpy(to + done, from + done, static_cast<std::size_t>(count - done) * sizeof(float));
}

// What was streamed is visible to other threads after this.
void finish_streams() {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

const Family PLAIN{KERNELS, 3};

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
