// Blocks of IQ1, IQ2 and IQ3 to weights.
#pragma once

#include <cstdint>

namespace snugfit::SNUGFIT_INSTRUCTION_SET {

template <bool STREAM>
void dequantize_iq2_xxs(const std::uint8_t* blocks, std::int64_t columns, float* row);
template <bool STREAM>
void dequantize_iq2_xs(const std::uint8_t* blocks, std::int64_t columns, float* row);
template <bool STREAM>
void dequantize_iq2_s(const std::uint8_t* blocks, std::int64_t columns, float* row);
template <bool STREAM>
void dequantize_iq3_xxs(const std::uint8_t* blocks, std::int64_t columns, float* row);
template <bool STREAM>
void dequantize_iq3_s(const std::uint8_t* blocks, std::int64_t columns, float* row);
template <bool STREAM>
void dequantize_iq1_s(const std::uint8_t* blocks, std::int64_t columns, float* row);
template <bool STREAM>
void dequantize_iq1_m(const std::uint8_t* blocks, std::int64_t columns, float* row);

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
