"""What one pass consists of: runs of rows, each read once and written to every file that wants it.

A task needs nothing but the open model and the names of the partial files, so that any process that
sees both may run it, in any order, twice too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from snugfit.core import TensorInfo
from snugfit.errors import SnugfitError
from snugfit.formats.gguf_writer import output_errors
from snugfit.formats.imatrix import Importance
from snugfit.models import Blocks, Model
from snugfit.quants.codecs import BadNumberError, Quality, requantize_rows

# Of a run as float32: what is read is still in the processor's cache when it is quantized.
SLAB_BYTES = 4 * 2**20
# Kernels look for numbers that are none in these; blocks are taken as they are.
FLOATS = frozenset({"F32", "F16", "BF16"})


@dataclass(frozen=True)
class Place:
    """Where rows of a tensor go."""

    partial: Path
    offset: int
    tensor: TensorInfo

    def write(self, first_row: int, blocks: Blocks) -> None:
        with self.partial.open("r+b", buffering=0) as file:
            file.seek(self.offset + first_row * self.tensor.type.row_bytes(self.tensor.columns))
            left = np.ascontiguousarray(blocks).reshape(-1).data
            while left:
                left = left[file.write(left) :]


@dataclass(frozen=True)
class Target:
    """One output as tasks see it: places by tensor."""

    path: Path
    file_bytes: int
    places: Mapping[str, Place] = field(repr=False)


@dataclass(frozen=True)
class Work:
    """What all tasks of a pass share; it can be sent to another process."""

    targets: tuple[Target, ...]
    importance: Importance | None = field(default=None, repr=False)
    quality: Quality = "fast"


@dataclass(frozen=True, slots=True)
class Task:
    """Rows of a tensor, and the targets that want them."""

    tensor: str
    first: int
    rows: int
    targets: tuple[int, ...]


def slabs(tensor: TensorInfo, slab_bytes: int = SLAB_BYTES) -> Iterator[tuple[int, int]]:
    """Yield (first row, rows) of each run of a tensor, which as float32 has so many bytes."""
    step = max(1, slab_bytes // (4 * tensor.columns))
    for first in range(0, tensor.rows, step):
        yield first, min(step, tensor.rows - first)


def run_task(
    model: Model,
    work: Work,
    task: Task,
    turn: AbstractContextManager[object] | None = None,
) -> Task:
    """Read, quantize and write the rows of a task; return it. `turn` is held while quantizing.

    Raises BadNumberError, FormatError for a source that is shorter than it was, OutputError.
    """
    turn = turn or nullcontext()
    rows = model.read(task.tensor, task.first, task.rows)
    source = model.tensors[task.tensor].type_name
    for number in task.targets:
        target = work.targets[number]
        place = target.places[task.tensor]
        with turn:
            made = list(_quantized(work, place.tensor, source, task.first, rows))
        with output_errors(target.path, target.file_bytes):
            for first, blocks in made:
                place.write(first, blocks)
    return task


def _quantized(
    work: Work, tensor: TensorInfo, source: str, first_row: int, rows: Blocks
) -> Iterator[tuple[int, Blocks]]:
    """Yield (row, blocks) for a run of rows, matrix by matrix: experts differ in importance."""
    name, to = tensor.name, tensor.type_name
    if source == to and source not in FLOATS:
        yield first_row, rows
        return
    importance = work.importance if tensor.type.is_quantized else None
    matrix_rows = tensor.shape[-2] if importance and len(tensor.shape) > 1 else tensor.rows
    position, end_row = first_row, first_row + len(rows)
    while position < end_row:
        matrix = position // matrix_rows
        end = min((matrix + 1) * matrix_rows, end_row)
        part = rows[position - first_row : end - first_row]
        weights = importance.of_matrix(name, matrix) if importance else None
        try:
            yield position, requantize_rows(part, source, to, weights, 1, work.quality)
        except BadNumberError as error:
            raise error.within(name, position) from None
        except SnugfitError as error:
            raise type(error)(f"tensor {name}: {error}") from None
        position = end
