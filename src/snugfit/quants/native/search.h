// Vectors, tiles of sub-blocks, and least-squares fits of a scale to many sub-blocks at once.
//
// A vector holds one number of each of LANES sub-blocks, so that sums over the weights of a
// sub-block need no sums across a vector. How many lanes there are changes no result.
#pragma once

#include <cstdint>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "half.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float Floats __attribute__((vector_size(4 * LANES), may_alias));

// Sub-blocks of a tile: a multiple of LANES everywhere, and whole super-blocks of every type.
constexpr int SUBS = 16;

// Larger weights overflow the scale of every type, and their squares would overflow a float.
constexpr float LARGEST = 3e8f;
// A spread below this is none: its inverse would overflow, and no scale can hold it.
constexpr float SMALLEST_SPREAD = 1e-20f;

// The weights of SUBS sub-blocks of N, and what an error of each costs; sub-blocks run along the
// last axis. Empty sub-blocks at a row's end are zeros of cost 1.
template <int N>
struct Tile {
    alignas(64) float value[N][SUBS];
    alignas(64) float cost[N][SUBS];
};

inline Floats splat(float value) { return value - Floats{}; }

inline Floats& lanes(float* first) { return *reinterpret_cast<Floats*>(first); }
inline Floats lanes(const float* first) { return *reinterpret_cast<const Floats*>(first); }

// As lanes, for a place in a row: rows start at any float.
typedef float RowFloats __attribute__((vector_size(4 * LANES), may_alias, aligned(4)));
inline Floats row_lanes(const float* first) { return *reinterpret_cast<const RowFloats*>(first); }

typedef int Whole __attribute__((vector_size(4 * LANES), may_alias));
inline void store_whole(Floats values, int* to) {
    *reinterpret_cast<Whole*>(to) = __builtin_convertvector(values, Whole);
}

// Stores the last bytes of small whole numbers. GCC takes them apart one by one, if left to itself.
template <int COUNT>
void store_bytes(const int* whole, std::uint8_t* bytes) {
    static_assert(COUNT % 16 == 0, "sixteen bytes are a vector");
    for (int i = 0; i < COUNT; i += 16) {
#if defined(__SSE2__)
        const __m128i* from = reinterpret_cast<const __m128i*>(whole + i);
        const __m128i last = _mm_set1_epi16(255);
        const __m128i low = _mm_and_si128(_mm_packs_epi32(from[0], from[1]), last);
        const __m128i high = _mm_and_si128(_mm_packs_epi32(from[2], from[3]), last);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes + i), _mm_packus_epi16(low, high));
#else
        for (int j = i; j < i + 16; ++j) {
            bytes[j] = static_cast<std::uint8_t>(whole[j]);
        }
#endif
    }
}

template <int COUNT>
void store_bytes(const Whole (&vectors)[COUNT / LANES], std::uint8_t* bytes) {
    store_bytes<COUNT>(reinterpret_cast<const int*>(vectors), bytes);
}

// The same as a < b ? a : b and a > b ? a : b, of which GCC makes two operations where one side is
// a constant.
#if defined(__AVX512F__)
inline Floats smaller(Floats a, Floats b) { return _mm512_maskz_min_ps(0xffff, a, b); }
inline Floats larger(Floats a, Floats b) { return _mm512_maskz_max_ps(0xffff, a, b); }
#elif defined(__AVX__)
inline Floats smaller(Floats a, Floats b) { return _mm256_min_ps(a, b); }
inline Floats larger(Floats a, Floats b) { return _mm256_max_ps(a, b); }
#elif defined(__SSE2__)
inline Floats smaller(Floats a, Floats b) { return _mm_min_ps(a, b); }
inline Floats larger(Floats a, Floats b) { return _mm_max_ps(a, b); }
#else
inline Floats smaller(Floats a, Floats b) { return a < b ? a : b; }
inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }
#endif
inline Floats magnitude(Floats a) { return larger(a, -a); }
inline Floats clamp(Floats a, float low, float high) {
    return smaller(larger(a, splat(low)), splat(high));
}

// Adding 1.5 * 2^23 leaves no bits for a fraction, so that the sum rounds to nearest, ties to even.
constexpr float ROUNDER = 12582912.0f;
inline Floats nearest(Floats a) { return (a + ROUNDER) - ROUNDER; }
inline float nearest(float a) { return (a + ROUNDER) - ROUNDER; }

