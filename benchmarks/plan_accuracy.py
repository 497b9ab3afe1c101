"""What planning predicts, against what was measured, ours beside llmfit's on the same rows.

python benchmarks/plan_accuracy.py [--llmfit PATH] [--rows] [--json]

Measured are llama.cpp's own allocations and public logs, in tests/data. llmfit (PyPI) is run as a
command, with the names, contexts and cache types that it takes; it has no options for slots, the
size of a pass, flash attention or experts in RAM. Its sums mix GB and GiB: weights are read as GB,
caches as GiB. Errors are relative.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from headers import ROWS as ALLOCATED
from headers import configuration_of, spec_from_header
from measured_rows import LOGS, ROWS, Measured, figures, predicted, read
from published_sizes import MODELS, plain_files, predicted_bytes, published, reason_of, size_of
from speed_rows import compared

from snugfit.archs.catalogue import CATALOGUE
from snugfit.core import Configuration, Device
from snugfit.hardware.detect import machine_of
from snugfit.planning.memory import predict
from snugfit.units import GIB, MIB

RAM_ONLY = machine_of([], 1024 * GIB)
# Names that llmfit wants in another way: theirs for ours.
ASKED_AS = {"deepseek-ai/DeepSeek-V4-Flash": "deepseek-ai/DeepSeek-V4-Flash-0731"}
CACHE_TYPES = {"F16": "fp16", "Q8_0": "q8_0", "Q4_0": "q4_0"}
FLAT_MIB = 0.5e9 / MIB  # of llmfit, for all beside weights and cache
TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class Row:
    """One comparison, all numbers in one unit. `theirs` is None where llmfit has no answer."""

    name: str
    measured: float
    ours: float
    theirs: float | None = None

    @property
    def error(self) -> float:
        return abs(self.ours / self.measured - 1)

    @property
    def their_error(self) -> float | None:
        return None if self.theirs is None else abs(self.theirs / self.measured - 1)


class Llmfit:
    """The llmfit command; without one it has no answers."""

    def __init__(self, path: str | None) -> None:
        self.path = path
        self.plan = functools.cache(self._plan)

    def version(self) -> str:
        return self._run("--version").removeprefix("llmfit").strip() if self.path else ""

    def cache_mib(self, model: str, configuration: Configuration) -> float | None:
        """Return the cache that it predicts, in MiB."""
        name = CACHE_TYPES.get(configuration.kv_type)
        document = self.plan(model, configuration.ctx, "")
        sizes = {row["kv_quant"]: row["kv_cache_gb"] for row in document.get("kv_alternatives", ())}
        return sizes[name] * 1024 if name in sizes else None

    def weights_bytes(self, model: str, mix: str) -> float | None:
        size = self.plan(model, 4096, mix).get("disk_size_gb")
        return None if size is None else float(size) * 1e9

    def decode_tokens_per_s(self, model: str, context: int, mix: str, gpu: Device) -> float | None:
        """Return the speed that it predicts on a GPU: described to it by memory and read rate."""
        hardware = {
            "total_ram_gb": round(gpu.total_bytes / GIB, 1),
            "unified_memory": True,  # a profile has no other way to say how much a GPU has
            "gpu_memory_bandwidth_gbps": (gpu.read_bytes_per_s or 0) / 1e9,
        }
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "gpu.json"  # which must be called as the profile is
            file.write_text(json.dumps({"schema_version": 1, "name": "gpu", "hardware": hardware}))
            document = self._plan(model, context, mix, "--profile", str(file))
        on_gpu = [way for way in document.get("run_paths", ()) if way["path"] == "gpu"]
        return on_gpu[0]["estimated_tps"] if on_gpu else None

    def _plan(self, model: str, context: int, mix: str, *options: str) -> dict[str, Any]:
        """Return llmfit's document, empty where it does not know the model or the mix."""
        if not self.path:
            return {}
        weights = CATALOGUE[model].weights
        quant = ["--quant", mix] if mix else []
        said = self._run(
            *options,
            *("plan", ASKED_AS.get(weights, weights), "--context", str(context), *quant),
            *("--no-dashboard", "--json"),
        )
        document: dict[str, Any] = json.loads(said) if said.startswith("{") else {}
        is_asked = not mix or document.get("quantization") == mix
        return document if is_asked else {}

    def _run(self, *arguments: str) -> str:
        assert self.path
        return subprocess.run(
            [self.path, *arguments],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        ).stdout


