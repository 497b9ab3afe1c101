"""The files that an output consists of, laid out to the byte before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from snugfit.core import TensorInfo
from snugfit.errors import UnsupportedError
from snugfit.formats.gguf import SPLIT_NAME, padded
from snugfit.formats.gguf_writer import Layout, header_size, layout_of, partial_of
from snugfit.models import Model
from snugfit.units import format_size


@dataclass(frozen=True)
class Output:
    """A file to write, or a set of splits, whose names are then `path`'s with numbers."""

    path: Path
    types: Mapping[str, str]  # type name for every tensor
    file_type: int = 0  # general.file_type
    metadata: Mapping[str, Any] = field(default_factory=dict)  # replaces or adds keys
    keep_split: bool = False  # as many files as the source has, tensors where they were
    split_bytes: int = 0  # or: splits of at most so many bytes (0: one file)
    split_tensors: int = 0  # or of so many tensors

    @property
    def is_split(self) -> bool:
        return self.keep_split or self.split_bytes > 0 or self.split_tensors > 0


@dataclass(frozen=True)
class Part:
    """One file of an output: what its header says."""

    path: Path
    metadata: dict[str, Any] = field(repr=False)
    tensors: tuple[TensorInfo, ...] = field(repr=False)

    @property
    def partial(self) -> Path:
        return partial_of(self.path)

    @cached_property
    def layout(self) -> Layout:
        return layout_of(self.metadata, self.tensors)

    def size(self, absent_bytes: int) -> int:
        """Return the bytes of the file if its header has `absent_bytes` more than is known here."""
        data = sum(padded(tensor.size_bytes) for tensor in self.tensors)
        return header_size(self.metadata, self.tensors, absent_bytes) + data


def predicted_bytes(model: Model, output: Output) -> int:
    """Return the bytes of all files of an output: headers, tensors and padding."""
    parts = parts_of(model, output)
    absent = [model.absent_bytes] + [0] * (len(parts) - 1)
    return sum(part.size(more) for part, more in zip(parts, absent, strict=True))


def parts_of(model: Model, output: Output) -> list[Part]:
    """Return the files of an output in their order. Raises UnsupportedError."""
    metadata = model.cut_metadata(output.file_type) | dict(output.metadata)
    tensors = [TensorInfo(t.name, t.shape, output.types[t.name]) for t in model.tensors.values()]
    if not output.is_split:
        return [Part(output.path, metadata, tuple(tensors))]
    groups = _groups(model, output, metadata, tensors)
    parts = []
    for number, group in enumerate(groups):
        described = _split_keys(number, len(groups), len(tensors))
        if number == 0:
            described = metadata | described
        parts.append(Part(split_path(output.path, number, len(groups)), described, tuple(group)))
    return parts


def split_path(path: Path, number: int, count: int) -> Path:
    """Return the name of a split, from 0, as llama.cpp has it: NAME-00001-of-00003.gguf."""
    return path.with_name(f"{_stem(path)}-{number + 1:05d}-of-{count:05d}.gguf")


def whole_path(output: Output) -> Path:
    """Return the one name that stands for all files of an output."""
    path = output.path
    return path.with_name(f"{_stem(path)}.gguf") if output.is_split else path


def _stem(path: Path) -> str:
    match = SPLIT_NAME.fullmatch(path.name)
    return match[1] if match else path.name.removesuffix(".gguf")


def _split_keys(number: int, count: int, tensors: int) -> dict[str, Any]:
    """Return the keys that bind splits, in the types that llama.cpp reads."""
    return {
        "split.no": np.uint16(number),
        "split.count": np.uint16(count),
        "split.tensors.count": np.int32(tensors),
    }


def _groups(
    model: Model, output: Output, metadata: Mapping[str, Any], tensors: Sequence[TensorInfo]
) -> list[list[TensorInfo]]:
    if output.keep_split:
        files = model.files or (model.path,)
        home = {file: number for number, file in enumerate(files)}
        kept: list[list[TensorInfo]] = [[] for _ in files]
        for tensor in tensors:
            kept[home.get(model.file_of.get(tensor.name, files[0]), 0)].append(tensor)
        return kept
    if output.split_tensors:
        step = output.split_tensors
        return [list(tensors[at : at + step]) for at in range(0, len(tensors), step)]
    return list(_of_at_most(output.split_bytes, metadata, tensors, model.absent_bytes))


def _of_at_most(
    most: int, metadata: Mapping[str, Any], tensors: Sequence[TensorInfo], absent_bytes: int
) -> Iterator[list[TensorInfo]]:
    """Yield runs of tensors whose files, header counted, have `most` bytes at most."""
    described, group, data = dict(metadata) | _split_keys(0, 1, 0), list[TensorInfo](), 0
    # A tensor's entry in the header: lengths, type and offset, and its name.
    head = header_size(described, [], absent_bytes)
    for tensor in tensors:
        entry = len(tensor.name.encode(errors="surrogateescape")) + 24 + 8 * len(tensor.shape)
        size = padded(tensor.size_bytes)
        if group and padded(head + entry) + data + size > most:
            yield group
            group, data, head = [], 0, header_size(_split_keys(0, 1, 0), [])
        if padded(head + entry) + data + size > most:
            raise UnsupportedError(
                f"tensor {tensor.name} takes {format_size(size)} as {tensor.type_name}, more than "
                f"a split of {format_size(most)} holds. Allow larger splits."
            )
        group.append(tensor)
        head, data = head + entry, data + size
    yield group