// Rounds small numbers to whole ones, adds `zero`, and keeps their last bytes: the last bits of the
// sum are those of the whole number.
inline Whole nearest_bytes(Floats a, int zero) {
    const Floats sum = a + ROUNDER;
    return ((Whole)sum + zero) & 255;
}
inline float clamp(float a, float low, float high) { return a < low ? low : a > high ? high : a; }

// The same values as half.h's function, ties aside.
inline Floats round_to_half(Floats a) {
    const Floats bounded = clamp(a, -65504.0f, 65504.0f);
    const Floats split = bounded * 8193.0f;  // 2^13 + 1 leaves 11 of a float's 24 bits
    const Floats normal = split - (split - bounded);
    const Floats small = (bounded + 0.75f) - 0.75f;  // whole units of 2^-24
    return magnitude(bounded) < splat(6.103515625e-5f) ? small : normal;
}

inline Floats inverse(Floats a) {
    return magnitude(a) > splat(SMALLEST_SPREAD) ? 1.0f / a : Floats{};
}
inline float inverse(float a) {
    return a > SMALLEST_SPREAD || a < -SMALLEST_SPREAD ? 1.0f / a : 0.0f;
}
inline Floats divide(Floats a, Floats b) { return b > Floats{} ? a / b : Floats{}; }

// Sums in sixteen interleaved parts: an order that vector code of any width can keep.
inline float sum_of_squares(const float* values, std::int64_t count) {
    float parts[16] = {};
    for (std::int64_t i = 0; i < count; i += 16) {
        for (int j = 0; j < 16; ++j) {
            parts[j] += values[i + j] * values[i + j];
        }
    }
    float sum = 0;
    for (float part : parts) {
        sum += part;
    }
    return sum;
}

typedef float Four __attribute__((vector_size(16), may_alias));
inline Four& four(float* first) { return *reinterpret_cast<Four*>(first); }
inline Four four(const float* first) { return *reinterpret_cast<const Four*>(first); }

