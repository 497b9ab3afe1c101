"""GGUF, read: header and metadata checked length by length, tensors mapped, split files joined.

The format: magic, version, counts, key-value pairs, tensor infos, then data at aligned offsets
(ggml/docs/gguf.md). Files come from strangers: nothing is allocated before its length is checked
against what the file really holds.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from snugfit.core import TensorInfo
from snugfit.errors import FormatError, UnsupportedError
from snugfit.formats.reading import mapped, read_at
from snugfit.quants.types import TYPE_OF_ID

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MOST_DIMENSIONS = 4
# A key-value pair is at least length + key + type + value, a tensor info its fixed fields.
SMALLEST_PAIR_BYTES, SMALLEST_TENSOR_BYTES = 14, 33
STRING, ARRAY = 8, 9
SCALAR_DTYPES: dict[int, np.dtype[Any]] = {
    0: np.dtype("u1"),
    1: np.dtype("i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    7: np.dtype("?"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}
# Far above what models have; a file of many gigabytes could claim billions.
MOST_PAIRS, MOST_TENSORS = 2**16, 2**18
TOKENIZER = "tokenizer."
SKIM_BYTES = 2**16
LENGTH = struct.Struct("<Q")
SPLIT_NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")

Metadata = Mapping[str, Any]
# (key, strings) -> bytes that they take, and what follows them
Skimmed = dict[tuple[str, int], tuple[int, bytes]]


class Window(Protocol):
    """Bytes of a file that are had by slicing: mapped, in memory or far away."""

    def __len__(self) -> int: ...

    def __getitem__(self, span: slice, /) -> bytes: ...


@dataclass(frozen=True)
class Place:
    """Where a tensor's bytes are."""

    path: Path
    offset: int


@dataclass(frozen=True)
class GgufFile:
    """A GGUF model, one file or all its splits.

    `metadata` values keep their stored type: numpy scalars and arrays, str, list[str].
    """

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]
    file_bytes: int
    header_bytes: int
    has_data: bool
    places: dict[str, Place] = field(repr=False)
    absent_bytes: int = 0  # of the header's pairs that `metadata` lacks, having been passed over
    paths: tuple[Path, ...] = ()  # of all splits, in their order

    def rows(self, name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Map a tensor's stored bytes, uint8 [rows, row_bytes], without reading them.

        Raises FormatError for a header-only file.
        """
        row_bytes = self._row_bytes(name)
        place = self.places[name]
        return mapped(
            place.path, np.dtype(np.uint8), place.offset, (self.tensors[name].rows, row_bytes)
        )

    def read(self, name: str, first: int, count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Read rows of a tensor as they are stored, uint8 [count, row_bytes].

        Raises FormatError for a header-only file, or one that is shorter than it was.
        """
        row_bytes = self._row_bytes(name)
        place = self.places[name]
        count = max(0, min(count, self.tensors[name].rows - first))
        blocks = read_at(place.path, place.offset + first * row_bytes, count * row_bytes)
        return blocks.reshape(count, row_bytes)

    def _row_bytes(self, name: str) -> int:
        if not self.has_data:
            raise FormatError(
                f"{self.path}: the file holds a header only, no tensor data. "
                "Download the whole file to read weights."
            )
        tensor = self.tensors[name]
        return tensor.type.row_bytes(tensor.columns)


def read_gguf(path: Path | str, *, skim: bool = False) -> GgufFile:
    """Read the header of `path` and of its other splits. Raises FormatError, UnsupportedError.

    A file that ends exactly where its data would begin is a header-only file and is accepted. With
    `skim`, arrays of the tokenizer are left out, as by `read_header`: reading them takes a second.
    """
    path = Path(path)
    first = _read_one(path, {} if skim else None)
    count = int(first.metadata.get("split.count", 0))
    if count <= 1:
        return first
    return joined([first, *(_read_one(other) for other in _other_splits(path, count))])


def joined(parts: Sequence[GgufFile]) -> GgufFile:
    """Return the splits of a model as one file. Raises FormatError where they do not match."""
    first = parts[0]
    tensors: dict[str, TensorInfo] = {}
    places: dict[str, Place] = {}
    for part in parts:
        for name in part.tensors.keys() & tensors.keys():
            raise FormatError(f"{part.path}: tensor {name} is in another split too.")
        tensors |= part.tensors
        places |= part.places
    declared = int(first.metadata.get("split.tensors.count", len(tensors)))
    if declared != len(tensors):
        raise FormatError(
            f"{first.path}: {len(tensors)} tensors in {len(parts)} splits, but {declared} are "
            "declared. Download the missing splits again."
        )
    return GgufFile(
        first.path,
        {key: value for key, value in first.metadata.items() if not key.startswith("split.")},
        tensors,
        sum(part.file_bytes for part in parts),
        first.header_bytes,
        all(part.has_data for part in parts),
        places,
        first.absent_bytes,
        tuple(part.path for part in parts),
    )


def _other_splits(path: Path, count: int) -> list[Path]:
    match = SPLIT_NAME.fullmatch(path.name)
    if match is None or int(match[2]) != 1 or int(match[3]) != count:
        raise FormatError(
            f"{path}: one of {count} splits. Name the first one, NAME-00001-of-{count:05d}.gguf."
        )
    others = [
        path.with_name(f"{match[1]}-{number:05d}-of-{count:05d}.gguf")
        for number in range(2, count + 1)
    ]
    for other in others:
        if not other.is_file():
            raise FormatError(f"{other}: the split is missing. Put all {count} in one folder.")
    return others


def _read_one(path: Path, skimmed: Skimmed | None = None) -> GgufFile:
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise FormatError(f"{path}: the file is empty. Download it again.")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                return read_header(path, mapped, skimmed)
    except FileNotFoundError:
        raise FormatError(f"{path}: no such file.") from None
    except (IsADirectoryError, PermissionError) as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror}).") from None


