// IQ3_XXS and IQ3_S: runs of four weights are rows of a grid, with signs apart.
//
// value = d * scale * level * sign. Scales are odd integers, one for each 32 weights; levels are
// odd, too, but for the last one of IQ3_XXS.

#include <cstring>

#include "iq3_fit.h"
#include "iq_dequantize.h"
#include "kernels.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET {
namespace {

using namespace iq3;

template <typename Shape>
int row_of(const Fit& fit, int run, int sub) {
    return paired_grid<Shape>().row_of[fit.choice.code[run][sub]];
}

inline int scale_bits(const Fit& fit, int sub) {
    return (static_cast<int>(fit.choice.scale[sub]) - 1) / 2;
}

void write_block(ExtraExtraSmall, const Fit& fit, int first, uint8_t* block) {
    store_half(block, half_from_float(fit.d[first]));
    for (int i = 0; i < SUBS_OF_SUPER; ++i) {
        const int sub = first + i;
        for (int run = 0; run < RUNS; ++run) {
            block[2 + RUNS * i + run] =
                static_cast<uint8_t>(row_of<ExtraExtraSmall>(fit, run, sub));
        }
        std::uint32_t word = static_cast<std::uint32_t>(scale_bits(fit, sub)) << 28;
        for (int group = 0; group < GROUPS; ++group) {
            word |= static_cast<std::uint32_t>(fit.signs[group][sub] & 127) << (7 * group);
        }
        store_half(block + 66 + 4 * i, static_cast<std::uint16_t>(word & 0xffff));
        store_half(block + 68 + 4 * i, static_cast<std::uint16_t>(word >> 16));
    }
}

void write_block(Small, const Fit& fit, int first, uint8_t* block) {
    store_half(block, half_from_float(fit.d[first]));
    for (int i = 0; i < SUBS_OF_SUPER; ++i) {
        const int sub = first + i;
        int high = 0;
        for (int run = 0; run < RUNS; ++run) {
            const int row = row_of<Small>(fit, run, sub);
            block[2 + RUNS * i + run] = static_cast<uint8_t>(row & 255);
            high |= (row >> 8) << run;
        }
        block[66 + i] = static_cast<uint8_t>(high);
        for (int group = 0; group < GROUPS; ++group) {
            block[74 + GROUPS * i + group] = static_cast<uint8_t>(fit.signs[group][sub]);
        }
    }
    for (int i = 0; i < SUBS_OF_SUPER / 2; ++i) {
        const int low = scale_bits(fit, first + 2 * i), high = scale_bits(fit, first + 2 * i + 1);
        block[106 + i] = static_cast<uint8_t>(low | (high << 4));
    }
}

bool all_zero(const Loaded<SUB>& loaded) {
    Floats largest{};
    for (int i = 0; i < Loaded<SUB>::WEIGHTS; i += LANES) {
        largest = larger(largest, magnitude(lanes(loaded.value + i)));
    }
    bool zero = true;
    for (int lane = 0; lane < LANES; ++lane) {
        zero &= largest[lane] == 0;
    }
    return zero;
}

template <typename Shape>
void quantize(const float* row, const float* importance, int64_t columns, uint8_t* blocks) {
    Fit fit;
    for_tiles<SUB>(row, importance, columns, fill_costs,
                   [&](const Loaded<SUB>& loaded, int supers, int64_t first_super) {
                       uint8_t* first_block = blocks + first_super * Shape::BYTES;
                       if (all_zero(loaded)) {  // as rows of experts that were pruned are
                           std::memset(first_block, 0, supers * Shape::BYTES);
                           return;
                       }
                       fit.tile = loaded.tile;
                       fit_tile<Shape>(fit);
                       for (int i = 0; i < supers; ++i) {
                           write_block(Shape{}, fit, SUBS_OF_SUPER * i,
                                       first_block + i * Shape::BYTES);
                       }
                   });
}

const Kernel KERNELS[] = {
    {"IQ3_XXS", 256, 98, quantize<ExtraExtraSmall>,
     dequantize_iq3_xxs<false>, dequantize_iq3_xxs<true>},
    {"IQ3_S", 256, 110, quantize<Small>, dequantize_iq3_s<false>, dequantize_iq3_s<true>},
};

}  // namespace

const Family IQ3{KERNELS, 2};

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
