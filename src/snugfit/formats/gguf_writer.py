"""GGUF, laid out before its first byte and written in any order, no tensor held.

A file is written beside its target and renamed when it is whole: nobody ever sees half of one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from snugfit.core import TensorInfo
from snugfit.errors import OutputError
from snugfit.formats.gguf import ARRAY, MAGIC, SCALAR_DTYPES, STRING, padded
from snugfit.units import format_size

VERSION = 3
NUMBER_OF_DTYPE = {dtype: number for number, dtype in SCALAR_DTYPES.items()}
OUT_OF_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True)
class Layout:
    """Where everything is in a file: its header, and the place of each tensor's first byte."""

    header: bytes = field(repr=False)
    offsets: dict[str, int] = field(repr=False)
    file_bytes: int


def layout_of(metadata: Mapping[str, Any], tensors: Sequence[TensorInfo]) -> Layout:
    """Return the layout of a file of these tensors, in this order."""
    header = encode_header(metadata, tensors)
    offsets: dict[str, int] = {}
    position = len(header)
    for tensor in tensors:
        offsets[tensor.name] = position
        position += padded(tensor.size_bytes)
    return Layout(header, offsets, position)


def partial_of(path: Path) -> Path:
    """Return where a file is until it is whole."""
    return path.with_name(f".{path.name}.partial")


@contextlib.contextmanager
def output_errors(path: Path, file_bytes: int) -> Iterator[None]:
    """Raise OutputError, one line about `path`, for what the system says of writing it."""
    try:
        yield
    except OSError as error:
        if error.errno in OUT_OF_SPACE:
            raise OutputError(
                f"{path}: the disk is full; the file needs {format_size(file_bytes)}. "
                "Free some, or choose another folder with -o."
            ) from None
        raise OutputError(
            f"{path}: cannot be written ({error.strerror}). Choose another path with -o."
        ) from None


def check_space(path: Path, needed_bytes: int) -> None:
    """Raise OutputError if the disk that `path` is to be on has not so many bytes free."""
    free_bytes = shutil.disk_usage(path.parent).free
    if free_bytes < needed_bytes:
        raise OutputError(
            f"{path}: the file needs {format_size(needed_bytes)}, but its disk has "
            f"{format_size(free_bytes)} free. Free some, or choose another folder with -o."
        )


def encode_header(metadata: Mapping[str, Any], tensors: Sequence[TensorInfo]) -> bytes:
    """Return everything before the data: magic, counts, metadata, tensor infos, padding."""
    header = _unpadded(metadata, tensors)
    return header.ljust(padded(len(header)), b"\0")


def header_size(
    metadata: Mapping[str, Any], tensors: Sequence[TensorInfo], absent_bytes: int = 0
) -> int:
    """Return the bytes of a header that has `absent_bytes` more than what is given here."""
    return padded(len(_unpadded(metadata, tensors)) + absent_bytes)


def _unpadded(metadata: Mapping[str, Any], tensors: Sequence[TensorInfo]) -> bytes:
    pairs = {key: value for key, value in metadata.items() if key != "general.alignment"}
    parts = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(pairs))]
    for key, value in pairs.items():
        parts += [_string(key), _value(value)]
    offset = 0
    for tensor in tensors:
        shape = tensor.shape[::-1]
        parts += [
            _string(tensor.name),
            struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, tensor.type.id, offset),
        ]
        offset += padded(tensor.size_bytes)
    return b"".join(parts)


def _string(text: str) -> bytes:
    encoded = text.encode("utf-8", errors="surrogateescape")
    return struct.pack("<Q", len(encoded)) + encoded


def _value(value: Any) -> bytes:
    """Encode a value by its own type: numpy scalars and arrays exactly, Python's by convention."""
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _string(value)
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        head = struct.pack("<IIQ", ARRAY, STRING, len(value))
        return head + b"".join(_string(item) for item in value)
    if isinstance(value, list | tuple | np.ndarray):
        array = np.asarray(value) if isinstance(value, np.ndarray) else _array_of(value)
        number = NUMBER_OF_DTYPE[array.dtype.newbyteorder("<")]
        return struct.pack("<IIQ", ARRAY, number, array.size) + array.tobytes()
    scalar = value if isinstance(value, np.generic) else _scalar_of(value)
    return struct.pack("<I", NUMBER_OF_DTYPE[scalar.dtype]) + scalar.tobytes()


def _scalar_of(value: bool | int | float) -> np.generic:
    if isinstance(value, bool):
        return np.bool_(value)
    if isinstance(value, float):
        return np.float32(value)
    if value < 0:
        return np.int32(value)
    return np.uint32(value) if value < 2**32 else np.uint64(value)


def _array_of(values: Sequence[Any]) -> np.ndarray[Any, Any]:
    if all(isinstance(value, bool) for value in values):
        return np.array(values, np.bool_)
    return np.array(values, np.int32 if all(isinstance(v, int) for v in values) else np.float32)


class GgufWriter:
    """Writes one GGUF file; tensors may come in any order, whole or by runs of rows.

        with GgufWriter(path, metadata, tensors) as writer:
            writer.write("output.weight", blocks)

    `file_bytes` is exact before anything is written. Leaving the block with an exception, or with a
    tensor unwritten, leaves no file. A file that need not outlive a power cut is not `durable`: the
    disk is then not waited for. Raises OutputError.
    """

    def __init__(
        self,
        path: Path | str,
        metadata: Mapping[str, Any],
        tensors: Sequence[TensorInfo],
        *,
        durable: bool = True,
    ) -> None:
        self.path, self.durable = Path(path), durable
        self.partial = partial_of(self.path)
        self.layout = layout_of(metadata, tensors)
        self.file_bytes = self.layout.file_bytes
        self.tensors = {tensor.name: tensor for tensor in tensors}
        self.missing = {tensor.name: tensor.size_bytes for tensor in tensors}

    def __enter__(self) -> GgufWriter:
        with self._explained():
            check_space(self.path, self.file_bytes)
            self.file = self.partial.open("wb")
            self.file.write(self.layout.header)
            self.file.truncate(self.file_bytes)
        return self

    def write(self, name: str, data: np.ndarray[Any, Any], first_row: int = 0) -> None:
        """Write uint8 rows [rows, row_bytes] of a tensor, from `first_row` on."""
        tensor = self.tensors[name]
        row_bytes = tensor.type.row_bytes(tensor.columns)
        if data.nbytes % row_bytes or data.nbytes > self.missing[name]:
            raise ValueError(f"{name}: {data.nbytes} bytes do not fit its rows of {row_bytes}")
        with self._explained():
            self.file.seek(self.layout.offsets[name] + first_row * row_bytes)
            self.file.write(np.ascontiguousarray(data).data)
        self.missing[name] -= data.nbytes

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._abandon()
            return
        unwritten = [name for name, left in self.missing.items() if left]
        if unwritten:
            self._abandon()
            raise ValueError(
                f"{self.path}: {len(unwritten)} tensors unwritten, first {unwritten[0]}"
            )
        with self._explained():
            self.file.flush()
            if self.durable:
                os.fsync(self.file.fileno())
            self.file.close()
            self.partial.replace(self.path)

    def _abandon(self) -> None:
        with contextlib.suppress(OSError):
            self.file.close()
        self.partial.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        with output_errors(self.path, self.file_bytes):
            try:
                yield
            except OSError:
                if hasattr(self, "file"):
                    self._abandon()
                raise
