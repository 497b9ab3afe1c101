"""Whole files: one pass of ours against `llama_model_quantize`, both from the same model on disk.

python benchmarks/quantize_file.py [--llama-cpp BUILD/bin/libllama.so] [--folder FOLDER]
    [--rounds 3] [--threads 2] [--only q4,q8,three,memory,safetensors] [--layers 16] [--json]

The model has a billion random weights, in bfloat16, as GGUF and as safetensors; both are made in
--folder (7 GB with all outputs) and kept there for the next run. Every run is a process of its own.
Runs of two sides alternate, and the median of the ratios of neighbours counts, since a busy machine
slows both. Ours waits until the disk has the file, as it always does; llama.cpp does not, so that
it is timed alone and with an `fsync` after it; a folder in memory (/dev/shm) has neither.

Without --llama-cpp, llama.cpp is built for this processor from the source package of
llama-cpp-python that PyPI has: pip download --no-binary :all:, then cmake -DGGML_NATIVE=ON.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

sys.path.append(str(Path(__file__).parents[1] / "tests"))
sys.path.append(str(Path(__file__).parents[1] / "tests" / "streaming"))

from billion import make_model

from snugfit.formats.imatrix import read_imatrix
from snugfit.mixes import types_of_mix
from snugfit.models import open_model
from snugfit.quantize import Output, predicted_bytes, quantize_all
from snugfit.quants.codecs import requantize_rows
from snugfit.quants.recipes import RECIPES
from snugfit.streaming.tasks import slabs

PEER = "llama-cpp-python==0.3.36"
THREE = ("Q4_K_M", "IQ4_XS", "Q6_K")
CHUNK = 2**22  # bytes that plain copying moves at a time


# llama.cpp


class Parameters(ctypes.Structure):
    """llama_model_quantize_params of that release."""

    _fields_ = (
        ("threads", ctypes.c_int32),
        ("file_type", ctypes.c_int),
        ("output_type", ctypes.c_int),
        ("embedding_type", ctypes.c_int),
        ("allow_requantize", ctypes.c_bool),
        ("quantize_output", ctypes.c_bool),
        ("only_copy", ctypes.c_bool),
        ("pure", ctypes.c_bool),
        ("keep_split", ctypes.c_bool),
        ("dry_run", ctypes.c_bool),
        ("imatrix", ctypes.c_void_p),
        ("overrides", ctypes.c_void_p),
        ("tensor_overrides", ctypes.c_void_p),
        ("pruned", ctypes.c_void_p),
        ("buffer_bytes", ctypes.c_size_t),
    )


class Entry(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("data", ctypes.c_void_p), ("size", ctypes.c_size_t))


def run_peer(library: Path, model: Path, out: Path, mix: str, imatrix: str, threads: int) -> float:
    llama = ctypes.CDLL(str(library))
    llama.llama_model_quantize_default_params.restype = Parameters
    quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
    llama.llama_log_set(quiet, None)
    llama.llama_backend_init()
    given = llama.llama_model_quantize_default_params()
    given.threads, given.file_type = threads, RECIPES[mix].file_type
    rows = {}
    if imatrix:
        importance = read_imatrix(imatrix)
        rows = {name: importance.of_matrix(name, 0) for name in importance.weights}
        entries = (Entry * (len(rows) + 1))(
            *(Entry(name.encode(), row.ctypes.data, row.size) for name, row in rows.items())
        )
        given.imatrix = ctypes.addressof(entries)
    began = time.perf_counter()
    status = llama.llama_model_quantize(str(model).encode(), str(out).encode(), ctypes.byref(given))
    seconds = time.perf_counter() - began
    if status:
        sys.exit("llama_model_quantize failed")
    return seconds


def build_peer(folder: Path) -> Path:
    """Return a libllama.so that was built for this processor."""
    found = folder / "build" / "bin" / "libllama.so"
    if found.exists():
        return found
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*pip, "--no-build-isolation", "-d", str(folder), PEER], check=True)
    with tarfile.open(next(folder.glob("llama_cpp_python-*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    source = next(folder.glob("llama_cpp_python-*/vendor/llama.cpp"))
    options = ["-DGGML_NATIVE=ON", "-DCMAKE_BUILD_TYPE=Release", "-DLLAMA_CURL=OFF"]
    build = ["cmake", "-S", str(source), "-B", str(folder / "build"), *options]
    subprocess.run(build, check=True)
    make = ["cmake", "--build", str(folder / "build"), "--target", "llama", "-j"]
    subprocess.run(make, check=True)
    return found


# One run, in a process of its own


def run_ours(model: str, out: Path, mixes: list[str], imatrix: str, threads: int) -> float:
    importance = read_imatrix(imatrix) if imatrix else None
    began = time.perf_counter()
    opened = open_model(model)
    outputs = [
        Output(out.with_suffix(f".{mix}"), types_of_mix(opened, mix), RECIPES[mix].file_type)
        for mix in mixes
    ]
    quantize_all(opened, outputs, importance=importance, threads=threads)
    return time.perf_counter() - began


def run_kernels(model: str, mixes: list[str], imatrix: str, threads: int) -> float:
    """Return the seconds that kernels alone take for rows that are in memory already."""
    opened = open_model(model)
    importance = read_imatrix(imatrix) if imatrix else None
    types = [types_of_mix(opened, mix) for mix in mixes]
    seconds = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for name, tensor in opened.tensors.items():
            weights = importance.of_matrix(name, 0) if importance else None
            runs = [opened.read(name, *run) for run in slabs(tensor)]
            for of_mix in types:

                def one(rows: Any, to: str = of_mix[name], of: str = tensor.type_name) -> None:
                    requantize_rows(rows, of, to, weights if to != "F32" else None)  # noqa: B023

                began = time.perf_counter()
                list(pool.map(one, runs))
                seconds += time.perf_counter() - began
    return seconds


def run_copy(model: Path, out: Path, out_bytes: int, threads: int) -> float:
    """Read the model, write so many bytes as well, wait for the disk: what any program must do.

    As many threads as quantize take turns, each reading and writing its own share at places.
    """
    size = model.stat().st_size

    def share(number: int) -> None:
        buffer = memoryview(bytearray(CHUNK))
        part = slice(size * number // threads, size * (number + 1) // threads)
        written = out_bytes * number // threads
        ratio = out_bytes / size
        with model.open("rb", buffering=0) as source, out.open("r+b", buffering=0) as target:
            source.seek(part.start)
            target.seek(written)
            for _ in range(part.start, part.stop, CHUNK):
                source.readinto(buffer)
                target.write(buffer[: int(CHUNK * ratio)])

    out.touch()
    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(share, range(threads)))
    with out.open("r+b") as file:
        os.fsync(file.fileno())
    return time.perf_counter() - began


def run_child(arguments: argparse.Namespace) -> None:
    kind, *given = arguments.child
    mixes, threads, imatrix = arguments.mixes.split(","), arguments.threads, arguments.imatrix
    if kind == "ours":
        seconds = run_ours(given[0], Path(given[1]), mixes, imatrix, threads)
    elif kind == "kernels":
        seconds = run_kernels(given[0], mixes, imatrix, threads)
    elif kind == "copy":
        seconds = run_copy(Path(given[0]), Path(given[1]), int(given[2]), threads)
    else:
        library, model, out = map(Path, given)
        seconds = run_peer(library, model, out, mixes[0], imatrix, threads)
        if arguments.sync:
            began = time.perf_counter()
            with out.open("r+b") as file:
                os.fsync(file.fileno())
            seconds += time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_SELF)
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
    cpu = used.ru_utime + used.ru_stime
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "peak_bytes": peak}))


class Run(NamedTuple):
    """What a process took: of the clock for the work, of processors for all that it did."""

    seconds: float
    cpu_seconds: float


class Bench:
    """Starts runs and remembers the largest memory that each kind took."""

    def __init__(self, folder: Path, threads: int, rounds: int, library: Path | None) -> None:
        self.folder, self.threads, self.rounds, self.library = folder, threads, rounds, library
        self.out = folder / "out"
        self.peaks: dict[str, int] = {}
        self.commands: dict[str, str] = {}

    def child(self, kind: str, *given: object, mixes: str = "", sync: bool = False) -> Run:
        importance = mixes not in ("Q8_0", "")
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        command = [sys.executable, __file__, "--threads", str(self.threads), "--mixes", mixes]
        command += ["--imatrix", str(self.folder / "imatrix.gguf") if importance else ""]
        command += ["--sync"] if sync else []
        command += ["--child", kind, *map(str, given)]
        os.sync()  # what others wrote is not waited for in this run
        shown = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        result = json.loads(shown.splitlines()[-1])
        label = f"{kind} {mixes}"
        self.peaks[label] = max(self.peaks.get(label, 0), result["peak_bytes"])
        return Run(result["seconds"], result["cpu_seconds"])

    def ours(self, source: str, mixes: str) -> Run:
        return self.child("ours", self.folder / source, self.out / "ours", mixes=mixes)

    def peer(self, mix: str, sync: bool = False) -> Run:
        model, out = self.folder / "model.gguf", self.out / "theirs.gguf"
        return self.child("peer", self.library, model, out, mixes=mix, sync=sync)

    def copy(self, out_bytes: int) -> Run:
        return self.child("copy", self.folder / "model.gguf", self.out / "copy", out_bytes)

    def kernels(self, mixes: str) -> Run:
        return self.child("kernels", self.folder / "model.gguf", mixes=mixes)

    def in_turn(self, first: Callable[[], Run], second: Callable[[], Run]) -> dict[str, float]:
        pairs = [(first(), second()) for _ in range(self.rounds)]
        return {
            "first": median(one.seconds for one, _ in pairs),
            "second": median(two.seconds for _, two in pairs),
            "ratio": median(two.seconds / one.seconds for one, two in pairs),
            "cpu_ratio": median(two.cpu_seconds / one.cpu_seconds for one, two in pairs),
        }


def measured(bench: Bench, only: set[str]) -> Iterator[dict[str, Any]]:
    if "q4" in only and bench.library:
        for sync in (False, True):
            times = bench.in_turn(
                lambda: bench.ours("model.gguf", "Q4_K_M"),
                lambda sync=sync: bench.peer("Q4_K_M", sync),  # type: ignore[misc]
            )
            what = "llama_model_quantize" + (", then fsync" if sync else "")
            yield {"what": f"Q4_K_M with importance: {what} / ours", "goal": ">= 8"} | times
    if "q8" in only:
        opened = open_model(str(bench.folder / "model.gguf"))
        size = Output(Path("x"), types_of_mix(opened, "Q8_0"))
        out_bytes = predicted_bytes(opened, size)
        times = bench.in_turn(
            lambda: bench.ours("model.gguf", "Q8_0"), lambda: bench.copy(out_bytes)
        )
        yield {"what": "Q8_0: reading and writing as many bytes / ours", "goal": ">= 0.8"} | times
        if bench.library:
            times = bench.in_turn(
                lambda: bench.ours("model.gguf", "Q8_0"), lambda: bench.peer("Q8_0")
            )
            yield {"what": "Q8_0: llama_model_quantize / ours", "goal": ""} | times
    if "three" in only:
        mixes = ",".join(THREE)
        times = bench.in_turn(lambda: bench.kernels(mixes), lambda: bench.ours("model.gguf", mixes))
        yield {"what": f"{mixes} in one read: ours / kernels alone", "goal": "<= 1.15"} | times
    if "safetensors" in only:
        times = bench.in_turn(
            lambda: bench.ours("model.gguf", "Q4_K_M"), lambda: bench.ours("model", "Q4_K_M")
        )
        yield {"what": "Q4_K_M: from safetensors / from GGUF", "goal": "<= 1"} | times


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--llama-cpp", type=Path, help="a libllama.so of " + PEER)
    parser.add_argument("--no-peer", action="store_true", help="leave llama.cpp out")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--only", default="q4,q8,three,safetensors")
    parser.add_argument("--json", action="store_true")
    for hidden in ("--mixes", "--imatrix"):
        parser.add_argument(hidden, default="", help=argparse.SUPPRESS)
    parser.add_argument("--sync", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        run_child(arguments)
        return
    folder = arguments.folder or Path(tempfile.gettempdir()) / "snugfit-quantize-file"
    folder.mkdir(parents=True, exist_ok=True)
    make_model(folder, arguments.layers)
    library = arguments.llama_cpp
    if library is None and not arguments.no_peer:
        library = build_peer(folder)
    bench = Bench(folder, arguments.threads, arguments.rounds, library)
    rows = []
    for row in measured(bench, set(arguments.only.split(","))):
        rows.append(row)
        print(f"{row['what']}: {row['ratio']:.2f}", file=sys.stderr)
    shutil.rmtree(bench.out, ignore_errors=True)
    show(rows, bench, arguments)


def show(rows: list[dict[str, Any]], bench: Bench, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(json.dumps({"rows": rows, "peak_bytes": bench.peaks}, indent=1))
        return
    print(
        "| what | seconds | ratio | of processor time | goal | command |\n|---|--:|--:|--:|--:|---|"
    )
    script = f"benchmarks/quantize_file.py --folder {bench.folder} --threads {bench.threads}"
    for row in rows:
        times = f"{row['second']:.2f} / {row['first']:.2f}"
        ratios = f"{row['ratio']:.2f} | {row['cpu_ratio']:.2f}"
        print(f"| {row['what']} | {times} | {ratios} | {row['goal']} | `{script}` |")
    print("\n| peak memory of a process | MiB |\n|---|--:|")
    for label, peak in bench.peaks.items():
        print(f"| {label} | {peak / 2**20:.0f} |")


if __name__ == "__main__":
    main()