def read_header(path: Path, window: Window, skimmed: Skimmed | None = None) -> GgufFile:
    """Read the header at the start of `window`; `path` is what errors call it.

    With `skimmed`, which is filled, the arrays of the tokenizer are passed over and left out: they
    are most of a header, and the same in every quantization of a model. Raises FormatError,
    UnsupportedError.
    """
    return _Header(path, window, skimmed).read()


class _Header:
    """Reads one file's header from a window on it, left to right, never past the end."""

    def __init__(self, path: Path, window: Window, skimmed: Skimmed | None) -> None:
        self.path = path
        self.data = window
        self.size = len(window)
        self.skimmed = skimmed
        self.absent_bytes = 0
        self.position = 0

    def read(self) -> GgufFile:
        magic = self.data[:4]
        if magic != MAGIC:
            raise self.fault(f"starts with {magic!r}, not {MAGIC!r}; it is not a GGUF file")
        self.position = 4
        version = self.number("<I")
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            kind = "big-endian" if swapped in VERSIONS else f"version {version}"
            raise UnsupportedError(f"{self.path}: {kind} GGUF; versions 2 and 3 are read.")
        tensor_count, pair_count = self.number("<Q"), self.number("<Q")
        self.check_count(pair_count, SMALLEST_PAIR_BYTES, "key-value pairs", MOST_PAIRS)
        metadata = {}
        for _ in range(pair_count):
            start = self.position
            key, type_id = self.string(), self.number("<I")
            if self.skimmed is not None and type_id == ARRAY and key.startswith(TOKENIZER):
                self.pass_over(key, self.skimmed)
                self.absent_bytes += self.position - start
            else:
                metadata[key] = self.value(type_id, key)
        self.check_count(tensor_count, SMALLEST_TENSOR_BYTES, "tensors", MOST_TENSORS)
        tensors, offsets = self.tensor_infos(tensor_count)
        data_start = padded(self.position, self.alignment(metadata))
        has_data = not tensors or self.size > data_start
        places = {name: Place(self.path, data_start + offset) for name, offset in offsets.items()}
        if has_data:
            self.check_places(tensors, places)
        return GgufFile(
            self.path,
            metadata,
            tensors,
            self.size,
            data_start,
            has_data,
            places,
            self.absent_bytes,
            (self.path,),
        )

    def alignment(self, metadata: Metadata) -> int:
        value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(value, int | np.integer) or value <= 0 or value % 8 or value > 2**20:
            raise self.fault(f"general.alignment is {value}, not a multiple of 8")
        return int(value)

    def tensor_infos(self, count: int) -> tuple[dict[str, TensorInfo], dict[str, int]]:
        tensors: dict[str, TensorInfo] = {}
        offsets: dict[str, int] = {}
        for _ in range(count):
            name = self.string()
            if name in tensors:
                raise self.fault(f"tensor {name} is declared twice")
            dimensions = self.number("<I")
            if not 1 <= dimensions <= MOST_DIMENSIONS:
                raise self.fault(f"tensor {name} has {dimensions} dimensions; 1 to 4 are possible")
            shape = tuple(self.number("<Q") for _ in range(dimensions))[::-1]
            if not all(0 < length < 2**48 for length in shape):
                raise self.fault(f"tensor {name} has the impossible shape {shape}")
            type_id = self.number("<I")
            if type_id not in TYPE_OF_ID:
                raise UnsupportedError(
                    f"{self.path}: tensor {name} has type number {type_id}, which ggml does not "
                    "define. Files of llama.cpp's forks cannot be read."
                )
            tensors[name] = TensorInfo(name, shape, TYPE_OF_ID[type_id].name)
            offsets[name] = self.number("<Q")
            self.check_columns(tensors[name])
        return tensors, offsets

    def check_columns(self, tensor: TensorInfo) -> None:
        if tensor.columns % tensor.type.block_weights:
            raise self.fault(
                f"tensor {tensor.name} has {tensor.columns} columns; "
                f"{tensor.type_name} needs a multiple of {tensor.type.block_weights}"
            )

    def check_places(self, tensors: dict[str, TensorInfo], places: dict[str, Place]) -> None:
        for name, place in places.items():
            end = place.offset + tensors[name].size_bytes
            if end > self.size:
                raise self.fault(
                    f"tensor {name} ends at byte {end}, past the end of the file ({self.size}); "
                    "the file is truncated"
                )

    def value(self, kind: int, key: str) -> Any:
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            return self.array(key)
        if kind not in SCALAR_DTYPES:
            raise self.fault(f"key {key} has the unknown type number {kind}")
        dtype = SCALAR_DTYPES[kind]
        return np.frombuffer(self.take(dtype.itemsize), dtype)[0]

    def array(self, key: str) -> Any:
        kind, count = self.array_start(key)
        if kind == STRING:
            return [self.string() for _ in range(count)]
        dtype = SCALAR_DTYPES[kind]
        return np.frombuffer(self.take(count * dtype.itemsize), dtype).copy()

    def array_start(self, key: str) -> tuple[int, int]:
        """Return the type number and length of an array, whose values are next."""
        kind, count = self.number("<I"), self.number("<Q")
        if kind == STRING:
            self.check_count(count, 8, f"strings of {key}")
        elif kind in SCALAR_DTYPES:
            self.check_count(count, SCALAR_DTYPES[kind].itemsize, f"values of {key}")
        else:
            raise self.fault(f"key {key} is an array of the unknown type number {kind}")
        return kind, count

    def pass_over(self, key: str, skimmed: Skimmed) -> None:
        """Move past an array, at one go where what follows is what followed it elsewhere."""
        kind, count = self.array_start(key)
        if kind != STRING:
            self.position += count * SCALAR_DTYPES[kind].itemsize
            return
        length, following = skimmed.get((key, count), (0, b""))
        end = self.position + length
        if not following or self.data[end : end + len(following)] != following:
            end = self.end_of_strings(count, key)
            name_bytes = int.from_bytes(self.data[end : end + 8], "little")
            following = self.data[end : end + 8 + min(name_bytes, 256)]
            skimmed[key, count] = end - self.position, following
        self.position = end

    def end_of_strings(self, count: int, key: str) -> int:
        """Return the position after `count` strings, looking at their lengths only."""
        at = self.position
        while count:
            piece = self.data[at : at + SKIM_BYTES]
            passed, end = short_strings(piece, count)
            while passed < count and end + 8 <= len(piece):
                end += 8 + LENGTH.unpack_from(piece, end)[0]
                passed += 1
            at, count = at + end, count - passed
            if at > self.size or not passed:
                raise self.fault(f"strings of {key} end past the end of the file")
        return at

    def string(self) -> str:
        length = self.number("<Q")
        return self.take(length).decode("utf-8", errors="surrogateescape")

    def number(self, layout: str) -> int:
        value: int = struct.unpack(layout, self.take(struct.calcsize(layout)))[0]
        return value

    def take(self, count: int) -> bytes:
        if count > self.size - self.position:
            raise self.fault(
                f"the header needs {count} bytes at byte {self.position}, "
                f"but the file has {self.size}; it is truncated or damaged"
            )
        taken = self.data[self.position : self.position + count]
        self.position += count
        return taken

    def check_count(
        self, count: int, smallest_bytes: int, what: str, most: int | None = None
    ) -> None:
        if count * smallest_bytes > self.size - self.position:
            raise self.fault(
                f"declares {count} {what}, more than its {self.size} bytes can hold; it is damaged"
            )
        if most is not None and count > most:
            raise self.fault(f"declares {count} {what}; {most} are the most that is believed")

    def fault(self, what: str) -> FormatError:
        return FormatError(f"{self.path}: {what}. Download the file again.")


def short_strings(piece: bytes, most: int) -> tuple[int, int]:
    """Return how many strings at the start of `piece` are short and known, and where they end.

    A length below 256 is a byte and seven zeros. Where each such place is as far from the one
    before as that says, all of them are lengths: found at once, not one after another.
    """
    values = np.frombuffer(piece, np.uint8)
    zeros = values[1:] == 0
    for step in (1, 2, 3):  # 2, 4, then 7 in a row
        zeros = zeros[:-step] & zeros[step:]
    starts = np.flatnonzero(zeros)
    if not starts.size or starts[0]:
        return 0, 0
    ends = starts + 8 + values[starts]
    is_known = ends[:-1] == starts[1:]
    passed = int(is_known.argmin()) + 1 if not is_known.all() else starts.size
    passed = min(passed, most)
    return passed, int(ends[passed - 1])


def padded(size_bytes: int, alignment: int = DEFAULT_ALIGNMENT) -> int:
    """Return the bytes that a tensor or header takes in a file, alignment counted."""
    return -(-size_bytes // alignment) * alignment