def allocated_caches(llmfit: Llmfit) -> list[Row]:
    """Compare caches with what llama.cpp allocates for headers of ten models."""
    rows = []
    for row in ALLOCATED:
        spec, configuration = spec_from_header(row["model"]), configuration_of(row)
        use = predict(spec, configuration, RAM_ONLY)
        measured, ours = float(row["kv_MiB"]), use.kv_cache_bytes / MIB
        if spec.architecture != "deepseek4":  # whose states were not counted
            measured += float(row["rs_MiB"])
            ours += use.recurrent_state_bytes / MIB
        theirs = llmfit.cache_mib(row["model"].lower(), configuration)
        rows.append(Row(_named(row["model"], configuration), measured, ours, theirs))
    return rows


def logged_caches(llmfit: Llmfit) -> list[Row]:
    """Compare caches with public logs that give the whole of them."""
    rows = []
    for entry, row in _measured("context"):
        if entry.part != "context":
            continue
        use = predicted(entry)
        ours = (use.kv_cache_bytes + use.recurrent_state_bytes) / MIB
        known = entry.model in CATALOGUE
        theirs = llmfit.cache_mib(entry.model, entry.configuration) if known else None
        name = _named(entry.model, entry.configuration)
        rows.append(Row(name, float(row["kv_buf_MiB"]), ours, theirs))
    return rows


def file_sizes(llmfit: Llmfit) -> list[Row]:
    """Compare the sizes of files of plain mixes, in bytes."""
    rows = []
    for row in [*(row for row in published() if not reason_of(row)), *plain_files()]:
        model, mix = MODELS[row["model"]], row["quantization"]
        ours = predicted_bytes(row["model"], mix)
        theirs = llmfit.weights_bytes(model, mix)
        rows.append(Row(f"{model} {mix}", size_of(row), ours, theirs))
    return rows


def totals(llmfit: Llmfit) -> list[Row]:
    """Compare what GPUs hold in all, in MiB.

    Both sides get the weights of a vendor's own mix from the log; llmfit those of any mix.
    """
    rows = []
    for entry, row in _measured("total"):
        name = _named(entry.model, entry.configuration)
        theirs = None
        if row["model_buf_MiB"] and not entry.configuration.cpu_expert_layers:
            cache = llmfit.cache_mib(entry.model, entry.configuration)
            theirs = cache and float(row["model_buf_MiB"]) + cache + FLAT_MIB
        rows.append(Row(name, float(row["total_MiB"]), figures(entry, row)["total"], theirs))
    return rows


def processor_buffers(_: Llmfit) -> list[Row]:
    """Compare compute buffers with what llama.cpp allocates on the CPU, in MiB."""
    rows = []
    for row in ALLOCATED:
        configuration = configuration_of(row)
        use = predict(spec_from_header(row["model"]), configuration, RAM_ONLY)
        name = _named(row["model"], configuration)
        rows.append(Row(name, float(row["cpu_compute_MiB"]), use.compute_bytes / MIB))
    return rows


def gpu_buffers(_: Llmfit) -> list[Row]:
    """Compare compute buffers of GPUs with public logs, in MiB."""
    rows = []
    for entry, row in _measured("compute"):
        ours = sum(device.compute_bytes for device in predicted(entry).devices[:-1]) / MIB
        name = _named(entry.model, entry.configuration)
        rows.append(Row(name, float(row["compute_buf_MiB"]), ours))
    return rows


def decode_speeds(llmfit: Llmfit) -> list[Row]:
    """Compare tokens a second, all on one GPU, with the median of public reports."""
    rows = []
    for one in compared():
        row = one.row
        name = f"{row.machine.name}: {row.shape} {row.mix} at {row.filled}"
        theirs = None
        if len(row.machine.gpus) == 1:
            theirs = llmfit.decode_tokens_per_s(
                row.shape, row.configuration.ctx, row.mix, row.machine.gpus[0]
            )
        rows.append(Row(name, one.measured, one.predicted.middle, theirs))
    return rows


