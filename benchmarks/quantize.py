"""Speed and error of our kernels against llama.cpp's `ggml_quantize_chunk`: same rows, in turn.

python benchmarks/quantize.py [--types Q4_K,IQ2_XS] [--threads 1] [--quick] [--json]

llama.cpp's kernels are those that the engine's package carries. Runs alternate and are short,
and the best ones count, so that a busy machine slows both sides or neither. Errors are sums
over rows of one kind, under the weights that llama.cpp itself minimises, ours over llama.cpp's;
the worst kind counts. Reading is dequantizing by two threads, against the rate at which they
fill or copy memory, in turn with it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "tests" / "quants"))

import ggml_library
from ggml_rows import KINDS, REFUSED_WITHOUT_IMPORTANCE, ggml_costs, importance_of, rows_of

from snugfit.quants import _native
from snugfit.quants.codecs import dequantize_rows, quantize_rows
from snugfit.quants.types import TYPES

COLUMNS = 4096
ROUND_SECONDS = 0.02  # of one run of the slower side: short, so that some meet a quiet moment
BANDWIDTH_SHARE = 0.8  # what counts as being bound by memory
# Speed ratios asked of us: with importance, without; None where llama.cpp has nothing to compare.
GOALS: dict[str, tuple[float | None, float | None]] = {
    "Q4_0": (8, 1.5),
    "Q4_1": (8, 1.5),
    "Q5_0": (8, 1.5),
    "Q5_1": (8, 1.5),
    "Q8_0": (2, 2),
    "Q2_K": (10, 6),
    "Q3_K": (5, 3),
    "Q4_K": (10, 6),
    "Q5_K": (10, 6),
    "Q6_K": (5, 3),
    "IQ4_NL": (10, 10),
    "IQ4_XS": (10, 10),
    "IQ3_XXS": (6, 6),
    "IQ3_S": (6, 6),
    "IQ2_XXS": (6, None),
    "IQ2_XS": (6, None),
    "IQ2_S": (6, None),
    "IQ1_S": (5, None),
    "IQ1_M": (5, None),
    "TQ1_0": (2, 2),
    "TQ2_0": (2, 2),
    "MXFP4": (2, 2),
    "NVFP4": (2, 2),
    "Q1_0": (1, 1),
    "Q2_0": (1, 1),
}

Call = Callable[[], object]


def seconds_of(work: Call) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@dataclass(frozen=True)
class InTurn:
    """The least seconds of two kinds of runs that alternated."""

    ours: float
    theirs: float


def time_in_turn(ours: Call, theirs: Call, rounds: int) -> InTurn:
    pairs = [(seconds_of(ours), seconds_of(theirs)) for _ in range(rounds)]
    return InTurn(min(first for first, _ in pairs), min(second for _, second in pairs))


def ggml_in_threads(rows: Any, name: str, importance: Any, pool: ThreadPoolExecutor) -> None:
    parts = np.array_split(rows, pool._max_workers)
    list(pool.map(lambda part: ggml_library.quantize(part, name, importance), parts))


def measure_speed(name: str, weighted: bool, threads: int, rounds: int) -> dict[str, float]:
    random = np.random.default_rng(1)
    importance = importance_of(COLUMNS) if weighted else None
    few = random.normal(0, 0.02, (4, COLUMNS)).astype(np.float32)
    ggml_library.quantize(few, name, importance)  # prepares its tables
    per_row = seconds_of(lambda: ggml_library.quantize(few, name, importance)) / len(few)
    count = threads * max(4, min(2048, int(ROUND_SECONDS / per_row)))
    rows = random.normal(0, 0.02, (count, COLUMNS)).astype(np.float32)
    with ThreadPoolExecutor(threads) as pool:
        times = time_in_turn(
            lambda: quantize_rows(rows, name, importance, threads),
            lambda: ggml_in_threads(rows, name, importance, pool),
            rounds,
        )
    moved = rows.nbytes + count * TYPES[name].row_bytes(COLUMNS)
    return {
        "ours_weights_per_second": rows.size / times.ours,
        "ggml_weights_per_second": rows.size / times.theirs,
        "ratio": times.theirs / times.ours,
        "ours_bytes_per_second": moved / times.ours,
    }


def measure_error(name: str, weighted: bool) -> dict[str, float]:
    """Return our summed error over llama.cpp's for every kind of rows, 0 where both are 0."""
    ratios = {}
    for kind in KINDS:
        rows = rows_of(kind)
        importance = importance_of(rows.shape[1]) if weighted else None
        costs = ggml_costs(rows, name, importance)

        def error(blocks: Any, rows: Any = rows, costs: Any = costs) -> float:
            return float((costs * (dequantize_rows(blocks, name).astype(float) - rows) ** 2).sum())

        ours = error(quantize_rows(rows, name, importance))
        theirs = error(ggml_library.quantize(rows, name, importance))
        ratios[kind] = ours / theirs if theirs else (0.0 if ours == 0 else float("inf"))
    return ratios


