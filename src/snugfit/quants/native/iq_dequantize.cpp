// Blocks of IQ1, IQ2 and IQ3 to weights: runs of 4 or 8 weights are rows of a grid, with signs
// apart in IQ2 and IQ3.

#include "iq_dequantize.h"

#include "expand.h"
#include "grids.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET {
namespace {

constexpr int SUPER = 256;
constexpr float IQ1_SHIFTS[] = {0.125f, -0.125f};  // by a stored bit

inline std::uint32_t load_word(const uint8_t* bytes) {
    return load_half(bytes) | (static_cast<std::uint32_t>(load_half(bytes + 2)) << 16);
}

// Masks of eight signs from seven bits: the eighth makes the number of minus signs even.
struct EvenMaskTable {
    std::uint64_t of[128];
    constexpr EvenMaskTable() : of{} {
        for (int bits = 0; bits < 128; ++bits) {
            int parity = bits ^ (bits >> 4);
            parity ^= parity >> 2;
            parity ^= parity >> 1;
            of[bits] = MASKS.of[bits | ((parity & 1) << 7)];
        }
    }
};
constexpr EvenMaskTable EVEN_MASKS;

// Grid rows that fill sixteen bytes.
inline Bytes16 two_rows(const int8_t* first, const int8_t* second) {
    return join(load_8(first), load_8(second));
}
// Bit i of `high` is the ninth one of row i.
inline Bytes16 four_rows(const int8_t* grid, const uint8_t* low, std::size_t high) {
    typedef std::uint32_t Words __attribute__((vector_size(16)));
    const auto row = [=](int i) {
        std::uint32_t values;
        const int8_t* half = grid + ((high << (10 - i)) & 1024);
        std::memcpy(&values, half + std::size_t{4} * low[i], sizeof values);
        return values;
    };
    return (Bytes16)Words{row(0), row(1), row(2), row(3)};
}

inline Bytes16 two_even_masks(std::uint32_t bits) {
    return join(EVEN_MASKS.of[bits & 127], EVEN_MASKS.of[(bits >> 7) & 127]);
}

template <bool STREAM>
inline void write_signed(Bytes16 values, Bytes16 negative, float scale, float* out) {
    int8_t codes[16];
    store_16(codes, (values ^ negative) - negative);
    write_scaled<STREAM, 16>(codes, scale, out);
}

// As write_scaled, with a shift added to the values; each half of sixteen has its own.
template <bool STREAM, int N>
inline void write_shifted(const int8_t* codes, float scale, float first, float second, float* out) {
    for (int i = 0; i < N; i += 16) {
        const Bytes16 part = load_16(codes + i);
        store_eight<STREAM>(out + i, scale * (floats_of<0>(part) + first));
        store_eight<STREAM>(out + i + 8, scale * (floats_of<1>(part) + second));
    }
}

// The scales of IQ2 are odd multiples of an eighth of d.
inline float half_step(float d, int integer) {
    return d * (0.5f + static_cast<float>(integer)) * 0.25f;
}

}  // namespace

// Each 32 weights: four grid indices of a byte, then four times seven signs and a 4-bit scale.
template <bool STREAM>
void dequantize_iq2_xxs(const uint8_t* blocks, int64_t columns, float* row) {
    for (int64_t start = 0; start < columns; start += SUPER, blocks += 66) {
        const float d = half_to_float(load_half(blocks));
        for (int group = 0; group < 8; ++group) {
            const uint8_t* indices = blocks + 2 + 8 * group;
            const std::uint32_t signs = load_word(indices + 4);
            const float scale = half_step(d, static_cast<int>(signs >> 28));
            for (int i = 0; i < 4; i += 2) {
                write_signed<STREAM>(
                    two_rows(grids.iq2_xxs + 8 * indices[i], grids.iq2_xxs + 8 * indices[i + 1]),
                    two_even_masks(signs >> (7 * i)), scale, row + start + 32 * group + 8 * i);
            }
        }
    }
}