// Sums over one block in sixteen interleaved parts, as above, for vectors that hold some of them.
constexpr int PARTS = 16 / LANES;
inline float total(const Floats (&parts)[PARTS]) {
    alignas(64) float all[16];
    for (int i = 0; i < PARTS; ++i) {
        lanes(all + i * LANES) = parts[i];
    }
    const Four sum = (four(all) + four(all + 8)) + (four(all + 4) + four(all + 12));
    return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

// Copies [SUBS][N] to [N][SUBS], in squares of four.
template <int N>
void transpose(const float* from, float (*to)[SUBS]) {
    static_assert(N % 4 == 0 && SUBS % 4 == 0, "squares fill both");
    for (int i = 0; i < N; i += 4) {
        for (int sub = 0; sub < SUBS; sub += 4) {
            const float* corner = from + sub * N + i;
            const Four a = four(corner), b = four(corner + N);
            const Four c = four(corner + 2 * N), d = four(corner + 3 * N);
            const Four low_ab = __builtin_shufflevector(a, b, 0, 4, 1, 5);
            const Four high_ab = __builtin_shufflevector(a, b, 2, 6, 3, 7);
            const Four low_cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
            const Four high_cd = __builtin_shufflevector(c, d, 2, 6, 3, 7);
            four(&to[i][sub]) = __builtin_shufflevector(low_ab, low_cd, 0, 1, 4, 5);
            four(&to[i + 1][sub]) = __builtin_shufflevector(low_ab, low_cd, 2, 3, 6, 7);
            four(&to[i + 2][sub]) = __builtin_shufflevector(high_ab, high_cd, 0, 1, 4, 5);
            four(&to[i + 3][sub]) = __builtin_shufflevector(high_ab, high_cd, 2, 3, 6, 7);
        }
    }
}

// --- value = scale * code ----------------------------------------------------------------------

// Returns the value farthest from zero of each sub-block that starts at `first`.
template <int N>
Floats extreme_of(const Tile<N>& tile, int first) {
    Floats low{}, high{};
    for (int i = 0; i < N; ++i) {
        const Floats value = lanes(&tile.value[i][first]);
        low = smaller(low, value);
        high = larger(high, value);
    }
    return high > -low ? high : low;
}

// Rounds to whole codes from `low` to `high`. Types of uneven codes have a rule of their own.
struct WholeCodes {
    float low, high;
    Floats operator()(Floats exact) const { return clamp(nearest(exact), low, high); }
};

// A scale, and the cost of storing the sub-block with it.
struct Trial {
    Floats scale, cost;
};

// Returns the best scale, rounded to 16 bits where `HALF` asks for it, for the codes nearest to
// (value - offset) * inverse_scale. Sums are of the small differences from those codes, not of
// values, so that costs are exact enough to compare the rounding of scales.
template <bool HALF, int N, typename Codes>
Trial try_scale(const Tile<N>& tile, int first, Floats offset, Floats inverse_scale,
                const Codes& codes) {
    Floats code_code{}, rest_code{}, rest_rest{};
    for (int i = 0; i < N; ++i) {
        const Floats cost = lanes(&tile.cost[i][first]);
        const Floats exact = (lanes(&tile.value[i][first]) - offset) * inverse_scale;
        const Floats code = codes(exact);
        const Floats rest = exact - code;
        const Floats weighted = cost * rest;
        code_code += cost * code * code;
        rest_code += weighted * code;
        rest_rest += weighted * rest;
    }
    const Floats step = inverse(inverse_scale);
    const Floats fitted = step + step * divide(rest_code, code_code);
    const Floats scale = HALF ? round_to_half(fitted) : fitted;
    const Floats change = scale - step;
    const Floats cost =
        change * (change * code_code - 2.0f * step * rest_code) + step * step * rest_rest;
    return {scale, cost};
}

inline void keep_cheaper(Trial& best, const Trial& trial) {
    const auto better = trial.cost < best.cost;
    best.scale = better ? trial.scale : best.scale;
    best.cost = better ? trial.cost : best.cost;
}

// Returns the best scale found. Each target is the code that the extreme value would have; `rounds`
// then alternate between codes and the scale that fits them.
template <bool HALF, int N, int TARGETS, typename Codes>
Floats fit_scale(const Tile<N>& tile, int first, const float (&targets)[TARGETS],
                 const Codes& codes, int rounds) {
    const Floats unit = inverse(extreme_of(tile, first));
    Trial best{Floats{}, splat(3.4e38f)};
    for (float target : targets) {
        keep_cheaper(best, try_scale<HALF>(tile, first, Floats{}, target * unit, codes));
    }
    for (int round = 0; round < rounds; ++round) {
        keep_cheaper(best, try_scale<HALF>(tile, first, Floats{}, inverse(best.scale), codes));
    }
    return best.scale;
}

// A scale, and what it saves against storing zeros.
struct Saving {
    Floats scale, gain;
};

// As fit_scale, for few codes: compares what scales save against storing zeros, which costs fewer
// operations but is too inexact where errors are a small part of the values.
template <int N, int TARGETS, typename Codes>
Saving fit_by_gain(const Tile<N>& tile, int first, const float (&targets)[TARGETS],
                   const Codes& codes, int rounds) {
    const Floats unit = inverse(extreme_of(tile, first));
    Saving best{};
    const auto try_inverse = [&](Floats inverse_scale) {
        Floats code_code{}, value_code{};
        for (int i = 0; i < N; ++i) {
            const Floats value = lanes(&tile.value[i][first]);
            const Floats code = codes(value * inverse_scale);
            const Floats weighted = lanes(&tile.cost[i][first]) * code;
            code_code += weighted * code;
            value_code += weighted * value;
        }
        const Floats scale = divide(value_code, code_code);
        const Floats gain = scale * value_code;
        const auto better = gain > best.gain;
        best.gain = better ? gain : best.gain;
        best.scale = better ? scale : best.scale;
    };
    for (float target : targets) {
        try_inverse(target * unit);
    }
    for (int round = 0; round < rounds; ++round) {
        try_inverse(inverse(best.scale));
    }
    return best;
}

template <int N, int TARGETS, typename Codes>
Floats fit_coarse_scale(const Tile<N>& tile, int first, const float (&targets)[TARGETS],
                        const Codes& codes, int rounds) {
    return fit_by_gain(tile, first, targets, codes, rounds).scale;
}

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
