// Blocks of the K types to weights; k_line.cpp and k_scale.cpp list these beside their quantizers.
#pragma once

#include <cstdint>

namespace snugfit::SNUGFIT_INSTRUCTION_SET {

template <bool STREAM>
void dequantize_q2_k(const std::uint8_t* blocks, std::int64_t columns, float* row);
template <bool STREAM>
void dequantize_q3_k(const std::uint8_t* blocks, std::int64_t columns, float* row);
template <bool STREAM>
void dequantize_q4_k(const std::uint8_t* blocks, std::int64_t columns, float* row);
template <bool STREAM>
void dequantize_q5_k(const std::uint8_t* blocks, std::int64_t columns, float* row);
template <bool STREAM>
void dequantize_q6_k(const std::uint8_t* blocks, std::int64_t columns, float* row);

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
