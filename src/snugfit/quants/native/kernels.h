// What a kernel is, and the tables of kernels that each family file ends with.
#pragma once

#include <cstdint>

namespace snugfit {

// Rows handed to `quantize` are finite; importance is non-negative, not all zero, or null.
using Quantize = void (*)(const float* row, const float* importance, std::int64_t columns,
                          std::uint8_t* blocks);
using Dequantize = void (*)(const std::uint8_t* blocks, std::int64_t columns, float* row);

struct Kernel {
    const char* quantize_name;  // as Python sees it
    const char* dequantize_name;
    int block_weights;
    int block_bytes;
    Quantize quantize;
    Dequantize dequantize;
};

// Every family is compiled once for each instruction set, in a namespace of its own. All of them
// give the same bytes: no fast-math, no fused multiply-add, sums in an order the source fixes.
#define SNUGFIT_DECLARE_FAMILIES(instruction_set) \
    namespace instruction_set {                   \
    extern const Kernel PLAIN[3];                 \
    extern const Kernel LEGACY[5];                \
    extern const Kernel K_QUANTS[3];              \
    }

SNUGFIT_DECLARE_FAMILIES(baseline)
#ifdef SNUGFIT_X86
SNUGFIT_DECLARE_FAMILIES(avx2)
SNUGFIT_DECLARE_FAMILIES(avx512)
#endif

}  // namespace snugfit