// Each 8 weights: a grid index of nine bits and seven signs; each 16: a 4-bit scale.
template <bool STREAM>
void dequantize_iq2_xs(const uint8_t* blocks, int64_t columns, float* row) {
    for (int64_t start = 0; start < columns; start += SUPER, blocks += 74) {
        const float d = half_to_float(load_half(blocks));
        for (int group = 0; group < 8; ++group) {
            const int integers = blocks[66 + group];
            for (int half = 0; half < 2; ++half) {
                const uint8_t* codes = blocks + 2 + 8 * group + 4 * half;
                const int first = load_half(codes), second = load_half(codes + 2);
                write_signed<STREAM>(two_rows(grids.iq2_xs + 8 * (first & 511),
                                      grids.iq2_xs + 8 * (second & 511)),
                             join(EVEN_MASKS.of[first >> 9], EVEN_MASKS.of[second >> 9]),
                             half_step(d, (integers >> (4 * half)) & 15),
                             row + start + 32 * group + 16 * half);
            }
        }
    }
}

// As IQ2_XS, with ten bits of index in two places and all eight signs stored.
template <bool STREAM>
void dequantize_iq2_s(const uint8_t* blocks, int64_t columns, float* row) {
    for (int64_t start = 0; start < columns; start += SUPER, blocks += 82) {
        const float d = half_to_float(load_half(blocks));
        for (int group = 0; group < 8; ++group) {
            const int integers = blocks[74 + group], high = blocks[66 + group];
            for (int half = 0; half < 2; ++half) {
                const uint8_t* low = blocks + 2 + 4 * group + 2 * half;
                const uint8_t* signs = low + 32;
                const int first = low[0] | (((high >> (4 * half)) & 3) << 8);
                const int second = low[1] | (((high >> (4 * half + 2)) & 3) << 8);
                write_signed<STREAM>(two_rows(grids.iq2_s + 8 * first, grids.iq2_s + 8 * second),
                             join(MASKS.of[signs[0]], MASKS.of[signs[1]]),
                             half_step(d, (integers >> (4 * half)) & 15),
                             row + start + 32 * group + 16 * half);
            }
        }
    }
}

// Each 32 weights: eight grid indices of a byte; behind all of them, signs and scale as in IQ2_XXS.
template <bool STREAM>
void dequantize_iq3_xxs(const uint8_t* blocks, int64_t columns, float* row) {
    for (int64_t start = 0; start < columns; start += SUPER, blocks += 98) {
        const float d = half_to_float(load_half(blocks));
        for (int group = 0; group < 8; ++group) {
            const std::uint32_t signs = load_word(blocks + 66 + 4 * group);
            const float scale = d * (0.5f + static_cast<float>(signs >> 28)) * 0.5f;
            for (int i = 0; i < 4; i += 2) {
                const uint8_t* indices = blocks + 2 + 8 * group + 2 * i;
                write_signed<STREAM>(four_rows(grids.iq3_xxs, indices, 0),
                             two_even_masks(signs >> (7 * i)), scale,
                             row + start + 32 * group + 8 * i);
            }
        }
    }
}

// Each 4 weights: a grid index of nine bits and four signs; each 32: a 4-bit scale.
template <bool STREAM>
void dequantize_iq3_s(const uint8_t* blocks, int64_t columns, float* row) {
    for (int64_t start = 0; start < columns; start += SUPER, blocks += 110) {
        const float d = half_to_float(load_half(blocks));
        for (int group = 0; group < 8; ++group) {
            const int integer = (blocks[106 + group / 2] >> (group % 2 * 4)) & 15;
            const float scale = d * static_cast<float>(1 + 2 * integer);
            const std::size_t high = blocks[66 + group];
            for (int half = 0; half < 2; ++half) {
                const uint8_t* low = blocks + 2 + 8 * group + 4 * half;
                const uint8_t* signs = blocks + 74 + 4 * group + 2 * half;
                write_signed<STREAM>(four_rows(grids.iq3_s, low, high >> (4 * half)),
                             join(MASKS.of[signs[0]], MASKS.of[signs[1]]), scale,
                             row + start + 32 * group + 16 * half);
            }
        }
    }
}

