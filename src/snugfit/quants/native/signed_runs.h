// Runs of weights that are rows of a grid with signs apart: what IQ2 and IQ3 share.
#pragma once

#include <cstdint>

#include "half.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET {

inline std::uint32_t load_word(const std::uint8_t* bytes) {
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
inline void write_signed(const std::int8_t* grid, float scale, int signs, float* out) {
    for (int i = 0; i < N; ++i) {
        const float value = scale * static_cast<float>(grid[i]);
        out[i] = (signs >> i) & 1 ? -value : value;
    }
}

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
