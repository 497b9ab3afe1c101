// Python bindings: checks shapes, picks the instruction set, lets go of the GIL, splits rows.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <atomic>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "kernels.h"
#include "rows.h"

namespace nb = nanobind;

namespace {

using snugfit::Kernel;
using std::int64_t;

using Rows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Importance = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Blocks = nb::ndarray<const std::uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using RowsOut = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using BlocksOut = nb::ndarray<std::uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

constexpr int KERNELS = 11;

struct InstructionSet {
    const char* name;
    const Kernel* families[3];
    bool usable;
};

const std::vector<InstructionSet>& instruction_sets() {
    namespace base = snugfit::baseline;
    static const std::vector<InstructionSet> sets = {
        {"baseline", {base::PLAIN, base::LEGACY, base::K_QUANTS}, true},
#ifdef SNUGFIT_X86
        {"avx2",
         {snugfit::avx2::PLAIN, snugfit::avx2::LEGACY, snugfit::avx2::K_QUANTS},
         __builtin_cpu_supports("avx2") != 0},
        {"avx512",
         {snugfit::avx512::PLAIN, snugfit::avx512::LEGACY, snugfit::avx512::K_QUANTS},
         __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")},
#endif
    };
    return sets;
}

std::size_t best_instruction_set() {
    const auto& sets = instruction_sets();
    std::size_t best = 0;
    for (std::size_t i = 0; i < sets.size(); ++i) {
        best = sets[i].usable ? i : best;
    }
    return best;
}

std::atomic<std::size_t>& chosen() {
    static std::atomic<std::size_t> index{best_instruction_set()};
    return index;
}

const Kernel& kernel(int index) {
    const InstructionSet& set = instruction_sets()[chosen()];
    return index < 3   ? set.families[0][index]
           : index < 8 ? set.families[1][index - 3]
                       : set.families[2][index - 8];
}

void require(bool condition, const char* message) {
    if (!condition) {
        throw nb::value_error(message);
    }
}

// The sizes of rows and blocks must agree, or a kernel would run past their ends.
void require_sizes(const Kernel& kernel, std::size_t rows, std::size_t columns,
                   std::size_t block_rows, std::size_t row_bytes) {
    const auto weights = static_cast<std::size_t>(kernel.block_weights);
    const auto bytes = static_cast<std::size_t>(kernel.block_bytes);
    require(rows == block_rows, "rows and blocks differ in their number");
    require(columns % weights == 0, "blocks do not fill the row");
    require(row_bytes % bytes == 0 && row_bytes / bytes == columns / weights,
            "the width in bytes does not fit the columns");
}

void quantize(int index, const Rows& rows, const BlocksOut& blocks,
              const std::optional<Importance>& importance, int threads) {
    const Kernel& chosen_kernel = kernel(index);
    require_sizes(chosen_kernel, rows.shape(0), rows.shape(1), blocks.shape(0), blocks.shape(1));
    require(!importance || importance->shape(0) == rows.shape(1),
            "importance is not one number a column");
    const float* costs = importance ? importance->data() : nullptr;
    const float* values = rows.data();
    std::uint8_t* bytes = blocks.data();
    const auto columns = static_cast<int64_t>(rows.shape(1));
    const auto row_bytes = static_cast<int64_t>(blocks.shape(1));
    const auto count = static_cast<int64_t>(rows.shape(0));
    nb::gil_scoped_release released;
    snugfit::for_rows(count, threads, [=](int64_t first, int64_t end) {
        for (int64_t row = first; row < end; ++row) {
            chosen_kernel.quantize(values + row * columns, costs, columns, bytes + row * row_bytes);
        }
    });
}

void dequantize(int index, const Blocks& blocks, const RowsOut& rows, int threads) {
    const Kernel& chosen_kernel = kernel(index);
    require_sizes(chosen_kernel, rows.shape(0), rows.shape(1), blocks.shape(0), blocks.shape(1));
    const std::uint8_t* bytes = blocks.data();
    float* values = rows.data();
    const auto columns = static_cast<int64_t>(rows.shape(1));
    const auto row_bytes = static_cast<int64_t>(blocks.shape(1));
    const auto count = static_cast<int64_t>(rows.shape(0));
    nb::gil_scoped_release released;
    snugfit::for_rows(count, threads, [=](int64_t first, int64_t end) {
        for (int64_t row = first; row < end; ++row) {
            chosen_kernel.dequantize(bytes + row * row_bytes, columns, values + row * columns);
        }
    });
}

// Looks at every value instead of stopping at a bad one, so that it becomes vector code.
bool all_finite(const float* values, int64_t count) {
    int bad = 0;
    for (int64_t i = 0; i < count; ++i) {
        bad |= !(std::fabs(values[i]) <= std::numeric_limits<float>::max());
    }
    return bad == 0;
}

int64_t first_bad_row(const Rows& rows, int threads) {
    const float* values = rows.data();
    const auto columns = static_cast<int64_t>(rows.shape(1));
    const auto count = static_cast<int64_t>(rows.shape(0));
    std::atomic<int64_t> found{count};
    {
        nb::gil_scoped_release released;
        snugfit::for_rows(count, threads, [&, columns](int64_t first, int64_t end) {
            for (int64_t row = first; row < end && row < found; ++row) {
                if (!all_finite(values + row * columns, columns)) {
                    int64_t before = found;
                    while (row < before && !found.compare_exchange_weak(before, row)) {
                    }
                }
            }
        });
    }
    return found == count ? -1 : found.load();
}

void use_instruction_set(const std::string& name) {
    const auto& sets = instruction_sets();
    for (std::size_t i = 0; i < sets.size(); ++i) {
        if (sets[i].name == name && sets[i].usable) {
            chosen() = i;
            return;
        }
    }
    throw nb::value_error(("this processor or build has no instruction set " + name).c_str());
}

std::vector<std::string> usable_instruction_sets() {
    std::vector<std::string> names;
    for (const InstructionSet& set : instruction_sets()) {
        if (set.usable) {
            names.emplace_back(set.name);
        }
    }
    return names;
}

}  // namespace

NB_MODULE(_native, module) {
    module.doc() = "Kernels of snugfit.quants.codecs, which checks what it passes here.";
    for (int index = 0; index < KERNELS; ++index) {
        module.def(
            kernel(index).quantize_name,
            [index](const Rows& rows, const BlocksOut& blocks,
                    const std::optional<Importance>& importance,
                    int threads) { quantize(index, rows, blocks, importance, threads); },
            nb::arg("rows").noconvert(), nb::arg("blocks").noconvert(),
            nb::arg("importance").none(), nb::arg("threads"));
        module.def(
            kernel(index).dequantize_name,
            [index](const Blocks& blocks, const RowsOut& rows, int threads) {
                dequantize(index, blocks, rows, threads);
            },
            nb::arg("blocks").noconvert(), nb::arg("rows").noconvert(), nb::arg("threads"));
    }
    module.def("first_bad_row", &first_bad_row, nb::arg("rows").noconvert(), nb::arg("threads"),
               "The first row with an infinity or a NaN, or -1.");
    module.def(
        "use_instruction_set", &use_instruction_set, nb::arg("name"),
        "For tests and benchmarks: choose among instruction_sets(). Bytes do not depend on it.");
    module.def("instruction_sets", &usable_instruction_sets,
               "Those usable here, the best one last.");
    module.def(
        "instruction_set", [] { return std::string(instruction_sets()[chosen()].name); },
        "The one in use.");
}
