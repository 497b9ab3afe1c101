"""A weight that is stored packed, seen as the matrix or stack of matrices that it stands for.

Nothing is read until values are asked for, and then only rows that hold them, by any number of
threads at a time, in runs that stay in the processor's cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from snugfit.errors import FormatError, UnsupportedError
from snugfit.formats.packed.codes import (
    FLOAT8,
    Array,
    exponent_table,
    float8_table,
    mxfp4_blocks,
)
from snugfit.formats.packed.recent import Recent
from snugfit.formats.reading import MOST_SPANNED, gathered, loaded, spanned
from snugfit.formats.safetensors import Load, StoredTensor
from snugfit.units import KIB

# First row, last row (not in it) -> float32 [rows, columns].
Rows = Callable[[int, int], Array]
Operation = np.ufunc
# Unpacked, shifted and scaled while at hand; of twice as many, glibc would return the memory each
# time, and zeroing its pages would cost as much again.
CHUNK_BYTES = 512 * KIB
MOST_MADE = 2  # values for one that is asked for; of a matrix that is turned over, all are kept
MXFP4_COLUMNS = 32  # of a block that shares one exponent
DOWNLOAD = "Download the model again."


@dataclass(frozen=True)
class Weight:
    """A packed weight. `dtype` is the type that its values are handed on in, by safetensors' name.

    BF16 is handed on as its 16 bits, and MXFP4 as bytes of GGUF blocks.
    """

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    open_matrix: Callable[[int], Rows] = field(repr=False)
    recent: Recent = field(repr=False)

    @property
    def width(self) -> int:
        """Items of a row, as it is handed on."""
        return self.shape[-1] // MXFP4_COLUMNS * 17 if self.dtype == "MXFP4" else self.shape[-1]

    @property
    def item(self) -> np.dtype[Any]:
        item: np.dtype[Any] = np.dtype(HANDED_ON[self.dtype])
        return item

    def whole(self) -> Array:
        """Return all values: [*shape], or blocks with bytes in place of the last axis."""
        return self.rows(0, math.prod(self.shape[:-1])).reshape(*self.shape[:-1], self.width)

    def opened(self, index: int | None = None) -> tuple[Array, Load]:
        """Return what views may be taken of, and what makes the values of such a view.

        It stands for all values, or for one matrix of a stack: memory that is never touched.
        """
        lead = self.shape[:-1] if index is None else self.shape[-2:-1]
        stand_in = np.empty((*lead, self.width), self.item)
        return stand_in, partial(self._load, stand_in, (index or 0) * self.shape[-2])

    def _load(self, stand_in: Array, first: int, view: Array) -> Array:
        """Make what a view of a stand-in shows, whose first row is row `first` of the weight."""
        if not view.size:
            return np.empty(view.shape, view.dtype)
        (low, high), row_bytes = spanned(view), self.width * self.item.itemsize
        start = view.ctypes.data - stand_in.ctypes.data
        begin, end = (start + low) // row_bytes, -(-(start + high) // row_bytes)
        spans, of_rows = (end - begin) * row_bytes / view.nbytes, self._is_of_rows(view)
        if of_rows and spans > MOST_SPANNED and view.ndim > 1:
            return np.stack([self._load(stand_in, first, part) for part in view])
        if of_rows or spans <= MOST_MADE:
            made = self.rows(first + begin, first + end)
            return np.ndarray(view.shape, view.dtype, made, start - begin * row_bytes, view.strides)
        end = math.prod(stand_in.shape[:-1])
        made = self.recent.matrices.get((self.name, first), lambda: self.rows(first, first + end))
        return gathered(np.ndarray(view.shape, view.dtype, made, start, view.strides))

    def _is_of_rows(self, view: Array) -> bool:
        """Return whether a view is of whole rows, and not of a part of each of many."""
        return view.shape[-1] == self.width and view.strides[-1] == view.itemsize

    def rows(self, first: int, last: int) -> Array:
        """Make a run of rows, counted through all matrices: [rows, width]. Raises FormatError."""
        made = np.empty((last - first, self.width), self.item)
        each, row = self.shape[-2], first
        with np.errstate(over="ignore", invalid="ignore"):  # the quantizer says where it matters
            while row < last:
                index, inside = divmod(row, each)
                read = self._reader(index)
                count = min(self._chunk, each - inside, last - row)
                values = read(inside, inside + count)
                made[row - first : row - first + count] = self._handed_on(values, inside)
                row += count
        return made

    def _reader(self, index: int) -> Rows:
        found: Rows = self.recent.readers.get((self.name, index), lambda: self.open_matrix(index))
        return found

    @property
    def _chunk(self) -> int:
        """Rows that are unpacked, shifted and scaled while they are in the processor's cache."""
        row_bytes = self.width if self.dtype == "MXFP4" else 4 * self.width  # float32
        return max(8, CHUNK_BYTES // max(1, row_bytes) // 8 * 8)

    def _handed_on(self, values: Array, first: int) -> Array:
        """Return float32 as the type that is handed on, rounded to the nearest, ties to even."""
        if self.dtype not in ("BF16", "F16"):
            return values
        from snugfit.quants.codecs import BadNumberError, quantize_rows

        try:
            return quantize_rows(values, self.dtype).view(HANDED_ON[self.dtype])
        except BadNumberError as error:
            raise error.within(self.name, first) from None


HANDED_ON: dict[str, Any] = {
    "F32": np.float32,
    "F16": np.float16,
    "BF16": np.uint16,
    "MXFP4": np.uint8,
}


@dataclass(frozen=True)
class Grid:
    """Numbers that are each shared by a block of a matrix: its scales, or its zero points."""

    values: Array  # float32 [blocks of rows, blocks of columns]
    block: tuple[int, int]  # rows, columns
    columns: Array | None = None  # the block of each column, where they do not follow in order

    def apply(self, operation: Operation, values: Array, first: int) -> None:
        """Apply in place to rows from `first` on of the matrix: [rows, columns]."""
        (height, width), last = self.block, first + len(values)
        if height == 1:
            self._apply_by_row(operation, values, self.values[first:last])
            return
        for block in range(first // height, -(-last // height)):
            start, end = max(block * height, first), min((block + 1) * height, last)
            part = values[start - first : end - first]
            operation(part, np.repeat(self.values[block], width)[: part.shape[1]], out=part)

    def _apply_by_row(self, operation: Operation, values: Array, shared: Array) -> None:
        count, columns = values.shape
        if self.columns is not None:
            operation(values, shared[:, self.columns], out=values)
        elif shared.shape[1] == 1:
            operation(values, shared, out=values)
        elif columns % self.block[1] == 0:
            grouped = values.reshape(count, -1, self.block[1])
            operation(grouped, shared[:, :, None], out=grouped)
        else:
            spread = np.repeat(shared, self.block[1], axis=1)[:, :columns]
            operation(values, spread, out=values)


def scaled(codes: Rows, scales: Grid, zeros: Grid | None = None) -> Rows:
    """Return rows of (codes - zeros) * scales, each in float32."""

    def rows(first: int, last: int) -> Array:
        values = codes(first, last)
        if zeros:
            zeros.apply(np.subtract, values, first)
        scales.apply(np.multiply, values, first)
        return values

    return rows


def block_of(
    weight: StoredTensor,
    shared: StoredTensor,
    shape: tuple[int, ...],
    blocks: Sequence[tuple[int, int]] = (),
) -> tuple[int, int]:
    """Return the rows and columns of `shape`'s matrices that share one number of `shared`.

    `blocks` are sizes that the config names, whose last block may be cut off. Raises FormatError
    if the two shapes do not fit.
    """
    if len(shape) not in (2, 3):
        raise UnsupportedError(
            f"{weight.path}: tensor {weight.name} stands for a weight of shape {list(shape)}; "
            "packed weights are matrices or stacks of them. Use the model's 16-bit files."
        )
    rows, columns = shape[-2:]
    found = _grid_shape(shared.shape, shape)
    if found == (1, 1):
        return rows, columns
    if found:
        for height, width in blocks:
            if found == (math.ceil(rows / height), math.ceil(columns / width)):
                return height, width
        high, wide = found
        if high and wide and rows % high == 0 and columns % wide == 0:
            return rows // high, columns // wide
    raise FormatError(
        f"{shared.path}: tensor {shared.name} has shape {list(shared.shape)}, which does not fit "
        f"{weight.name}, a weight of shape {list(shape)}. {DOWNLOAD}"
    )


def _grid_shape(shared: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Return the shape of one matrix's numbers, or None where there is no telling."""
    if math.prod(shared) == 1:
        return 1, 1
    inner = shared[1:] if len(shape) == 3 and shared[:1] == shape[:1] else shared
    if len(shape) == 3 and inner is shared:
        return None
    if math.prod(inner) == 1:
        return 1, 1
    if len(inner) == 1:
        return inner[0], 1
    return (inner[0], inner[1]) if len(inner) == 2 else None


def matrix_of(tensor: StoredTensor, index: int, shape: tuple[int, ...]) -> Array:
    """Map what a stored part holds of one matrix of a weight of `shape`."""
    values = tensor.map()
    return values[index] if len(shape) == 3 and tensor.shape[:1] == shape[:1] else values


def grid(tensor: StoredTensor, index: int, shape: tuple[int, ...], block: tuple[int, int]) -> Grid:
    """Read the numbers that blocks of one matrix share. `block` is of block_of."""
    values = as_floats(tensor, matrix_of(tensor, index, shape))
    rows, columns = shape[-2:]
    return Grid(values.reshape(math.ceil(rows / block[0]), math.ceil(columns / block[1])), block)


def as_floats(tensor: StoredTensor, values: Array) -> Array:
    """Return scales of any stored type as float32; every NaN is the plain one.

    Bytes are exponents of two, E8M0. Raises UnsupportedError for types that scales do not have.
    """
    values = loaded(values)
    if tensor.dtype == "BF16":
        found = (values.astype(np.uint32) << 16).view(np.float32)
    elif tensor.dtype in ("F32", "F16", "F64"):
        found = values.astype(np.float32)
    elif tensor.dtype in FLOAT8:
        found = float8_table(tensor.dtype)[values]
    elif tensor.dtype in ("F8_E8M0", "U8"):
        found = exponent_table()[values]
    else:
        raise UnsupportedError(
            f"{tensor.path}: tensor {tensor.name} holds scales as {tensor.dtype}, a type that "
            "scales do not have. Use the model's 16-bit files."
        )
    found[np.isnan(found)] = np.nan  # others would not survive rounding to 16 bits
    return found


def check_shape(part: StoredTensor, expected: tuple[int, ...], of: str) -> None:
    """Raise FormatError unless a part has the shape that its weight needs."""
    if part.shape != expected:
        raise FormatError(
            f"{part.path}: tensor {part.name} has shape {list(part.shape)}; {of} needs "
            f"{list(expected)}. {DOWNLOAD}"
        )


def mxfp4_matrix(codes: StoredTensor, exponents: StoredTensor, shape: tuple[int, ...]) -> Any:
    """Return what reads rows of GGUF's MXFP4 blocks out of codes and exponents that are apart."""

    def open_matrix(index: int) -> Rows:
        low = matrix_of(codes, index, shape).view(np.uint8).reshape(shape[-2], -1)
        shared = matrix_of(exponents, index, shape).view(np.uint8).reshape(shape[-2], -1)
        return lambda first, last: mxfp4_blocks(loaded(low[first:last]), loaded(shared[first:last]))

    return open_matrix
