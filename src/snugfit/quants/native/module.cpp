// Python bindings: checks shapes, picks the instruction set, lets go of the GIL, splits rows.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <atomic>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#include "grids.h"
#include "kernels.h"
#include "rows.h"

namespace nb = nanobind;

namespace snugfit {
Grids grids{};
}

namespace {

using snugfit::Family;
using snugfit::Kernel;
using std::int64_t;

using Importance = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Blocks = nb::ndarray<const std::uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using RowsOut = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Grid = nb::ndarray<const std::int8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using BlocksOut = nb::ndarray<std::uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

struct InstructionSet {
    const char* name;
    std::vector<Family> families;
    snugfit::AllFinite all_finite;
    bool usable;
};

#define SNUGFIT_FAMILIES(set)                                               \
    {snugfit::set::PLAIN,   snugfit::set::LEGACY,  snugfit::set::K_LINE,    \
     snugfit::set::K_SCALE, snugfit::set::IQ1,     snugfit::set::IQ2,       \
     snugfit::set::IQ3,     snugfit::set::IQ4,     snugfit::set::FP4,       \
     snugfit::set::TERNARY, snugfit::set::BITS}

const std::vector<InstructionSet>& instruction_sets() {
    static const std::vector<InstructionSet> sets = {
        {"baseline", SNUGFIT_FAMILIES(baseline), snugfit::baseline::all_finite, true},
#ifdef SNUGFIT_X86
        {"avx2", SNUGFIT_FAMILIES(avx2), snugfit::avx2::all_finite,
         __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c")},
        {"avx512", SNUGFIT_FAMILIES(avx512), snugfit::avx512::all_finite,
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

const Kernel& kernel_of(const std::string& type_name) {
    for (const Family& family : instruction_sets()[chosen()].families) {
        for (int i = 0; i < family.count; ++i) {
            if (family.kernels[i].type_name == type_name) {
                return family.kernels[i];
            }
        }
    }
    throw nb::value_error(("there is no kernel for " + type_name).c_str());
}

// What a thread has streamed is visible to others after this.
inline void finish_streams() {
#if defined(__SSE2__)
    _mm_sfence();
#endif
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

// How rows come in: the kernel that reads them, and where row `i` starts.
struct Source {
    const Kernel* kernel;  // of the chosen instruction set
    const std::uint8_t* bytes;
    int64_t row_bytes;

    bool is_float() const {
        return kernel->block_bytes == sizeof(float) &&
               reinterpret_cast<std::uintptr_t>(bytes) % alignof(float) == 0;
    }
    // Returns the row as floats, from `space` where they do not lie in memory as such.
    const float* row(int64_t i, int64_t columns, std::vector<float>& space) const {
        if (is_float()) {
            return reinterpret_cast<const float*>(bytes + i * row_bytes);
        }
        space.resize(static_cast<std::size_t>(columns));
        kernel->dequantize(bytes + i * row_bytes, columns, space.data());
        return space.data();
    }
};

// Returns the first row with an infinity or a NaN, where the blocks are then undefined, or -1.
int64_t quantize(const std::string& type_name, const Blocks& rows, const std::string& source_name,
                 const BlocksOut& blocks, const std::optional<Importance>& importance, bool best,
                 int threads) {
    const Kernel& to = kernel_of(type_name);
    const Kernel& from = kernel_of(source_name);
    require(to.quantize != nullptr, "the type is only read");
    require(rows.shape(1) % from.block_bytes == 0,
            "the width in bytes of the rows is not one of whole blocks");
    const std::size_t columns = rows.shape(1) / from.block_bytes * from.block_weights;
    require_sizes(to, rows.shape(0), columns, blocks.shape(0), blocks.shape(1));
    require(!importance || importance->shape(0) == columns,
            "importance is not one number a column");
    const Source source{&from, rows.data(), static_cast<int64_t>(rows.shape(1))};
    const float* costs = importance ? importance->data() : nullptr;
    std::uint8_t* bytes = blocks.data();
    const auto width = static_cast<int64_t>(columns);
    const auto row_bytes = static_cast<int64_t>(blocks.shape(1));
    const auto count = static_cast<int64_t>(rows.shape(0));
    const snugfit::AllFinite all_finite = instruction_sets()[chosen()].all_finite;
    const snugfit::Quantize work = best && to.quantize_best ? to.quantize_best : to.quantize;
    std::atomic<int64_t> first_bad{count};
    nb::gil_scoped_release released;
    snugfit::for_rows(count, threads, [=, &first_bad](int64_t first, int64_t end) {
        std::vector<float> space;
        for (int64_t row = first; row < end; ++row) {
            const float* values = source.row(row, width, space);
            if (!all_finite(values, width)) {
                int64_t before = first_bad;
                while (row < before && !first_bad.compare_exchange_weak(before, row)) {
                }
                return;
            }
            work(values, costs, width, bytes + row * row_bytes);
        }
    });
    return first_bad == count ? -1 : first_bad.load();
}

// More floats than caches hold are written past them.
constexpr int64_t STREAM_FROM_WEIGHTS = int64_t{1} << 22;

bool is_streamed(const RowsOut& rows) {
    return static_cast<int64_t>(rows.size()) >= STREAM_FROM_WEIGHTS && rows.shape(1) % 4 == 0 &&
           reinterpret_cast<std::uintptr_t>(rows.data()) % 16 == 0;
}

void dequantize(const std::string& type_name, const Blocks& blocks, const RowsOut& rows,
                int threads) {
    const Kernel& from = kernel_of(type_name);
    require_sizes(from, rows.shape(0), rows.shape(1), blocks.shape(0), blocks.shape(1));
    const std::uint8_t* bytes = blocks.data();
    float* values = rows.data();
    const auto columns = static_cast<int64_t>(rows.shape(1));
    const auto row_bytes = static_cast<int64_t>(blocks.shape(1));
    const auto count = static_cast<int64_t>(rows.shape(0));
    const snugfit::Dequantize read = is_streamed(rows) ? from.stream : from.dequantize;
    nb::gil_scoped_release released;
    snugfit::for_rows(count, threads, [=](int64_t first, int64_t end) {
        for (int64_t row = first; row < end; ++row) {
            read(bytes + row * row_bytes, columns, values + row * columns);
        }
        finish_streams();
    });
}

void set_grid(const std::string& name, const Grid& values) {
    snugfit::Grids& grids = snugfit::grids;
    const struct {
        const char* name;
        std::int8_t* to;
        std::size_t size;
    } known[] = {
        {"iq2_xxs", grids.iq2_xxs, sizeof grids.iq2_xxs},
        {"iq2_xs", grids.iq2_xs, sizeof grids.iq2_xs},
        {"iq2_s", grids.iq2_s, sizeof grids.iq2_s},
        {"iq3_xxs", grids.iq3_xxs, sizeof grids.iq3_xxs},
        {"iq3_s", grids.iq3_s, sizeof grids.iq3_s},
        {"iq1", grids.iq1, sizeof grids.iq1},
        {"iq4", grids.iq4, sizeof grids.iq4},
    };
    for (const auto& grid : known) {
        if (grid.name == name) {
            require(values.shape(0) == grid.size, "the grid has another size");
            std::memcpy(grid.to, values.data(), grid.size);
            return;
        }
    }
    throw nb::value_error(("there is no grid " + name).c_str());
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

// Names of the types that have what `asked` looks for in a kernel.
template <typename Asked>
std::vector<std::string> types_with(const Asked& asked) {
    std::vector<std::string> names;
    for (const Family& family : instruction_sets().front().families) {
        for (int i = 0; i < family.count; ++i) {
            if (asked(family.kernels[i])) {
                names.emplace_back(family.kernels[i].type_name);
            }
        }
    }
    return names;
}

}  // namespace

NB_MODULE(_native, module) {
    module.doc() = "Kernels of snugfit.quants.codecs, which checks what it passes here.";
    module.def("quantize", &quantize, nb::arg("type_name"), nb::arg("rows").noconvert(),
               nb::arg("source_name"), nb::arg("blocks").noconvert(), nb::arg("importance").none(),
               nb::arg("best"), nb::arg("threads"));
    module.def("dequantize", &dequantize, nb::arg("type_name"), nb::arg("blocks").noconvert(),
               nb::arg("rows").noconvert(), nb::arg("threads"));
    module.def("readable", [] { return types_with([](const Kernel&) { return true; }); });
    module.def("writable",
               [] { return types_with([](const Kernel& kernel) { return !!kernel.quantize; }); });
    module.def("writable_better", [] {
        return types_with([](const Kernel& kernel) { return !!kernel.quantize_best; });
    });
    module.def("set_grid", &set_grid, nb::arg("name"), nb::arg("values").noconvert(),
               "Hand over a table of the I types, before the first use of one.");
    module.def(
        "use_instruction_set", &use_instruction_set, nb::arg("name"),
        "For tests and benchmarks: choose among instruction_sets(). Bytes do not depend on it.");
    module.def("instruction_sets", &usable_instruction_sets,
               "Those usable here, the best one last.");
    module.def(
        "instruction_set", [] { return std::string(instruction_sets()[chosen()].name); },
        "The one in use.");
}