// Each 32 weights: four grid indices of eleven bits, a 3-bit scale, the sign of the shift.
template <bool STREAM>
void dequantize_iq1_s(const uint8_t* blocks, int64_t columns, float* row) {
    for (int64_t start = 0; start < columns; start += SUPER, blocks += 50) {
        const float d = half_to_float(load_half(blocks));
        for (int group = 0; group < 8; ++group) {
            const int high = load_half(blocks + 34 + 2 * group);
            const float scale = d * static_cast<float>(2 * ((high >> 12) & 7) + 1);
            const float shift = IQ1_SHIFTS[high >> 15];
            int8_t codes[32];
            for (int i = 0; i < 4; i += 2) {
                const uint8_t* low = blocks + 2 + 4 * group + i;
                const int first = low[0] | (((high >> (3 * i)) & 7) << 8);
                const int second = low[1] | (((high >> (3 * i + 3)) & 7) << 8);
                store_16(codes + 8 * i,
                         two_rows(grids.iq1 + 8 * first, grids.iq1 + 8 * second));
            }
            write_shifted<STREAM, 32>(codes, scale, shift, shift, row + start + 32 * group);
        }
    }
}

// Each 8 weights: a grid index of eleven bits and the sign of the shift; each 16: a 3-bit scale.
// The scales leave four bits in each of four words, which together are d.
template <bool STREAM>
void dequantize_iq1_m(const uint8_t* blocks, int64_t columns, float* row) {
    for (int64_t start = 0; start < columns; start += SUPER, blocks += 56) {
        int words[4], half = 0;
        for (int i = 0; i < 4; ++i) {
            words[i] = load_half(blocks + 48 + 2 * i);
            half |= (words[i] >> 12) << (4 * i);
        }
        const float d = half_to_float(static_cast<std::uint16_t>(half));
        for (int quarter = 0; quarter < 4; ++quarter) {
            for (int part = 0; part < 4; ++part) {
                const int sub = 4 * quarter + part;
                const int integer = (words[quarter] >> (3 * part)) & 7;
                const std::size_t high = blocks[32 + sub];
                const std::size_t first = blocks[2 * sub] | ((high & 7) << 8);
                const std::size_t second = blocks[2 * sub + 1] | ((high << 4) & 0x700);
                int8_t codes[16];
                store_16(codes, two_rows(grids.iq1 + 8 * first, grids.iq1 + 8 * second));
                write_shifted<STREAM, 16>(codes, d * static_cast<float>(2 * integer + 1),
                                  IQ1_SHIFTS[(high >> 3) & 1], IQ1_SHIFTS[high >> 7],
                                  row + start + 16 * sub);
            }
        }
    }
}

template void dequantize_iq2_xxs<false>(const uint8_t*, int64_t, float*);
template void dequantize_iq2_xxs<true>(const uint8_t*, int64_t, float*);
template void dequantize_iq2_xs<false>(const uint8_t*, int64_t, float*);
template void dequantize_iq2_xs<true>(const uint8_t*, int64_t, float*);
template void dequantize_iq2_s<false>(const uint8_t*, int64_t, float*);
template void dequantize_iq2_s<true>(const uint8_t*, int64_t, float*);
template void dequantize_iq3_xxs<false>(const uint8_t*, int64_t, float*);
template void dequantize_iq3_xxs<true>(const uint8_t*, int64_t, float*);
template void dequantize_iq3_s<false>(const uint8_t*, int64_t, float*);
template void dequantize_iq3_s<true>(const uint8_t*, int64_t, float*);
template void dequantize_iq1_s<false>(const uint8_t*, int64_t, float*);
template void dequantize_iq1_s<true>(const uint8_t*, int64_t, float*);
template void dequantize_iq1_m<false>(const uint8_t*, int64_t, float*);
template void dequantize_iq1_m<true>(const uint8_t*, int64_t, float*);

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
