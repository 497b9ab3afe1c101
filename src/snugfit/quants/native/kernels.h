// What a kernel is, and the families of kernels that the files here end with.
#pragma once

#include <cstdint>

namespace snugfit {

// Rows handed to `quantize` are finite; importance is non-negative, not all zero, or null.
using Quantize = void (*)(const float* row, const float* importance, std::int64_t columns,
                          std::uint8_t* blocks);
using Dequantize = void (*)(const std::uint8_t* blocks, std::int64_t columns, float* row);

struct Kernel {
    const char* type_name;
    int block_weights;
    int block_bytes;
    Quantize quantize;  // or null: the type is only read
    Dequantize dequantize;
    Dequantize stream;  // the same past the caches, to rows that start at multiples of 16 bytes
    Quantize quantize_best = nullptr;  // slower, with less error; or null: there is none
};

using AllFinite = bool (*)(const float* values, std::int64_t count);

struct Family {
    const Kernel* kernels;
    int count;
};

// Every family is compiled once for each instruction set, in a namespace of its own. All of them
// give the same bytes: no fast-math, no fused multiply-add, sums in an order the source fixes.
#define SNUGFIT_DECLARE_FAMILIES(instruction_set)                                            \
    namespace instruction_set {                                                              \
    extern const Family PLAIN, LEGACY, K_LINE, K_SCALE, IQ1, IQ2, IQ3, IQ4, FP4, TERNARY, BITS; \
    bool all_finite(const float* values, std::int64_t count);                                \
    }

SNUGFIT_DECLARE_FAMILIES(baseline)
#ifdef SNUGFIT_X86
SNUGFIT_DECLARE_FAMILIES(avx2)
SNUGFIT_DECLARE_FAMILIES(avx512)
#endif

}  // namespace snugfit
