"""Writes a cut of a model: every tensor read once, quantized and written, one slab at a time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from snugfit.core import TensorInfo
from snugfit.errors import SnugfitError, UnsupportedError
from snugfit.formats.gguf import padded
from snugfit.formats.gguf_writer import GgufWriter, header_size
from snugfit.formats.imatrix import Floats, Importance
from snugfit.models import SLAB_BYTES, Blocks, Model
from snugfit.quants.codecs import BadNumberError, Quality, can_quantize, requantize_rows
from snugfit.quants.recipes import RECIPES

Progress = Callable[[int, int], None]  # weights done, weights in all


@dataclass(frozen=True)
class Written:
    """What a quantization left behind."""

    path: Path
    file_bytes: int
    bits_per_weight: float
    seconds: float
    types: dict[str, int]  # type name -> weights stored so
    without_importance: tuple[str, ...]  # quantized tensors that calibration did not reach


@dataclass(frozen=True)
class Output:
    """A file to write."""

    path: Path
    types: Mapping[str, str]  # type name for every tensor
    file_type: int = 0  # general.file_type
    metadata: Mapping[str, Any] = field(default_factory=dict)  # replaces or adds keys
    keep_split: bool = False  # as many files as the source has, tensors where they were
    split_bytes: int = 0  # or: splits of at most so many bytes (0: one file)
    split_tensors: int = 0  # or of so many tensors


def predicted_bytes(model: Model, output: Output) -> int:
    """Return the bytes of all files of an output: headers, tensors and padding."""
    tensors = [TensorInfo(t.name, t.shape, output.types[t.name]) for t in model.tensors.values()]
    metadata = model.cut_metadata(output.file_type) | dict(output.metadata)
    header = header_size(metadata, tensors, model.absent_bytes)
    return header + sum(padded(tensor.size_bytes) for tensor in tensors)


def quantize_all(
    model: Model,
    outputs: Sequence[Output],
    *,
    importance: Importance | None = None,
    threads: int = 0,
    quality: Quality = "fast",
    allow_requantize: bool = False,
    progress: Progress | None = None,
) -> list[Written]:
    """Write every output of `model`."""
    for output in outputs:
        if output.keep_split or output.split_bytes or output.split_tensors:
            raise UnsupportedError(f"{output.path}: cannot be split yet.")
    return [
        quantize(
            model,
            output.path,
            output.types,
            importance=importance,
            threads=threads,
            quality=quality,
            allow_requantize=allow_requantize,
            progress=progress,
            metadata={"general.file_type": np.uint32(output.file_type)} | dict(output.metadata),
        )
        for output in outputs
    ]


def quantize(
    model: Model,
    out: Path | str,
    types: Mapping[str, str],
    *,
    mix: str = "",
    importance: Importance | None = None,
    threads: int = 0,
    quality: Quality = "fast",
    allow_requantize: bool = False,
    progress: Progress | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Written:
    """Write `model` to `out` with `types`, a type name for every tensor.

    `threads` 0 uses every processor that this process may; `quality` is that of `quantize_rows`.
    The file appears whole or not at all.
    Raises UnsupportedError for a type or source that cannot be, OutputError for a full disk.
    """
    out, began = Path(out), time.monotonic()
    tensors = [TensorInfo(t.name, t.shape, types[t.name]) for t in model.tensors.values()]
    _check(model, tensors, allow_requantize)
    _check_target(model, out)
    threads = threads or available_threads()
    total, done = sum(tensor.parameters for tensor in tensors), 0
    file_type = RECIPES[mix].file_type if mix in RECIPES else 0
    missed = []
    with GgufWriter(out, model.cut_metadata(file_type) | dict(metadata or {}), tensors) as writer:
        for tensor in tensors:
            weights = importance.mean_squares(tensor.name) if importance else None
            if importance and weights is None and tensor.type.is_quantized:
                missed.append(tensor.name)
            source = model.tensors[tensor.name].type_name
            step = max(1, SLAB_BYTES // (4 * tensor.columns))
            for first in range(0, tensor.rows, step):
                rows = model.read(tensor.name, first, min(step, tensor.rows - first))
                if source == tensor.type_name and source not in ("F32", "F16", "BF16"):
                    writer.write(tensor.name, rows, first)
                    continue
                for at, blocks in _quantized(
                    tensor, source, first, rows, weights, threads, quality
                ):
                    writer.write(tensor.name, blocks, at)
                done += len(rows) * tensor.columns
                if progress:
                    progress(done, total)
    stored: dict[str, int] = {}
    for tensor in tensors:
        stored[tensor.type_name] = stored.get(tensor.type_name, 0) + tensor.parameters
    bits = 8 * sum(tensor.size_bytes for tensor in tensors) / total
    seconds = time.monotonic() - began
    return Written(out, writer.file_bytes, bits, seconds, stored, tuple(missed))


def _quantized(
    tensor: TensorInfo,
    source: str,
    first_row: int,
    rows: Blocks,
    weights: Floats | None,
    threads: int,
    quality: Quality,
) -> Iterator[tuple[int, Blocks]]:
    """Yield (row, blocks) for a slab, matrix by matrix: each expert has its own importance."""
    matrix_rows = tensor.shape[-2] if len(tensor.shape) > 1 else 1
    position = first_row
    while position < first_row + len(rows):
        matrix = position // matrix_rows
        end = min((matrix + 1) * matrix_rows, first_row + len(rows))
        part = rows[position - first_row : end - first_row]
        importance = None
        if weights is not None and tensor.type.is_quantized:
            importance = weights[matrix if len(weights) > 1 else 0]
        try:
            yield (
                position,
                requantize_rows(part, source, tensor.type_name, importance, threads, quality),
            )
        except BadNumberError as error:
            raise error.within(tensor.name, position) from None
        except SnugfitError as error:
            raise type(error)(f"tensor {tensor.name}: {error}") from None
        position = end


def available_threads() -> int:
    """Return the processors that this process may use; a container may have fewer than its host."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check(model: Model, tensors: list[TensorInfo], allow_requantize: bool) -> None:
    for tensor in tensors:
        if model.tensors[tensor.name].type_name == tensor.type_name:
            continue
        if not can_quantize(tensor.type_name):
            raise UnsupportedError(
                f"{model.name}: tensor {tensor.name} cannot be quantized to {tensor.type_name} yet."
            )
        tensor.type.row_bytes(tensor.columns)
        source = model.tensors[tensor.name].type
        if source.is_quantized and source.name != tensor.type_name and not allow_requantize:
            raise UnsupportedError(
                f"{model.path}: tensor {tensor.name} is already {source.name}; quantizing it again "
                "adds loss. Start from the 16-bit model, or add --allow-requantize."
            )


def _check_target(model: Model, out: Path) -> None:
    if out.exists() and model.path.exists() and out.samefile(model.path):
        raise UnsupportedError(f"{out}: is the model itself. Choose another file with -o.")
    if out.is_dir():
        raise UnsupportedError(f"{out}: is a folder. Name a file, such as {out}/model.gguf.")
