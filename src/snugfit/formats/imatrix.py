"""llama.cpp's importance matrix: read, and written in its GGUF form.

For every matrix: `NAME.in_sum2`, the sum of squares of each input column over all tokens seen, and
`NAME.counts`, the tokens seen; stacked experts have one row of both for each expert.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from snugfit.core import TensorInfo
from snugfit.errors import FormatError
from snugfit.formats.gguf import MAGIC, GgufFile, read_gguf
from snugfit.formats.gguf_writer import GgufWriter
from snugfit.formats.imatrix_dat import read_dat

Floats = np.ndarray[Any, np.dtype[np.float32]]
SUMS, COUNTS = ".in_sum2", ".counts"


@dataclass(frozen=True)
class ColumnSums:
    """Sums over tokens of the squared inputs of one weight: [matrices, columns] and [matrices]."""

    squares: Floats
    counts: Floats


@dataclass(frozen=True)
class Importance:
    """What calibration measured: `weights` maps a tensor name to its column sums."""

    weights: dict[str, ColumnSums]
    datasets: tuple[str, ...]
    chunk_count: int
    chunk_size: int

    def mean_squares(self, name: str) -> Floats | None:
        """Return the mean squared input of each column, [matrices, columns], or None if unmeasured.

        An expert that no token reached has no evidence: its columns count alike.
        """
        found = self.weights.get(name)
        return None if found is None else _means(found.squares, found.counts)

    def of_matrix(self, name: str, matrix: int) -> Floats | None:
        """Return the mean squares [columns] of one matrix of a stack, or None if unmeasured."""
        found = self.weights.get(name)
        if found is None:
            return None
        row = matrix if len(found.counts) > 1 else 0
        means: Floats = _means(found.squares[row : row + 1], found.counts[row : row + 1])[0]
        return means


def _means(squares: Floats, counts: Floats) -> Floats:
    means: Floats = (squares / np.maximum(counts, 1)[:, None]).astype(np.float32)
    means[counts == 0] = 1
    return means


def write_imatrix(path: Path | str, importance: Importance) -> None:
    """Write the GGUF form that `llama-quantize --imatrix` reads. Raises OutputError."""
    metadata = {
        "general.type": "imatrix",
        "imatrix.datasets": list(importance.datasets),
        "imatrix.chunk_count": np.uint32(importance.chunk_count),
        "imatrix.chunk_size": np.uint32(importance.chunk_size),
    }
    arrays = {}
    for name, sums in sorted(importance.weights.items()):
        arrays[name + SUMS] = sums.squares
        arrays[name + COUNTS] = sums.counts[:, None]
    tensors = [TensorInfo(name, array.shape, "F32") for name, array in arrays.items()]
    with GgufWriter(path, metadata, tensors) as writer:
        for name, array in arrays.items():
            writer.write(name, np.ascontiguousarray(array, "<f4").view(np.uint8))


def read_imatrix(path: Path | str) -> Importance:
    """Read an importance matrix that llama-imatrix or `snugfit calibrate` wrote.

    Entries of the old form, `.dat`, have one row for all matrices of a tensor. Raises FormatError
    if the file is of another kind, or its counts or sums make no sense.
    """
    if not _is_gguf(Path(path)):
        return _read_old(Path(path))
    file = read_gguf(path)
    if file.metadata.get("general.type") != "imatrix":
        raise FormatError(
            f"{path}: not an importance matrix. Make one with: snugfit calibrate MODEL -o {path}"
        )
    weights = {}
    for full_name in file.tensors:
        if full_name.endswith(SUMS):
            name = full_name.removesuffix(SUMS)
            weights[name] = _column_sums(file, name)
    return Importance(
        weights,
        tuple(file.metadata.get("imatrix.datasets", ())),
        int(file.metadata.get("imatrix.chunk_count", 0)),
        int(file.metadata.get("imatrix.chunk_size", 0)),
    )


def _is_gguf(path: Path) -> bool:
    """Return whether the file is GGUF, or cannot be read, which reading it as GGUF explains."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) in (MAGIC, b"")
    except OSError:
        return True


def _read_old(path: Path) -> Importance:
    old = read_dat(path)
    weights = {}
    for name, (sums, calls) in old.entries.items():
        _check_sums(path, name, sums)
        weights[name] = ColumnSums(sums[None], np.array([max(calls, 1)], np.float32))
    return Importance(weights, (old.dataset,) if old.dataset else (), old.chunk_count, 0)


def _check_sums(path: Path, name: str, sums: Floats) -> None:
    if not np.isfinite(sums).all() or (sums < 0).any():
        raise FormatError(f"{path}: {name} holds negative or non-finite sums. Calibrate again.")


def _column_sums(file: GgufFile, name: str) -> ColumnSums:
    if name + COUNTS not in file.tensors:
        raise FormatError(f"{file.path}: {name} has sums but no counts. Calibrate again.")
    squares = _floats(file, name + SUMS)
    counts = _floats(file, name + COUNTS).reshape(-1)
    squares = squares.reshape(-1, squares.shape[-1])
    if len(counts) not in (1, len(squares)):
        raise FormatError(
            f"{file.path}: {name} has {len(squares)} rows of sums and {len(counts)} counts. "
            "Calibrate again."
        )
    _check_sums(file.path, name, squares)
    _check_sums(file.path, name, counts)
    return ColumnSums(squares, np.broadcast_to(counts, len(squares)).copy())


def _floats(file: GgufFile, name: str) -> Floats:
    tensor = file.tensors[name]
    if tensor.type_name != "F32":
        raise FormatError(f"{file.path}: {name} is {tensor.type_name}, not F32. Calibrate again.")
    shape: Sequence[int] = tensor.shape
    return np.array(file.rows(name)).view("<f4").reshape(shape)
