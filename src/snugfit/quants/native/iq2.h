// Quantizers of IQ2_XXS, IQ2_XS and IQ2_S, whose dequantizers are in iq_grids.cpp.
#pragma once

#include <cstdint>

namespace snugfit::SNUGFIT_INSTRUCTION_SET {

void quantize_iq2_xxs(const float* row, const float* importance, std::int64_t columns,
                      std::uint8_t* blocks);
void quantize_iq2_xs(const float* row, const float* importance, std::int64_t columns,
                     std::uint8_t* blocks);
void quantize_iq2_s(const float* row, const float* importance, std::int64_t columns,
                    std::uint8_t* blocks);

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
