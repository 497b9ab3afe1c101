"""Safetensors, read: one file or the shards of a folder, mapped, every offset checked.

The `safetensors` package needs torch for bfloat16 and does not say which check failed, so the
header (eight bytes of length, then JSON) is read here; files come from strangers.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from snugfit.errors import FormatError, UnsupportedError
from snugfit.formats.reading import loaded, mapped

Load = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]
# The format's own bound on a header (safetensors' documentation, "Format").
LARGEST_HEADER_BYTES = 100_000_000
LENGTH_BYTES = 8  # a file begins with the length of its header
# What numpy has no type for is kept as its stored bits.
DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "F8_E4M3": np.dtype("u1"),
    "F8_E5M2": np.dtype("u1"),
    "F8_E8M0": np.dtype("u1"),
    "F4": np.dtype("u1"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
# Types of which a stored item holds several; the last axis is that much shorter when mapped.
NUMBERS_OF_ITEM = {"F4": 2}
INDEX_NAME = "model.safetensors.index.json"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a shard: its place and shape; `dtype` is safetensors' own name."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def item(self) -> np.dtype[Any]:
        """What is stored side by side; bytes, for a type that is not in DTYPES."""
        return DTYPES.get(self.dtype, DTYPES["U8"])

    @property
    def size_bytes(self) -> int:
        """The bytes of all values, of a type that is in DTYPES."""
        return math.prod(self.shape) // NUMBERS_OF_ITEM.get(self.dtype, 1) * self.item.itemsize

    def map(self) -> np.ndarray[Any, Any]:
        """Map the stored values without reading them; bfloat16 as uint16 bits, and so on.

        Raises UnsupportedError for a type that is not in DTYPES.
        """
        if self.dtype not in DTYPES:
            raise UnsupportedError(
                f"{self.path}: tensor {self.name} is stored as {self.dtype}; "
                f"{', '.join(DTYPES)} can be read. Use the model's 16-bit files."
            )
        shape, numbers = self.shape, NUMBERS_OF_ITEM.get(self.dtype, 1)
        if numbers > 1:
            shape = (*shape[:-1], shape[-1] // numbers)
        return mapped(self.path, DTYPES[self.dtype], self.offset, shape)

    def read(self) -> np.ndarray[Any, Any]:
        """Read the stored values, as `map` has them. Raises FormatError, UnsupportedError."""
        return loaded(self.map())

    def opened(self, index: int | None = None) -> tuple[np.ndarray[Any, Any], Load]:
        """Map all values, or one matrix of a stack; also return what reads a view of the map."""
        return (self.map() if index is None else self.map()[index]), loaded


Tensors = dict[str, StoredTensor]


def read_folder(folder: Path) -> Tensors:
    """Return the tensors of a Hugging Face directory by name. Raises FormatError."""
    index = folder / INDEX_NAME
    if index.is_file():
        return read_shards(index, read_json(index), partial(_read_local, folder))
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FormatError(
            f"{folder}: no .safetensors file. Download the weights too, not only the config."
        )
    tensors: Tensors = {}
    for file in files:
        tensors |= read_safetensors(file)
    return tensors


def read_shards(
    index: Path, described: Mapping[str, Any], read: Callable[[list[str]], list[Tensors]]
) -> Tensors:
    """Return the tensors of all shards that an index names; `read` opens files of its folder.

    `described` is the content of `index`. Raises FormatError.
    """
    weight_map = described.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise FormatError(f"{index}: no weight_map of names to files. Download it again.")
    names = sorted(set(weight_map.values()))
    for name in names:
        if Path(name).name != name:
            raise FormatError(f"{index}: names the file {name!r}, which is outside the folder.")
    found: Tensors = {}
    for tensors in read(names):
        found |= tensors
    missing = weight_map.keys() - found.keys()
    if missing:
        raise FormatError(
            f"{index}: tensor {min(missing)} is in no shard ({len(missing)} missing). "
            "Download the shards again."
        )
    return found


def _read_local(folder: Path, names: list[str]) -> list[Tensors]:
    for name in names:
        if not (folder / name).is_file():
            raise FormatError(f"{folder / name}: the shard is missing. Download it.")
    return [read_safetensors(folder / name) for name in names]


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`. Raises FormatError if it is not one."""
    try:
        return json_object(path, path.read_bytes())
    except FileNotFoundError:
        raise FormatError(f"{path}: no such file.") from None


def json_object(path: Path, text: bytes) -> dict[str, Any]:
    """Return the JSON object that `path` holds. Raises FormatError if it is not one."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise FormatError(f"{path}: not valid JSON. Download it again.") from None
    if not isinstance(value, dict):
        raise FormatError(f"{path}: not a JSON object. Download it again.")
    return value


def read_safetensors(path: Path) -> Tensors:
    """Return the tensors of one file by name. Raises FormatError if the header lies."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = header_length(path, file.read(LENGTH_BYTES), size)
        return tensors_of(path, file.read(length), size)


def header_length(path: Path, start: bytes, file_bytes: int) -> int:
    """Return the bytes of JSON that follow the first LENGTH_BYTES. Raises FormatError."""
    length: int = struct.unpack("<Q", start)[0] if len(start) == LENGTH_BYTES else 0
    if not 2 <= length <= min(file_bytes - LENGTH_BYTES, LARGEST_HEADER_BYTES):
        raise FormatError(
            f"{path}: its header claims {length} bytes, but the file has {file_bytes}; "
            "it is truncated or not safetensors. Download it again."
        )
    return length


def tensors_of(path: Path, text: bytes, file_bytes: int) -> Tensors:
    """Return the tensors that a header's JSON describes. Raises FormatError if it lies."""
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        raise FormatError(f"{path}: its header is not JSON. Download it again.") from None
    if not isinstance(header, dict):
        raise FormatError(f"{path}: its header is not a JSON object. Download it again.")
    data_start = LENGTH_BYTES + len(text)
    return {
        name: _checked(path, name, entry, data_start, file_bytes)
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _checked(path: Path, name: str, entry: Any, data_start: int, file_bytes: int) -> StoredTensor:
    if not isinstance(entry, Mapping):
        raise FormatError(f"{path}: tensor {name} has no description. Download it again.")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    data_bytes = file_bytes - data_start
    if not _is_sound(dtype, shape, offsets, data_bytes):
        raise FormatError(
            f"{path}: tensor {name} claims type {dtype}, shape {shape} and bytes {offsets}, which "
            f"the {data_bytes} bytes of data cannot hold. Download it again."
        )
    return StoredTensor(
        path, name, str(dtype), tuple(shape or ()), data_start + (offsets or [0])[0]
    )


def _is_sound(dtype: Any, shape: Any, offsets: Any, data_bytes: int) -> bool:
    if not (isinstance(dtype, str) and _is_list_of_counts(shape) and _is_list_of_counts(offsets)):
        return False
    if len(offsets) != 2 or not offsets[0] <= offsets[1] <= data_bytes:
        return False
    length, numbers = offsets[1] - offsets[0], NUMBERS_OF_ITEM.get(dtype, 1)
    if numbers > 1 and (not shape or shape[-1] % numbers):
        return False
    return dtype not in DTYPES or math.prod(shape) * DTYPES[dtype].itemsize == length * numbers


def _is_list_of_counts(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 2**62 for item in value
    )
