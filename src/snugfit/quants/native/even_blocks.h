// Blocks of 32 weights whose errors all count alike: scales and offsets from one or two sets of
// codes.
//
// Rows are read as they lie, a vector holding neighbours of one block, since turning them would
// cost more than the fits. Sixteen blocks make a group. A sum over a block ends in four partial
// sums; those of a group are turned, and from then on a vector holds one number of each block.
#pragma once

#include "search.h"

namespace snugfit::SNUGFIT_INSTRUCTION_SET {

constexpr int EVEN_BLOCK = 32;
constexpr int GROUP = EVEN_BLOCK * SUBS;

struct Sum {
    template <typename Vector>
    Vector operator()(Vector a, Vector b) const {
        return a + b;
    }
};
struct Smallest {
    template <typename Vector>
    Vector operator()(Vector a, Vector b) const {
        return a < b ? a : b;
    }
};
struct Largest {
    template <typename Vector>
    Vector operator()(Vector a, Vector b) const {
        return a > b ? a : b;
    }
};

// Joins the parts of lanes i, i + 4, i + 8 and i + 12: first those 8 apart, as for any width.
template <typename Join, typename Vector>
inline Four fold(const Vector (&parts)[PARTS], Join join) {
    if constexpr (PARTS == 4) {
        return join(join(parts[0], parts[2]), join(parts[1], parts[3]));
    } else if constexpr (PARTS == 2) {
        const Vector eight = join(parts[0], parts[1]);
        return join(__builtin_shufflevector(eight, eight, 0, 1, 2, 3),
                    __builtin_shufflevector(eight, eight, 4, 5, 6, 7));
    } else {
        const Vector all = parts[0];
        return join(join(__builtin_shufflevector(all, all, 0, 1, 2, 3),
                         __builtin_shufflevector(all, all, 8, 9, 10, 11)),
                    join(__builtin_shufflevector(all, all, 4, 5, 6, 7),
                         __builtin_shufflevector(all, all, 12, 13, 14, 15)));
    }
}

// One number of each block of a group, while it is in four parts.
template <typename Join>
class Folded {
public:
    void put(int block, const Floats (&parts)[PARTS]) {
        four(parts_ + 4 * block) = fold(parts, Join{});
    }
    // Turns squares of four and joins their rows.
    void join_to(float* out) const {
        const Join join;
        for (int block = 0; block < SUBS; block += 4) {
            const float* corner = parts_ + 4 * block;
            const Four a = four(corner), b = four(corner + 4);
            const Four c = four(corner + 8), d = four(corner + 12);
            const Four ab = join(__builtin_shufflevector(a, b, 0, 4, 1, 5),
                                 __builtin_shufflevector(a, b, 2, 6, 3, 7));
            const Four cd = join(__builtin_shufflevector(c, d, 0, 4, 1, 5),
                                 __builtin_shufflevector(c, d, 2, 6, 3, 7));
            four(out + block) = join(__builtin_shufflevector(ab, cd, 0, 1, 4, 5),
                                     __builtin_shufflevector(ab, cd, 2, 3, 6, 7));
        }
    }

private:
    alignas(64) float parts_[4 * SUBS];
};

// Sixteen blocks: their weights, where they lie, and the smallest and largest one of each.
struct Group {
    const float* value;
    alignas(64) float low[SUBS], high[SUBS];
};

inline void find_ends(Group& group) {
    Folded<Smallest> lows;
    Folded<Largest> highs;
    for (int block = 0; block < SUBS; ++block) {
        Floats low[PARTS], high[PARTS];
        for (int part = 0; part < PARTS; ++part) {
            const Floats a = row_lanes(group.value + block * EVEN_BLOCK + part * LANES);
            const Floats b = row_lanes(group.value + block * EVEN_BLOCK + 16 + part * LANES);
            low[part] = smaller(a, b);
            high[part] = larger(a, b);
        }
        lows.put(block, low);
        highs.put(block, high);
    }
    lows.join_to(group.low);
    highs.join_to(group.high);
}

inline bool has_huge(const Group& group) {
    bool huge = false;
    for (int i = 0; i < SUBS; ++i) {
        huge |= group.high[i] > LARGEST || group.low[i] < -LARGEST;
    }
    return huge;
}

// Asks for a group of the next row, most likely: it is looked at before it is quantized, which would
// wait for memory, whereas this row keeps the processor busy. What is not there is not fetched.
inline void prefetch(const float* group) {
    const auto* bytes = reinterpret_cast<const char*>(group);
    for (int line = 0; line < GROUP * static_cast<int>(sizeof(float)); line += 64) {
        __builtin_prefetch(bytes + line);
    }
}

// Calls work(group, blocks, first block) for each group of a row. Weights are copied only where
// some are too large, and at a row's end, where zeros follow them.
template <typename Work>
void for_groups(const float* row, std::int64_t columns, const Work& work) {
    Group group;
    alignas(64) float copy[GROUP];
    for (std::int64_t start = 0; start < columns; start += GROUP) {
        const int count = static_cast<int>(columns - start < GROUP ? columns - start : GROUP);
        const auto take_copy = [&] {
            for (int i = 0; i < GROUP; ++i) {
                copy[i] = i < count ? clamp(row[start + i], -LARGEST, LARGEST) : 0.0f;
            }
            group.value = copy;
        };
        group.value = row + start;
        prefetch(row + columns + start);
        if (count < GROUP) {
            take_copy();
        }
        find_ends(group);
        if (has_huge(group)) {
            take_copy();
            find_ends(group);
        }
        work(group, count / EVEN_BLOCK, start / EVEN_BLOCK);
    }
}

// --- value = scale * code ----------------------------------------------------------------------

// Sums over the codes of each block for one start, and over what they leave, counted in steps.
struct EvenScaleSums {
    alignas(64) float unit[SUBS], code_code[SUBS], rest_code[SUBS], rest_rest[SUBS];
};

inline void sum_even_scales(const Group& group, float low, float high, EvenScaleSums& sums) {
    Folded<Sum> squares, products, rests;
    for (int block = 0; block < SUBS; ++block) {
        const float* value = group.value + block * EVEN_BLOCK;
        Floats square_sums[PARTS]{}, product_sums[PARTS]{}, rest_sums[PARTS]{};
        for (int i = 0; i < EVEN_BLOCK / LANES; ++i) {
            const Floats exact = row_lanes(value + i * LANES) * sums.unit[block];
            const Floats code = clamp(nearest(exact), low, high);
            const Floats rest = exact - code;
            square_sums[i % PARTS] += code * code;
            product_sums[i % PARTS] += rest * code;
            rest_sums[i % PARTS] += rest * rest;
        }
        squares.put(block, square_sums);
        products.put(block, product_sums);
        rests.put(block, rest_sums);
    }
    squares.join_to(sums.code_code);
    products.join_to(sums.rest_code);
    rests.join_to(sums.rest_rest);
}

// Finds a 16-bit scale for each block, from the codes of each start. A start is the code that the
// value farthest from zero would have. For the codes that the first start gives, no 16-bit scale is
// better than the one found.
template <int STARTS>
void fit_even_scales(const Group& group, const float (&starts)[STARTS], float low, float high,
                     float* scale) {
    EvenScaleSums sums[STARTS];
    for (int start = 0; start < STARTS; ++start) {
        for (int first = 0; first < SUBS; first += LANES) {
            const Floats least = lanes(group.low + first), most = lanes(group.high + first);
            lanes(sums[start].unit + first) =
                starts[start] * inverse(most > -least ? most : least);
        }
        sum_even_scales(group, low, high, sums[start]);
    }
    for (int first = 0; first < SUBS; first += LANES) {
        Trial best{Floats{}, splat(3.4e38f)};
        for (const EvenScaleSums& sum : sums) {
            const Floats step = inverse(lanes(sum.unit + first));
            const Floats product = lanes(sum.rest_code + first);
            const Floats square = lanes(sum.code_code + first);
            const Floats fitted = round_to_half(step + step * divide(product, square));
            const Floats change = fitted - step;
            keep_cheaper(best, {fitted, change * (change * square - 2.0f * step * product) +
                                            step * step * lanes(sum.rest_rest + first)});
        }
        lanes(scale + first) = best.scale;
    }
}

// --- value = scale * code + offset -------------------------------------------------------------

// Calls keep(block, codes) with the codes of each block, as integers, that make `low` 0 and the
// largest weight `top`. Sums them, and what they leave, counted in steps.
template <typename Keep>
void sum_even_lines(const Group& group, const float* unit, float* code_sum, float* rest_sum,
                    const Keep& keep) {
    Folded<Sum> codes, steps;
    for (int block = 0; block < SUBS; ++block) {
        const float* value = group.value + block * EVEN_BLOCK;
        Whole code[EVEN_BLOCK / LANES], code_sums[PARTS]{};
        Floats above_sums[PARTS]{};
        for (int i = 0; i < EVEN_BLOCK / LANES; ++i) {
            const Floats above = row_lanes(value + i * LANES) - group.low[block];
            code[i] = nearest_bytes(above * unit[block], 0);
            code_sums[i % PARTS] += code[i];
            above_sums[i % PARTS] += above;
        }
        keep(block, code);
        Floats float_sums[PARTS];
        for (int part = 0; part < PARTS; ++part) {
            float_sums[part] = __builtin_convertvector(code_sums[part], Floats);
            above_sums[part] *= unit[block];
        }
        codes.put(block, float_sums);
        steps.put(block, above_sums);
    }
    codes.join_to(code_sum);
    steps.join_to(rest_sum);
    for (int first = 0; first < SUBS; first += LANES) {
        lanes(rest_sum + first) -= lanes(code_sum + first);
    }
}

// Finds 16-bit scales and offsets. Scales give each block's ends the codes 0 and `top`, which is
// all that llama.cpp does; offsets are then the best ones for codes and rounded scales.
template <typename Keep>
void fit_even_lines(Group& group, float top, float* scale, float* offset, const Keep& keep) {
    alignas(64) float unit[SUBS], code_sum[SUBS], rest_sum[SUBS];
    for (int first = 0; first < SUBS; first += LANES) {
        const Floats low = lanes(group.low + first), high = lanes(group.high + first);
        // Equal values leave the scale free: it then holds what a smaller offset lacks.
        const auto flat = (high == low) & (magnitude(low) > splat(0x1p-8f));
        const Floats base = flat ? low - magnitude(low) * 0x1p-11f : low;
        lanes(group.low + first) = base;
        lanes(unit + first) = top * inverse(high - base);
    }
    sum_even_lines(group, unit, code_sum, rest_sum, keep);
    for (int first = 0; first < SUBS; first += LANES) {
        const Floats low = lanes(group.low + first), high = lanes(group.high + first);
        const Floats codes = lanes(code_sum + first);
        const Floats step = inverse(lanes(unit + first));
        const Floats rounded = round_to_half(step);
        const Floats rest = step * lanes(rest_sum + first) + (step - rounded) * codes;
        const Floats best = round_to_half(low + rest * (1.0f / EVEN_BLOCK));
        const auto flat = codes == splat(EVEN_BLOCK * top);
        lanes(offset + first) = best;
        lanes(scale + first) = flat ? round_to_half((high - best) * (1.0f / top)) : rounded;
    }
}

}  // namespace snugfit::SNUGFIT_INSTRUCTION_SET
