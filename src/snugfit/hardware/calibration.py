"""What `snugfit bench` measured here, and what real runs added, kept in the user's cache.

A row belongs to one memory, one release of the engine and one number of threads: a home may serve
several machines. Everything is read as if a stranger had written it; what is damaged is not there.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from snugfit.core import Device
from snugfit.errors import OutputError
from snugfit.hardware import detect, profiles
from snugfit.quants.types import TYPES

RUNS_KEPT = 16
# Beyond these bounds a run was disturbed, or the prediction was about something else.
LOWEST_RATIO, HIGHEST_RATIO = 0.25, 4.0
# The calibration counts as so many runs that were as predicted.
RUNS_OF_CALIBRATION = 2
# Damage, not measurements: a byte or operation a second, and more of them than anything has.
LOWEST_RATE, HIGHEST_RATE = 1.0, 1e18
LONGEST_SECONDS = 10.0  # of a layer, a token
MOST_ROWS, MOST_BYTES = 1000, 2**22
LOCK_SECONDS = 5.0

RATES = (
    *("expert_bytes_per_s", "cache_bytes_per_s"),
    *("attention_operations_per_s", "prompt_attention_operations_per_s"),
)
SECONDS = ("layer_seconds", "expert_layer_seconds", "token_seconds", "score_seconds", "row_seconds")


@dataclass(frozen=True)
class Calibration:
    """What one memory's processors reach with one engine; see `planning.pace.Pace`."""

    bytes_per_s: Mapping[str, float]  # of matrices, by type
    operations_per_s: Mapping[str, float]  # of matrices times many tokens, by type
    expert_bytes_per_s: float  # of experts of `expert_type`
    expert_operations_part: float
    expert_type: str
    layer_seconds: float
    expert_layer_seconds: float
    token_seconds: float
    cache_bytes_per_s: float
    score_seconds: float
    row_seconds: float
    attention_operations_per_s: float
    prompt_attention_operations_per_s: float
    band: float  # of decoding, relative
    prefill_band: float
    date: str
    read_bytes_per_s: float = 0.0  # of the memory, beside the engine; 0 if not measured
    # Seconds a token over those predicted without correction, of real runs, the latest last.
    runs: tuple[float, ...] = ()

    @property
    def correction(self) -> float:
        """Factor on predicted seconds that real runs have taught: their geometric mean, pulled
        towards 1 while there are few.
        """
        logs = [math.log(run) for run in self.runs]
        return math.exp(sum(logs) / (len(logs) + RUNS_OF_CALIBRATION))

    @property
    def scatter(self) -> float:
        """Standard deviation of the logarithms of runs around their correction."""
        if len(self.runs) < 2:
            return 0.0
        middle = math.log(self.correction)
        squares = [(math.log(run) - middle) ** 2 for run in self.runs]
        return math.sqrt(sum(squares) / len(squares))


def path() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("snugfit", appauthor=False) / "calibration.json"


def engine_release() -> str:
    try:
        import importlib.metadata

        return f"llama.cpp of xllamacpp {importlib.metadata.version('xllamacpp')}"
    except importlib.metadata.PackageNotFoundError:
        return "no engine"


def key_of(device: Device, processor: str, cores: int, threads: int = 0) -> str:
    """Return the name of a device's row. `threads` of the engine, 0 for its own choice: cores."""
    memory = f"GPU {profiles.key_of(device.name)}"
    if device.kind == "ram":
        memory = detect.ram_key(processor, cores)
    return f"{memory}; {engine_release()}; {threads or cores} threads"


def read(file: Path | None = None) -> dict[str, Calibration]:
    """Return key -> row. A file that is absent or damaged counts as empty, so does a row."""
    try:
        with (file or path()).open("rb") as opened:
            text = opened.read(MOST_BYTES + 1)
        document = json.loads(text) if len(text) <= MOST_BYTES else None
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(document, dict):
        return {}
    rows = {key: _checked(row) for key, row in list(document.items())[:MOST_ROWS]}
    return {key: row for key, row in rows.items() if row is not None}


def add(key: str, row: Calibration, file: Path | None = None) -> Path:
    """Keep a new calibration in place of an older one, and return the file. Raises OutputError."""
    file = file or path()
    with _locked(file):
        _write(read(file) | {key: row}, file)
    return file


def add_run(key: str, ratio: float, file: Path | None = None) -> Calibration | None:
    """Add a run's seconds over those predicted without correction; return the row as it is now.

    None, and nothing is kept, where the row is not there or the ratio is beyond belief. Raises
    OutputError.
    """
    file = file or path()
    if not LOWEST_RATIO <= ratio <= HIGHEST_RATIO:  # a NaN is not either
        return None
    with _locked(file):
        rows = read(file)
        if key not in rows:
            return None
        row = rows[key]
        rows[key] = replace(row, runs=(*row.runs, ratio)[-RUNS_KEPT:])
        _write(rows, file)
    return rows[key]


def _write(rows: Mapping[str, Calibration], file: Path) -> None:
    beside = file.with_name(f"{file.name}.{os.getpid()}")
    document = {key: asdict(row) for key, row in rows.items()}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        beside.replace(file)
    except (OSError, ValueError) as error:
        beside.unlink(missing_ok=True)
        raise OutputError(f"{file}: cannot be written ({error}).") from error


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Let one process at a time change the file. A lock that is never given back is broken."""
    lock = file.with_name(f"{file.name}.lock")
    end = time.monotonic() + LOCK_SECONDS
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                break
            except FileExistsError:
                if time.monotonic() > end:
                    lock.unlink(missing_ok=True)
                time.sleep(0.01)
    except OSError as error:
        raise OutputError(f"{file}: cannot be written ({error.strerror}).") from error
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def _checked(row: Any) -> Calibration | None:
    """Return a row of the file, or None unless every number in it can be one."""
    try:
        return Calibration(
            bytes_per_s=_rates(row["bytes_per_s"]),
            operations_per_s=_rates(row["operations_per_s"]),
            expert_operations_part=_number(row["expert_operations_part"], 0.01, 10.0),
            expert_type=_type(row["expert_type"]),
            band=_number(row["band"], 0.0, 10.0),
            prefill_band=_number(row["prefill_band"], 0.0, 10.0),
            date=str(row["date"])[:32],
            read_bytes_per_s=_number(row["read_bytes_per_s"], 0.0, HIGHEST_RATE),
            runs=tuple(_number(run, LOWEST_RATIO, HIGHEST_RATIO) for run in row["runs"])[
                -RUNS_KEPT:
            ],
            **{name: _number(row[name], LOWEST_RATE, HIGHEST_RATE) for name in RATES},
            **{name: _number(row[name], 0.0, LONGEST_SECONDS) for name in SECONDS},
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _number(value: Any, lowest: float, highest: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(value)
    if not lowest <= value <= highest:
        raise ValueError(value)
    return float(value)


def _type(name: Any) -> str:
    if name not in TYPES:
        raise ValueError(name)
    return str(name)


def _rates(values: Any) -> dict[str, float]:
    """Return type -> rate. Raises ValueError where there is none, or one that cannot be."""
    rates = {_type(name): _number(rate, LOWEST_RATE, HIGHEST_RATE) for name, rate in values.items()}
    if not rates:
        raise ValueError("no rates")
    return rates
