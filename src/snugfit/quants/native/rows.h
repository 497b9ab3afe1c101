// Splits rows over threads. Every row is computed alone, so that bytes do not depend on the split.
#pragma once

#include <algorithm>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

namespace snugfit {

// Calls work(first_row, end_row) on `threads` threads at most, this one counted.
template <typename Work>
void for_rows(std::int64_t rows, int threads, const Work& work) {
    const std::int64_t parts = std::max<std::int64_t>(1, std::min<std::int64_t>(rows, threads));
    const auto start_of = [&](std::int64_t part) {
        return rows / parts * part + std::min(part, rows % parts);
    };
    std::vector<std::thread> others;
    others.reserve(static_cast<std::size_t>(parts - 1));
    std::int64_t part = 1;
    try {
        for (; part < parts; ++part) {
            others.emplace_back(work, start_of(part), start_of(part + 1));
        }
    } catch (const std::system_error&) {
        // The system gives no more threads: this one does what is left.
        work(start_of(part), rows);
    }
    work(0, start_of(1));
    for (std::thread& other : others) {
        other.join();
    }
}

}  // namespace snugfit