# What is compared, in the order of the table. A section gets llmfit and returns its rows.
SECTIONS: tuple[tuple[str, Callable[[Llmfit], list[Row]]], ...] = (
    ("KV cache and state, llama.cpp's own sizes", allocated_caches),
    ("KV cache and state, public logs", logged_caches),
    ("file of a plain mix", file_sizes),
    ("GPU memory in all, public measurements", totals),
    ("compute buffer on the CPU, llama.cpp's own", processor_buffers),
    ("compute buffer on GPUs, public logs", gpu_buffers),
    ("decoded tokens/s, public measurements", decode_speeds),
)


def _measured(check: str) -> list[tuple[Measured, dict[str, str]]]:
    tables = ((ROWS, "measured_memory.csv"), (LOGS, "gpu_logs.csv"))
    return [
        (entry, row)
        for entries, name in tables
        for entry, row in zip(entries, read(name), strict=True)
        if isinstance(entry, Measured) and check in entry.checks
    ]


def _named(model: str, configuration: Configuration) -> str:
    parts = [model.lower(), str(configuration.ctx), configuration.kv_type.lower()]
    parts += [f"{configuration.slots} slots"] if configuration.slots > 1 else []
    parts += [f"ub {configuration.ubatch}"] if configuration.ubatch != 512 else []
    parts += [] if configuration.flash_attention else ["no fa"]
    experts = configuration.cpu_expert_layers
    return " ".join(parts + ([f"ncmoe {experts}"] if experts else []))


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Return how many rows there are, and the mean and the largest error of both sides."""
    ours = [row.error for row in rows]
    theirs = [row.their_error for row in rows if row.their_error is not None]
    return {
        "rows": len(rows),
        "ours_mean": sum(ours) / len(ours),
        "ours_max": max(ours),
        "llmfit_rows": len(theirs),
        "llmfit_mean": sum(theirs) / len(theirs) if theirs else None,
        "llmfit_max": max(theirs, default=None),
    }


def show(results: dict[str, list[Row]], version: str, *, every_row: bool) -> None:
    print(f"| what | rows | ours, mean | max | llmfit {version}, rows | mean | max |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for title, rows in results.items():
        of = summary(rows)
        numbers = [_percent(of[key]) for key in ("ours_mean", "ours_max")]
        others = [_percent(of[key]) for key in ("llmfit_mean", "llmfit_max")]
        print(
            "|",
            " | ".join([title, str(of["rows"]), *numbers, str(of["llmfit_rows"]), *others]),
            "|",
        )
    if not every_row:
        return
    for title, rows in results.items():
        print(f"\n{title}\n")
        print("| row | measured | ours | error | llmfit | error |\n|---|--:|--:|--:|--:|--:|")
        for row in rows:
            theirs = "-" if row.theirs is None else f"{row.theirs:,.2f}"
            print(
                f"| {row.name} | {row.measured:,.2f} | {row.ours:,.2f} | {_percent(row.error)} "
                f"| {theirs} | {_percent(row.their_error)} |"
            )


def _percent(error: float | None) -> str:
    return "-" if error is None else f"{100 * error:.2f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llmfit", help="its command; without it, the one on PATH")
    parser.add_argument("--rows", action="store_true", help="every row, after the table")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    llmfit = Llmfit(shutil.which(arguments.llmfit or "llmfit"))
    if not llmfit.path:
        print("llmfit is not here: pip install llmfit, or give --llmfit PATH", file=sys.stderr)
    results = {title: section(llmfit) for title, section in SECTIONS}
    if arguments.json:
        document = {
            "llmfit": llmfit.version(),
            "sections": [
                {"what": title, **summary(rows), "each": [asdict(row) for row in rows]}
                for title, rows in results.items()
            ],
        }
        print(json.dumps(document, indent=1))
    else:
        show(results, llmfit.version(), every_row=arguments.rows)


if __name__ == "__main__":
    main()
