// IQ1_S and IQ1_M: runs of eight codes -1, 0 and 1 are rows of a grid, shifted by an eighth.

#include <cmath>

#include "half.h"
#include "iq1_search.h"
#include "iq_dequantize.h"
#include "kernels.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET {
namespace {

// llama.cpp's costs: importance * sqrt(2 * mean square of the super-block + value^2). Without
// importance it refuses IQ1_S, whose importance is then 1, and in IQ1_M takes the square of the
// value, to which a part of the mean is added, so that even costs come out lower than its, too.
template <int N>
void fill_costs(Loaded<N>& loaded, const float* importance, int supers) {
    for (int start = 0; start < supers * SUPER; start += SUPER) {
        const float* value = loaded.value + start;
        float* cost = loaded.cost + start;
        const float mean_square = sum_of_squares(value, SUPER) * (1.0f / SUPER);
        for (int i = 0; i < SUPER; ++i) {
            const float square = value[i] * value[i];
            const float root = std::sqrt(2 * mean_square + square);
            if (importance != nullptr) {
                cost[i] = importance[start + i] * root;
            } else {
                cost[i] = N == 32 ? root : square + 0.6f * mean_square;
            }
        }
    }
}

void pack_iq1_s(const TernaryFit<32>& fit, int first, uint8_t* block) {
    store_half(block, half_from_float(fit.d[first]));
    for (int group = 0; group < 8; ++group) {
        const int sub = first + group;
        int high = (static_cast<int>(fit.integer[sub]) / 2) << 12;
        high |= fit.shift[0][sub] < 0 ? 0x8000 : 0;
        for (int run = 0; run < 4; ++run) {
            block[2 + 4 * group + run] = static_cast<uint8_t>(fit.row[sub][run] & 255);
            high |= (fit.row[sub][run] >> 8) << (3 * run);
        }
        store_half(block + 34 + 2 * group, static_cast<std::uint16_t>(high));
    }
}

void pack_iq1_m(const TernaryFit<16>& fit, int, uint8_t* block) {
    const int half = half_from_float(fit.d[0]);
    int words[4];
    for (int i = 0; i < 4; ++i) {
        words[i] = ((half >> (4 * i)) & 15) << 12;
    }
    for (int sub = 0; sub < SUBS; ++sub) {
        words[sub / 4] |= (static_cast<int>(fit.integer[sub]) / 2) << (sub % 4 * 3);
        int high = 0;
        for (int run = 0; run < 2; ++run) {
            const int row = fit.row[sub][run];
            block[2 * sub + run] = static_cast<uint8_t>(row & 255);
            high |= ((row >> 8) | (fit.shift[run][sub] < 0 ? 8 : 0)) << (4 * run);
        }
        block[32 + sub] = static_cast<uint8_t>(high);
    }
    for (int i = 0; i < 4; ++i) {
        store_half(block + 48 + 2 * i, static_cast<std::uint16_t>(words[i]));
    }
}

template <int N, int BYTES, void (*PACK)(const TernaryFit<N>&, int, uint8_t*)>
void quantize(const float* row, const float* importance, int64_t columns, uint8_t* blocks) {
    const TernaryGrid& grid = ternary_grid();
    Lookups<SUBS * N / RUN> lookups{};
    for_tiles<N>(row, importance, columns, fill_costs<N>,
                 [&](const Loaded<N>& loaded, int supers, int64_t first_super) {
                     TernaryFit<N> fit;
                     fit_ternary(loaded, grid, lookups, fit);
                     for (int i = 0; i < supers; ++i) {
                         PACK(fit, i * SUPER / N, blocks + (first_super + i) * BYTES);
                     }
                 });
}

const Kernel KERNELS[] = {
    {"IQ1_S", 256, 50, quantize<32, 50, pack_iq1_s>, dequantize_iq1_s<false>, dequantize_iq1_s<true>},
    {"IQ1_M", 256, 56, quantize<16, 56, pack_iq1_m>, dequantize_iq1_m<false>, dequantize_iq1_m<true>},
};

}  // namespace

const Family IQ1{KERNELS, 2};

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
