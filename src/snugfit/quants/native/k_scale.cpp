// Q3_K and Q6_K: value = d * scale * code, with integer scales.

#include <cmath>
#include <cstring>

#include "best_scale.h"
#include "k_dequantize.h"
#include "kernels.h"
#include "scale_search.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET {
namespace {

constexpr int SUB = 16;
static_assert(SUPER / SUB == SUBS, "a tile is one super-block");

// Shapes for scale_search.h. TARGETS are the codes that the extreme value of a sub-block may have.
struct ThreeBits {
    static constexpr int SUB = 16;
    static constexpr Spread LOW_TARGETS{-6, -2.5f}, HIGH_TARGETS{4.5f, 2};
    static constexpr float LOW = -4, HIGH = 3, LOWEST_SCALE = -32, HIGHEST_SCALE = 31;
    // Where costs are even, fewer starts find as good a scale.
    static constexpr float PLAIN_TARGETS[] = {-4.0f, -3.4f, -4.6f, 3.2f};
    static constexpr float TARGETS[] = {-4.0f, -3.0f, -3.2f, -3.4f, -3.6f, -3.8f, -4.2f, -4.4f,
                                        -4.6f, -4.8f, -5.2f, 3.0f,  3.2f,  3.4f,  2.8f,  2.6f};
    alignas(64) static constexpr float SCALE_TARGETS[16] = {
        -32.0f, -32.3f, -31.7f, -31.4f, -31.0f, -30.5f, -30.0f, -29.0f,
        31.0f,  31.3f,  30.7f,  30.4f,  30.0f,  29.5f,  29.0f,  28.0f};
    static Floats codes(Floats exact) { return clamp(nearest(exact), LOW, HIGH); }
    static Floats fit(const Tile<SUB>& tile, int first, bool uneven_costs) {
        constexpr WholeCodes CODES{LOW, HIGH};
        return uneven_costs ? fit_coarse_scale(tile, first, TARGETS, CODES, 2)
                            : fit_coarse_scale(tile, first, PLAIN_TARGETS, CODES, 1);
    }
};
struct SixBits {
    static constexpr int SUB = 16;
    static constexpr Spread LOW_TARGETS{-33.5f, -28}, HIGH_TARGETS{32.5f, 28};
    static constexpr float LOW = -32, HIGH = 31, LOWEST_SCALE = -128, HIGHEST_SCALE = 127;
    static constexpr float TARGETS[] = {-32.0f, -31.2f, -31.6f, -32.4f,
                                    -32.9f, -30.6f, 30.6f,  31.2f};
    alignas(64) static constexpr float SCALE_TARGETS[16] = {
        -128.0f, -128.3f, -127.5f, -127.0f, -126.5f, -126.0f, -125.0f, -124.0f,
        127.0f,  127.3f,  126.5f,  126.0f,  125.0f,  124.0f,  123.0f,  122.0f};
    static Floats codes(Floats exact) { return clamp(nearest(exact), LOW, HIGH); }
    static Floats fit(const Tile<SUB>& tile, int first, bool) {
        return fit_scale<false>(tile, first, TARGETS, WholeCodes{LOW, HIGH}, 1);
    }
};

// llama.cpp's costs: without importance the square of the value; with it, the importance itself in
// Q6_K, and importance * sqrt(2 * mean square of the super-block + value^2) in Q3_K. To Q3_K's
// squares a typical one is added, so that even costs come out lower than its, too.
template <typename Shape>
void fill_costs(Loaded<SUB>& loaded, const float* importance, int) {
    constexpr bool COARSE = Shape::HIGH < SixBits::HIGH;
    const float* value = loaded.value;
    if (importance == nullptr) {
        const float base = COARSE ? 3 * typical_square(value, SUPER) : 0.0f;
        for (int i = 0; i < SUPER; ++i) {
            loaded.cost[i] = value[i] * value[i] + base;
        }
    } else {
        const float base = COARSE ? sum_of_squares(value, SUPER) * (2.0f / SUPER) : 0.0f;
        for (int i = 0; i < SUPER; ++i) {
            loaded.cost[i] =
                COARSE ? importance[i] * std::sqrt(base + value[i] * value[i]) : importance[i];
        }
    }
}

void pack_q6_k(const uint8_t* codes, const float* scales, float d, uint8_t* block) {
    for (int half = 0; half < 2; ++half, codes += 128) {
        uint8_t* low = block + half * 64;
        uint8_t* high = block + 128 + half * 32;
        for (int i = 0; i < 32; ++i) {
            const int a = codes[i], b = codes[i + 32], c = codes[i + 64], e = codes[i + 96];
            low[i] = static_cast<uint8_t>((a & 15) | ((c & 15) << 4));
            low[i + 32] = static_cast<uint8_t>((b & 15) | ((e & 15) << 4));
            high[i] = static_cast<uint8_t>((a >> 4) | ((b >> 4) << 2) | ((c >> 4) << 4) |
                                           ((e >> 4) << 6));
        }
    }
    for (int sub = 0; sub < SUBS; ++sub) {
        block[192 + sub] = static_cast<uint8_t>(static_cast<int>(scales[sub]));
    }
    store_half(block + 208, half_from_float(d));
}

// Third bits (bit i of byte j is weight j of 32-weight run i), pairs of bits, scales as
// k_dequantize.cpp reads them, d.
void pack_q3_k(const uint8_t* codes, const float* scales, float d, uint8_t* block) {
    for (int i = 0; i < 32; ++i) {
        int byte = 0;
        for (int run = 0; run < 8; ++run) {
            byte |= (codes[run * 32 + i] >> 2) << run;
        }
        block[i] = static_cast<uint8_t>(byte);
    }
    pack_pairs_of_bits(codes, block + 32);
    int integers[16], high[4] = {};
    for (int i = 0; i < 16; ++i) {
        integers[i] = static_cast<int>(scales[i]) + 32;
        high[i % 4] |= (integers[i] >> 4) << (i / 4 * 2);
    }
    for (int i = 0; i < 8; ++i) {
        block[96 + i] = static_cast<uint8_t>((integers[i] & 15) | ((integers[i + 8] & 15) << 4));
    }
    for (int i = 0; i < 4; ++i) {
        block[104 + i] = static_cast<uint8_t>(high[i]);
    }
    store_half(block + 108, half_from_float(d));
}

template <typename Shape>
void find_codes(const float* values, const float* scales, float d, uint8_t* codes) {
    alignas(64) float unit[SUBS];
    for (int first = 0; first < SUBS; first += LANES) {
        lanes(unit + first) = inverse(lanes(scales + first) * d);
    }
    for (int sub = 0; sub < SUBS; ++sub) {
        store_codes<SUB>(values + sub * SUB, 0, unit[sub], Shape::LOW, Shape::HIGH,
                         codes + sub * SUB);
    }
}

using Pack = void (*)(const uint8_t* codes, const float* scales, float d, uint8_t* block);

template <typename Shape, int BYTES, Pack PACK>
void quantize(const float* row, const float* importance, int64_t columns, uint8_t* blocks) {
    for_tiles<SUB>(row, importance, columns, fill_costs<Shape>,
                   [&](const Loaded<SUB>& loaded, int, int64_t super) {
                       ScaleFit fit;
                       fit_scales(Shape{}, loaded.tile, importance != nullptr, fit);
                       uint8_t codes[SUPER];
                       find_codes<Shape>(loaded.value, fit.choice.scale, fit.d[0], codes);
                       PACK(codes, fit.choice.scale, fit.d[0], blocks + super * BYTES);
                   });
}

// llama.cpp's costs: importance * sqrt(2 * mean square of the super-block + value^2) in Q3_K, the
// importance itself in Q6_K; without importance the square of the value.
template <typename Shape>
void fill_best_costs(Loaded<SUB>& loaded, const float* importance, int supers) {
    if (importance != nullptr) {
        fill_costs<Shape>(loaded, importance, supers);
        return;
    }
    for (int i = 0; i < SUPER; ++i) {
        loaded.cost[i] = loaded.value[i] * loaded.value[i];
    }
}

template <typename Shape, int BYTES, Pack PACK, Dequantize READ>
void quantize_best(const float* row, const float* importance, int64_t columns, uint8_t* blocks) {
    for_tiles<SUB>(row, importance, columns, fill_best_costs<Shape>,
                   [&](const Loaded<SUB>& loaded, int, int64_t super) {
                       const StoredScales best = fit_best_scales(Shape{}, loaded.tile);
                       uint8_t codes[SUPER];
                       uint8_t* block = blocks + super * BYTES;
                       find_codes<Shape>(loaded.value, best.scale, best.d[0], codes);
                       PACK(codes, best.scale, best.d[0], block);
                       const float* costs = importance ? importance + super * SUPER : nullptr;
                       keep_cheaper_blocks<SUPER, BYTES>(
                           loaded, costs, 1, quantize<Shape, BYTES, PACK>, READ, block);
                   });
}

const Kernel KERNELS[] = {
    {"Q3_K", 256, 110, quantize<ThreeBits, 110, pack_q3_k>,
     dequantize_q3_k<false>, dequantize_q3_k<true>, quantize_best<ThreeBits, 110, pack_q3_k, dequantize_q3_k<false>>},
    {"Q6_K", 256, 210, quantize<SixBits, 210, pack_q6_k>,
     dequantize_q6_k<false>, dequantize_q6_k<true>, quantize_best<SixBits, 210, pack_q6_k, dequantize_q6_k<false>>},
};

}  // namespace

const Family K_SCALE{KERNELS, 2};

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
