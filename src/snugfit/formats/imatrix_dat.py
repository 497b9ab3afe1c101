"""llama.cpp's importance matrix in its old form, `.dat` files, read.

A count of entries; for each its name, the calls that were averaged, and as many float32 as the
matrix has columns, of all experts in turn; then, in later files, the chunks in all and the name of
the text. Lengths are int32. The numbers are mean squares times the calls; how many matrices they
are of is not said.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from snugfit.errors import FormatError

INT = struct.Struct("<i")
LONGEST_NAME = 2**12
MOST_ENTRIES, MOST = 2**18, 2**31 - 1


class Entry(NamedTuple):
    """What is stored of one tensor."""

    sums: np.ndarray[Any, np.dtype[np.float32]]
    calls: int


class Old(NamedTuple):
    """The content of a file."""

    entries: dict[str, Entry]
    chunk_count: int
    dataset: str


def read_dat(path: Path) -> Old:
    """Read a whole file. Raises FormatError where a length is not what the file holds."""
    try:
        with path.open("rb") as file:
            return _read(_Reader(path, file, path.stat().st_size))
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror}).") from None


def _read(reader: _Reader) -> Old:
    entries = {}
    for _ in range(reader.length("entries", 1, MOST_ENTRIES)):
        name = reader.text(reader.length("letters of a name", 1, LONGEST_NAME))
        calls = reader.length("calls", 0, MOST)
        sums = np.frombuffer(reader.take(4 * reader.length("numbers", 1, MOST)), "<f4")
        entries[name] = Entry(sums.astype(np.float32), calls)
    chunks = reader.length("chunks", 0, MOST) if reader.left >= INT.size else 0
    dataset = ""
    if reader.left >= INT.size:
        dataset = reader.text(reader.length("letters of a name", 0, LONGEST_NAME))
    return Old(entries, chunks, dataset)


class _Reader:
    """Takes bytes off the front of a file, and never more than are there."""

    def __init__(self, path: Path, file: BinaryIO, left: int) -> None:
        self.path, self.file, self.left = path, file, left

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise self.fault(f"ends {count - self.left} bytes too early")
        self.left -= count
        taken = self.file.read(count)
        if len(taken) < count:
            raise self.fault("became shorter while it was read")
        return taken

    def length(self, what: str, lowest: int, highest: int) -> int:
        (value,) = INT.unpack(self.take(INT.size))
        if not lowest <= value <= highest:
            raise self.fault(f"claims {value} {what}")
        return int(value)

    def text(self, length: int) -> str:
        return self.take(length).decode("utf-8", "surrogateescape")

    def fault(self, what: str) -> FormatError:
        return FormatError(
            f"{self.path}: {what}; it is no importance matrix, or damaged. Make one with: "
            f"snugfit calibrate MODEL -o {self.path}"
        )
