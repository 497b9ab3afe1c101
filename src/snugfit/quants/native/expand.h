// Blocks to weights in two steps that compilers turn into vector code: bits to bytes of codes,
// which nothing else points to, then codes to floats.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "half.h"
#include "search.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET {

using std::int64_t;
using std::int8_t;
using std::uint8_t;

// Sixteen bytes. Compilers leave short loops over bytes scalar, so these are written out.
typedef uint8_t Bytes16 __attribute__((vector_size(16)));

inline Bytes16 load_16(const void* bytes) {
    Bytes16 vector;
    std::memcpy(&vector, bytes, sizeof vector);
    return vector;
}

inline void store_16(void* bytes, Bytes16 vector) { std::memcpy(bytes, &vector, sizeof vector); }

// Returns bits SHIFT and up of every byte, as many as `mask` keeps.
template <int SHIFT>
inline Bytes16 bits_from(Bytes16 bytes, uint8_t mask) {
    typedef std::uint16_t Words __attribute__((vector_size(16)));
    return (Bytes16)((Words)bytes >> SHIFT) & mask;
}

inline Bytes16 join(std::uint64_t first, std::uint64_t second) {
    typedef std::uint64_t Pair __attribute__((vector_size(16)));
    return (Bytes16)Pair{first, second};
}

inline std::uint64_t load_8(const void* bytes) {
    std::uint64_t word;
    std::memcpy(&word, bytes, sizeof word);
    return word;
}

constexpr std::uint64_t EVERY_BYTE = 0x0101010101010101;

// Eight bytes for every eight bits, the first lowest: 0xff where the bit is set.
struct MaskTable {
    std::uint64_t of[256];
    constexpr MaskTable() : of{} {
        for (int bits = 0; bits < 256; ++bits) {
            for (int i = 0; i < 8; ++i) {
                of[bits] |= ((bits >> i) & 1 ? std::uint64_t{255} : 0) << (8 * i);
            }
        }
    }
};
inline constexpr MaskTable MASKS;

// Returns `table[code]` for sixteen codes 0 to 15.
inline Bytes16 look_up(const int8_t (&table)[16], Bytes16 codes) {
#if defined(__clang__)
    for (int i = 0; i < 16; ++i) {
        codes[i] = static_cast<uint8_t>(table[codes[i]]);
    }
    return codes;
#else
    return __builtin_shuffle(load_16(table), codes);
#endif
}

typedef float Eight __attribute__((vector_size(32)));

// STREAM: past the caches, which need not fetch what is overwritten anyway; aligned to 16 bytes.
template <bool STREAM>
inline void store_eight(float* to, Eight weights) {
#if defined(__SSE2__)
    if constexpr (STREAM) {
        _mm_stream_ps(to, __builtin_shufflevector(weights, weights, 0, 1, 2, 3));
        _mm_stream_ps(to + 4, __builtin_shufflevector(weights, weights, 4, 5, 6, 7));
        return;
    }
#endif
    // Through a pointer: compilers take copies of so many bytes apart.
    typedef float Anywhere __attribute__((vector_size(32), aligned(4), may_alias));
    *reinterpret_cast<Anywhere*>(to) = weights;
}

#if defined(__AVX2__)
// Returns codes 8 * HALF to 8 * HALF + 7 as floats.
template <int HALF>
inline Eight floats_of(Bytes16 codes) {
    const __m128i half = HALF == 0 ? (__m128i)codes : _mm_srli_si128((__m128i)codes, 8);
    return (Eight)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(half));
}
#else
// Each code becomes the top byte of an integer, which is then shifted down with its sign.
template <int PART>
inline Four four_floats_of(Bytes16 codes) {
    typedef std::int16_t Words __attribute__((vector_size(16)));
    typedef std::int32_t Integers __attribute__((vector_size(16)));
    constexpr int W = PART / 2 * 8, I = PART % 2 * 4;
    const Bytes16 zeros{};
    const Words words = (Words)__builtin_shufflevector(
        zeros, codes, 0, 16 + W, 1, 17 + W, 2, 18 + W, 3, 19 + W, 4, 20 + W, 5, 21 + W, 6, 22 + W,
        7, 23 + W);
    const Integers integers = (Integers)__builtin_shufflevector(
        (Words)zeros, words, 0, 8 + I, 1, 9 + I, 2, 10 + I, 3, 11 + I);
    return __builtin_convertvector(integers >> 24, Four);
}

template <int HALF>
inline Eight floats_of(Bytes16 codes) {
    return __builtin_shufflevector(four_floats_of<2 * HALF>(codes),
                                   four_floats_of<2 * HALF + 1>(codes), 0, 1, 2, 3, 4, 5, 6, 7);
}
#endif

// Writes weight_of(code) of N codes, eight at a time.
template <bool STREAM, int N, typename WeightOf>
inline void write_weights(const int8_t* codes, float* out, const WeightOf& weight_of) {
    for (int i = 0; i < N; i += 16) {
        const Bytes16 part = load_16(codes + i);
        store_eight<STREAM>(out + i, weight_of(floats_of<0>(part)));
        store_eight<STREAM>(out + i + 8, weight_of(floats_of<1>(part)));
    }
}

template <bool STREAM, int N>
inline void write_scaled(const int8_t* codes, float scale, float* out) {
    write_weights<STREAM, N>(codes, out, [scale](Eight code) { return scale * code; });
}

template <bool STREAM, int N>
inline void write_line(const int8_t* codes, float scale, float offset, float* out) {
    write_weights<STREAM, N>(codes, out, [=](Eight code) { return scale * code + offset; });
}

// N bytes whose low halves are the first N codes, and whose high halves are the next N.
template <int N>
inline void expand_nibbles(const uint8_t* bytes, int8_t* codes) {
    if constexpr (N == 8) {
        const std::uint64_t word = load_8(bytes);
        store_16(codes, join(word & 15 * EVERY_BYTE, (word >> 4) & 15 * EVERY_BYTE));
    } else {
        for (int i = 0; i < N; i += 16) {
            const Bytes16 both = load_16(bytes + i);
            store_16(codes + i, both & 15);
            store_16(codes + N + i, bits_from<4>(both, 15));
        }
    }
}

// 32 bytes that hold two bits each of weights i, i + 32, i + 64 and i + 96; calls
// store(where, the two bits of sixteen weights) for all 128.
template <typename Store>
inline void expand_pairs(const uint8_t* bytes, const Store& store) {
    for (int i = 0; i < 32; i += 16) {
        const Bytes16 four = load_16(bytes + i);
        store(i, four & 3);
        store(i + 32, bits_from<2>(four, 3));
        store(i + 64, bits_from<4>(four, 3));
        store(i + 96, bits_from<6>(four, 3));
    }
}

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
