"""Decode speed predicted against measured: six models of random weights, the embedded llama.cpp.

python benchmarks/speed.py [--rounds 3] [--json]

Passes of a calibration, as `snugfit bench` makes them, take turns with rounds over the six models,
since other users of a machine change its speed from minute to minute; no shape is timed for both.
The prediction comes from the calibration alone. Of repetitions the lowest tenth counts on both
sides. `bound` is what the bytes that a token reads would take at the rate at which memory is read,
without any arithmetic.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from snugfit import bench
from snugfit.core import Configuration, Machine, ModelSpec
from snugfit.hardware.calibration import Calibration, key_of
from snugfit.hardware.detect import detect
from snugfit.planning.calibrated import fit, quiet
from snugfit.runtimes.synthetic import Shape, write_model
from snugfit.runtimes.timing import TimedEngine

SMALL = Shape("Q4_K", 20, 1024, 4096, heads=16, kv_heads=8, vocabulary=32000)
LARGE = Shape("Q4_K", 20, 1792, 7168, heads=28, kv_heads=4, vocabulary=32000)
EXPERTS = Shape(
    *("Q4_K", 9, 1536, 768), heads=12, kv_heads=2, head_size=128, experts=32, experts_used=4
)
GOAL = 0.15
DECODED, WARMING, REPEATS = 4, 4, 6


@dataclass(frozen=True)
class Case:
    name: str
    shape: Shape
    filled: int


CASES = (
    Case("dense 0.35B Q4_K", SMALL, 512),
    Case("dense 0.35B Q8_0", replace(SMALL, type_name="Q8_0"), 4096),
    Case("dense 1B Q4_K", LARGE, 4096),
    Case("dense 1B Q8_0", replace(LARGE, type_name="Q8_0"), 512),
    Case("32 experts 1B Q4_K", replace(EXPERTS, output_type="Q6_K"), 512),
    Case("32 experts 1B Q8_0", replace(EXPERTS, type_name="Q8_0"), 4096),
)


class Calibrating:
    """A calibration, pass by pass, so that models can be timed between the passes."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        self.machine, self.folder = machine, folder
        self.rate = bench.rate_of_ram(machine)
        size = bench.trial_bytes(machine.ram)
        self.timings = [bench.Timings(trial) for trial in bench.trials_of(bench.TYPES_TIMED, size)]

    def once(self) -> None:
        for one in self.timings:
            bench.time_once(one, self.folder / "trial.gguf", self.machine.ram, self.machine.cores)

    def rows(self) -> dict[str, Calibration]:
        """Return the store's rows of what was timed so far. None are kept."""
        samples = [one.sample() for one in self.timings]
        row = fit(samples, date="", read_bytes_per_s=self.rate)
        return {key_of(self.machine.ram, self.machine.processor, self.machine.cores): row}


def configuration_of(case: Case) -> Configuration:
    return Configuration(ctx=case.filled + 256)


def spec_of(case: Case) -> ModelSpec:
    return bench.spec_of_shape(case.shape, case.name)


def predict(case: Case, machine: Machine, rows: dict[str, Calibration]) -> dict[str, Any]:
    """Return milliseconds a token, predicted and bound by reading alone."""
    filled = case.filled + DECODED // 2
    speed = bench.predict(spec_of(case), configuration_of(case), machine, filled, rows=rows)
    row = next(iter(rows.values()))
    size = sum(part.size_bytes for part in speed.parts)
    return {
        "predicted": 1e3 / speed.decode_tokens_per_s.middle,
        "bound": 1e3 * size / row.read_bytes_per_s,
        "parts": {part.what: 1e3 * part.seconds for part in speed.parts},
    }


def load(case: Case, machine: Machine, folder: Path, stack: ExitStack) -> Any:
    """Return the loaded engine and the text that fills its cache."""
    path = folder / "model.gguf"
    write_model(path, case.shape)
    engine = stack.enter_context(TimedEngine(machine.cores))
    engine.start(path, configuration_of(case))
    path.unlink()
    text = engine.prompt(case.filled, case.shape.vocabulary - 1)
    return engine, text, engine.time(text, 2).prompt_seconds


def time_round(loaded: list[Any]) -> list[list[float]]:
    """Return the seconds a token of every model, in turn; what was idle is touched again first."""
    seconds = []
    for engine, text, _ in loaded:
        engine.time(text, WARMING)
        seconds.append([engine.time(text, DECODED + 1).token_seconds for _ in range(REPEATS)])
    return seconds


def measure(machine: Machine, rounds: int, folder: Path, stack: ExitStack) -> list[dict[str, Any]]:
    say("loading six models and filling their caches")
    loaded = [load(case, machine, folder, stack) for case in CASES]
    calibrating, times = Calibrating(machine, folder), []
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}: calibrating, then timing")
        calibrating.once()
        times.append(time_round(loaded))
    calibrating.once()
    rows = calibrating.rows()
    predicted = [predict(case, machine, rows) for case in CASES]
    results = []
    for case, found, *took in zip(CASES, predicted, *times, strict=True):
        milliseconds = [1e3 * one for times in took for one in times]
        middle = quiet(milliseconds)
        results.append(
            {
                "model": case.name,
                "parameters": spec_of(case).parameters,
                "filled": case.filled,
                **found,
                "measured": middle,
                "rounds": milliseconds,
                "ratio": found["predicted"] / middle,
            }
        )
    return results


def say(text: str) -> None:
    print(text, file=sys.stderr)


def show(results: list[dict[str, Any]]) -> None:
    print("| model | context | measured ms a token | from | to | predicted | ratio | bound |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for row in results:
        cells = [
            row["model"],
            f"{row['filled']:,}",
            f"{row['measured']:.1f}",
            f"{min(row['rounds']):.1f}",
            f"{max(row['rounds']):.1f}",
            f"{row['predicted']:.1f}",
            f"{row['ratio']:.3f}",
            f"{row['bound']:.1f}",
        ]
        print("| " + " | ".join(cells) + " |")
    off = [abs(row["ratio"] - 1) for row in results]
    met = "met" if max(off) <= GOAL else "not met"
    print(f"\nmean {sum(off) / len(off):.1%}, worst {max(off):.1%} off; goal {GOAL:.0%}: {met}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    machine = detect()
    machine = replace(machine, devices=(machine.ram,))
    with tempfile.TemporaryDirectory(prefix="snugfit-") as folder, ExitStack() as stack:
        results = measure(machine, arguments.rounds, Path(folder), stack)
    if arguments.json:
        print(json.dumps(results, indent=1))
    else:
        show(results)


if __name__ == "__main__":
    main()
