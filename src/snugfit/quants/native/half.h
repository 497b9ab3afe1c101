// 16-bit floats as bits, in integer arithmetic that compilers turn into vector code.
#pragma once

#include <cstdint>
#include <cstring>

namespace snugfit::SNUGFIT_INSTRUCTION_SET {

inline std::uint32_t bits_of(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float float_of(std::uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline float half_to_float(std::uint16_t half) {
    const std::uint32_t sign = (half & 0x8000u) << 16;
    const std::uint32_t shifted = (half & 0x7fffu) << 13;
    // A subnormal half counts units of 2^-24, which are the last bits of a float in [0.5, 1).
    const std::uint32_t small = bits_of(float_of(0x3f000000u | (half & 0x3ffu)) - 0.5f);
    const std::uint32_t normal = shifted + 0x38000000u;
    const std::uint32_t special = shifted | 0x7f800000u;  // infinity or not a number
    const std::uint32_t exponent = half & 0x7c00u;
    const std::uint32_t finite = exponent == 0 ? small : normal;
    return float_of(sign | (exponent == 0x7c00u ? special : finite));
}

// Rounds to nearest, ties to even; beyond the range it stays at +-65504 and never gives infinity.
inline std::uint16_t half_from_float(float value) {
    const std::uint32_t bits = bits_of(value);
    const std::uint32_t sign = (bits >> 16) & 0x8000u;
    std::uint32_t magnitude = bits & 0x7fffffffu;
    magnitude = magnitude > 0x477fe000u ? 0x477fe000u : magnitude;
    const std::uint32_t small = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
    const std::uint32_t even = (magnitude >> 13) & 1u;
    const std::uint32_t normal = (magnitude + 0xfffu + even - 0x38000000u) >> 13;
    return static_cast<std::uint16_t>(sign | (magnitude < 0x38800000u ? small : normal));
}

inline float round_to_half(float value) { return half_to_float(half_from_float(value)); }

// Beyond the largest bfloat16 it stays there, as above.
inline std::uint16_t bfloat_from_float(float value) {
    const std::uint32_t bits = bits_of(value);
    const std::uint32_t sign = bits & 0x80000000u;
    std::uint32_t magnitude = bits & 0x7fffffffu;
    magnitude = magnitude > 0x7f7f0000u ? 0x7f7f0000u : magnitude;
    return static_cast<std::uint16_t>((sign | (magnitude + 0x7fffu + ((magnitude >> 16) & 1u))) >>
                                      16);
}

inline void store_half(std::uint8_t* bytes, std::uint16_t half) {
    bytes[0] = static_cast<std::uint8_t>(half & 0xff);
    bytes[1] = static_cast<std::uint8_t>(half >> 8);
}

inline std::uint16_t load_half(const std::uint8_t* bytes) {
    return static_cast<std::uint16_t>(bytes[0] | (bytes[1] << 8));
}

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
