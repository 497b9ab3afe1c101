"""Writes cuts of a model: every tensor read once, however many files it is quantized to."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from snugfit.core import TensorInfo
from snugfit.errors import FormatError, UnsupportedError
from snugfit.formats.imatrix import Importance
from snugfit.models import Model
from snugfit.quants.codecs import Quality, can_quantize
from snugfit.quants.recipes import RECIPES
from snugfit.streaming.destination import Notice
from snugfit.streaming.executor import Executor, Threads
from snugfit.streaming.outputs import Output as Output
from snugfit.streaming.outputs import Part, parts_of
from snugfit.streaming.outputs import predicted_bytes as predicted_bytes
from snugfit.streaming.stream import Progress, stream, to_stderr
from snugfit.streaming.tasks import FLOATS


@dataclass(frozen=True)
class Written:
    """What a quantization left behind."""

    path: Path  # of the first split, where there are several
    file_bytes: int  # of all splits
    bits_per_weight: float
    seconds: float
    types: dict[str, int]  # type name -> weights stored so
    without_importance: tuple[str, ...]  # quantized tensors that calibration did not reach
    paths: tuple[Path, ...] = ()  # of all splits


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
) -> Written:
    """Write `model` to `out` with `types`, a type name for every tensor.

    The rest is as in `quantize_all`, of which this is the case of one file.
    """
    output = Output(Path(out), types, RECIPES[mix].file_type if mix in RECIPES else 0)
    (written,) = quantize_all(
        model,
        [output],
        importance=importance,
        threads=threads,
        quality=quality,
        allow_requantize=allow_requantize,
        progress=progress,
    )
    return written


def quantize_all(
    model: Model,
    outputs: Sequence[Output],
    *,
    importance: Importance | None = None,
    threads: int = 0,
    quality: Quality = "fast",
    allow_requantize: bool = False,
    progress: Progress | None = None,
    notice: Notice = to_stderr,
    executor: Executor | None = None,
) -> list[Written]:
    """Write every output of `model` in one pass over its weights.

    `threads` 0 uses every processor that this process may; `quality` is that of `quantize_rows`;
    `executor` runs the tasks elsewhere. Files appear whole or not at all. A pass that was killed is
    gone on with by the same call; `notice` is told so, in a line.
    Raises UnsupportedError for a type or source that cannot be, FormatError for weights that are
    damaged or change, OutputError for a full disk or another writer, Interrupted for Ctrl-C.
    """
    began = time.monotonic()
    for output in outputs:
        _check(model, output, importance, allow_requantize)
        for part in parts_of(model, output):
            _check_target(model, part.path)
    finished = stream(
        model,
        outputs,
        executor or Threads(threads or available_threads()),
        importance=importance,
        quality=quality,
        progress=progress,
        notice=notice,
    )
    seconds = time.monotonic() - began
    return [
        _written(output, parts, importance, seconds)
        for output, parts in zip(outputs, finished, strict=True)
    ]


def _written(
    output: Output, parts: Sequence[Part], importance: Importance | None, seconds: float
) -> Written:
    tensors = [tensor for part in parts for tensor in part.tensors]
    stored: dict[str, int] = {}
    for tensor in tensors:
        stored[tensor.type_name] = stored.get(tensor.type_name, 0) + tensor.parameters
    missed = tuple(
        tensor.name
        for tensor in tensors
        if importance and tensor.name not in importance.weights and tensor.type.is_quantized
    )
    return Written(
        parts[0].path,
        sum(part.path.stat().st_size for part in parts),
        8 * sum(tensor.size_bytes for tensor in tensors) / sum(stored.values()),
        seconds,
        stored,
        missed,
        tuple(part.path for part in parts),
    )


def available_threads() -> int:
    """Return the processors that this process may use; a container may have fewer than its host."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check(
    model: Model, output: Output, importance: Importance | None, allow_requantize: bool
) -> None:
    for source in model.tensors.values():
        tensor = TensorInfo(source.name, source.shape, output.types[source.name])
        is_same = source.type_name == tensor.type_name and source.type_name not in FLOATS
        if not is_same and not can_quantize(tensor.type_name):
            raise UnsupportedError(
                f"{model.name}: tensor {tensor.name} cannot be quantized to {tensor.type_name} yet."
            )
        tensor.type.row_bytes(tensor.columns)
        if source.type.is_quantized and not is_same and not allow_requantize:
            raise UnsupportedError(
                f"{model.path}: tensor {tensor.name} is already {source.type_name}; quantizing it "
                "again adds loss. Start from the 16-bit model, or add --allow-requantize."
            )
        if importance and tensor.type.is_quantized:
            _check_importance(tensor, importance)


def _check_importance(tensor: TensorInfo, importance: Importance) -> None:
    found = importance.weights.get(tensor.name)
    matrices = tensor.rows // tensor.shape[-2] if len(tensor.shape) > 1 else 1
    if found is not None and len(found.counts) not in (1, matrices):
        raise FormatError(
            f"tensor {tensor.name} has {matrices} matrices, but its importance is of "
            f"{len(found.counts)}. Collect it again from this model."
        )


def _check_target(model: Model, out: Path) -> None:
    for source in {model.path, *model.files}:
        if out.exists() and source.exists() and out.samefile(source):
            raise UnsupportedError(f"{out}: is the model itself. Choose another file with -o.")
    if out.is_dir():
        raise UnsupportedError(f"{out}: is a folder. Name a file, such as {out}/model.gguf.")