class Memory:
    """Fills and copies 256 MiB, which no cache holds, in threads."""

    def __init__(self, threads: int) -> None:
        self.source, self.target = np.ones(2**26, np.float32), np.zeros(2**26, np.float32)
        parts = (np.array_split(self.target, threads), np.array_split(self.source, threads))
        self.pairs = list(zip(*parts, strict=True))
        self.pool = ThreadPoolExecutor(threads)

    def rate(self) -> float:
        """Return bytes/s, read and written, of the faster one."""
        copying = seconds_of(lambda: list(self.pool.map(lambda pair: np.copyto(*pair), self.pairs)))
        filling = seconds_of(lambda: list(self.pool.map(lambda pair: pair[0].fill(2), self.pairs)))
        return max(2 * self.source.nbytes / copying, self.source.nbytes / filling)


def measure_reading(name: str, memory: Memory, threads: int, rounds: int) -> dict[str, float]:
    """Return rates in bytes/s, read and written, of dequantizing 2^26 weights and of memory."""
    rows = np.random.default_rng(2).normal(0, 0.02, (64, COLUMNS)).astype(np.float32)
    blocks = np.tile(quantize_rows(rows, name), (2**26 // rows.size, 1))
    out = memory.target.reshape(-1, COLUMNS)
    best, best_memory = float("inf"), 0.0
    for _ in range(rounds):
        best_memory = max(best_memory, memory.rate())
        best = min(best, seconds_of(lambda: _native.dequantize(name, blocks, out, threads)))
    rate = (blocks.nbytes + out.nbytes) / best
    return {"bytes_per_second": rate, "memory": best_memory, "share": rate / best_memory}


def measure(name: str, threads: int, rounds: int) -> dict[str, Any]:
    row: dict[str, Any] = {"type": name, "threads": threads}
    for weighted, goal in zip((True, False), GOALS[name], strict=True):
        if not weighted and name in REFUSED_WITHOUT_IMPORTANCE:
            continue
        speed = measure_speed(name, weighted, threads, rounds)
        errors = measure_error(name, weighted)
        row["importance" if weighted else "plain"] = {
            **speed,
            "goal": goal,
            "errors": errors,
            "worst_error": max(errors.values()),
        }
    return row


def meets(side: dict[str, Any], memory: float) -> bool:
    """Whether a goal is met; `memory` is the rate at which as many threads copy, in bytes/s."""
    bound_by_memory = side["ours_bytes_per_second"] >= BANDWIDTH_SHARE * memory
    return side["goal"] is None or side["ratio"] >= side["goal"] or bound_by_memory


def show(results: list[dict[str, Any]], memory: float) -> None:
    print("| type | with importance: million weights/s | x llama.cpp | error", end="")
    print(" | without: million weights/s | x llama.cpp | error | reading, of memory's rate |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for row in results:
        cells = [row["type"]]
        for key in ("importance", "plain"):
            side = row.get(key)
            if side is None:
                cells += ["", "", ""]
                continue
            mark = "" if meets(side, memory) else f" (goal {side['goal']:g})"
            cells += [
                f"{side['ours_weights_per_second'] / 1e6:.0f}",
                f"{side['ratio']:.1f}{mark}",
                f"{side['worst_error']:.3f}",
            ]
        print("| " + " | ".join([*cells, f"{row['reading']['share']:.0%}"]) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--types", default=",".join(GOALS))
    parser.add_argument("--threads", type=int, default=1, help="of quantizing, on both sides")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rounds = 8 if arguments.quick else 40
    reading_threads = min(2, os.cpu_count() or 1)
    memory, copying = Memory(reading_threads), Memory(arguments.threads)
    results = []
    for name in arguments.types.upper().split(","):
        row = measure(name, arguments.threads, rounds)
        results.append(row | {"reading": measure_reading(name, memory, reading_threads, rounds)})
        print(f"{name} measured", file=sys.stderr)
    rate = max(copying.rate() for _ in range(rounds))
    if arguments.json:
        document = {
            "instruction_set": _native.instruction_set(),
            "threads": arguments.threads,
            "memory_bytes_per_second": rate,
            "reading_threads": reading_threads,
            "types": results,
        }
        print(json.dumps(document, indent=1))
    else:
        show(results, rate)


if __name__ == "__main__":
    main()
