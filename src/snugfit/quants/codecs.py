"""Rows of weights to blocks of bytes and back.

The loops are native (`native/*.cpp`); what is asked of them is checked here. To add a type, write
its kernel and add its line to the table at the end of the file that holds it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from snugfit.errors import FormatError, UnsupportedError, UsageError
from snugfit.quants import _native
from snugfit.quants.assignment import fitting_type
from snugfit.quants.types import TYPES, QuantType, type_named

Rows = NDArray[np.float32]
Blocks = NDArray[np.uint8]
Number = TypeVar("Number", bound=np.generic)
Quality = Literal["fast", "best"]


class BadNumberError(FormatError):
    """A weight that is infinite or not a number, and its place."""

    def __init__(self, problem: str, row: int, column: int, tensor: str = "") -> None:
        where = f"tensor {tensor}, row {row}" if tensor else f"row {row}"
        super().__init__(
            f"{where}, column {column} {problem}; the weights are damaged. Get the file again."
        )
        self.problem, self.row, self.column, self.tensor = problem, row, column, tensor

    def __reduce__(self) -> tuple[type[BadNumberError], tuple[str, int, int, str]]:
        return BadNumberError, (self.problem, self.row, self.column, self.tensor)

    def within(self, tensor: str, first_row: int) -> BadNumberError:
        """Return the error for the tensor whose rows from `first_row` on were quantized."""
        return BadNumberError(self.problem, first_row + self.row, self.column, tensor)


READABLE = frozenset(_native.readable())
WRITABLE = frozenset(_native.writable())
WRITABLE_BETTER = frozenset(_native.writable_better())  # where quality="best" differs

# The types of arrays that kernels read as they are.
SOURCES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}

# Importance below this part of the largest counts as this: a column of none is still worth more
# than noise, and a block of none is stored as if all of its columns counted alike.
SMALLEST_IMPORTANCE = 1e-12


def can_quantize(type_name: str) -> bool:
    """Return whether `quantize_rows` knows the type, named in any case."""
    return type_name.upper() in WRITABLE


def can_dequantize(type_name: str) -> bool:
    """Return whether `dequantize_rows` knows the type, named in any case."""
    return type_name.upper() in READABLE


def quantize_rows(
    rows: ArrayLike,
    type_name: str,
    importance: ArrayLike | None = None,
    threads: int = 1,
    quality: Quality = "fast",
) -> Blocks:
    """Quantize rows, with the least error that is found.

    rows: [n_rows, n_columns]; float32, float16 and bfloat16 (of ml_dtypes) are read as they are,
    anything else is converted to float32. importance: [n_columns], non-negative: how much a squared
    error in each column counts; F32, F16, BF16 and Q8_0 do not use it. quality: "best" spends about
    ten times as long on a better choice of scales, where the type has one.
    Returns uint8 [n_rows, row_bytes]; the bytes do not depend on `threads`. Weights too large for
    the type's scale take the largest value that it has.

    Raises UnsupportedError if there is no kernel for the type or its blocks do not fill a row,
    FormatError if a weight or importance is not a finite number, UsageError for wrong arguments.
    """
    given = _numbers(rows, "the rows")
    native = given.dtype.newbyteorder("=")
    source = SOURCES.get(native.name)
    values: NDArray[Any] = _matrix(given, np.dtype(np.float32) if source is None else native)
    width = values.shape[1] * values.itemsize
    blocks = values.view(np.uint8).reshape(len(values), width)
    return requantize_rows(blocks, source or "F32", type_name, importance, threads, quality)


def requantize_rows(
    blocks: ArrayLike,
    source_name: str,
    type_name: str,
    importance: ArrayLike | None = None,
    threads: int = 1,
    quality: Quality = "fast",
) -> Blocks:
    """Quantize rows that are blocks of another type, without an array of floats between them.

    blocks: uint8 [n_rows, bytes of a row of `source_name`]; F32, F16 and BF16 are types, too.
    The rest is as in `quantize_rows`.
    """
    source = _known_type(source_name, READABLE, "cannot be read")
    type_ = _known_type(type_name, WRITABLE, "cannot be quantized to")
    data = _bytes_of_blocks(blocks, source)
    columns = data.shape[1] // source.block_bytes * source.block_weights
    if columns % type_.block_weights:
        raise UnsupportedError(
            f"the rows have {columns} columns; {type_.name} needs a multiple of "
            f"{type_.block_weights}. Use {fitting_type(type_.name, columns)}."
        )
    if quality not in get_args(Quality):
        raise UsageError(f"there is no quality {quality!r}. Use fast or best.")
    weights = None if importance is None else _relative_importance(importance, columns)
    threads = _checked_threads(threads)
    out = np.empty((len(data), type_.row_bytes(columns)), np.uint8)
    best = quality == "best"
    bad_row = _native.quantize(type_.name, data, source.name, out, weights, best, threads)
    if bad_row >= 0:
        raise _bad_number(dequantize_rows(data[bad_row : bad_row + 1], source.name)[0], bad_row)
    return out


def dequantize_rows(blocks: ArrayLike, type_name: str, threads: int = 1) -> Rows:
    """Return the weights that blocks stand for, bit for bit those of ggml.

    blocks: uint8 [n_rows, row_bytes]. Returns float32 [n_rows, n_columns].

    Raises UnsupportedError if there is no kernel for the type, FormatError if the rows do not hold
    whole blocks, UsageError for wrong arguments.
    """
    type_ = _known_type(type_name, READABLE, "cannot be read")
    data = _bytes_of_blocks(blocks, type_)
    count = data.shape[1] // type_.block_bytes
    rows = np.empty((len(data), count * type_.block_weights), np.float32)
    _native.dequantize(type_.name, data, rows, _checked_threads(threads))
    return rows


def _bytes_of_blocks(blocks: ArrayLike, type_: QuantType) -> Blocks:
    """Return whole blocks as a matrix of bytes."""
    given = _numbers(blocks, "the blocks")
    if given.dtype != np.uint8:
        raise UsageError(f"the blocks are of type {given.dtype}. Pass the raw bytes, as uint8.")
    data = _matrix(given, np.uint8)
    if data.shape[1] % type_.block_bytes:
        raise FormatError(
            f"a row of {data.shape[1]} bytes is not made of {type_.name} blocks, which have "
            f"{type_.block_bytes}. Check the type and the width of the tensor."
        )
    return data


def _known_type(type_name: str, known: frozenset[str], problem: str) -> QuantType:
    type_ = type_named(type_name)
    if type_.name not in known:
        names = ", ".join(name for name in TYPES if name in known)
        raise UnsupportedError(f"{type_.name} {problem}. Use one of {names}.")
    if type_.name.startswith("IQ"):
        _load_grids()
    return type_


@lru_cache
def _load_grids() -> None:
    """Hand the tables of the I types to the kernels: those of the gguf package, imported here."""
    from gguf import quants

    for name in ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S"):
        table = getattr(quants, name)
        table.init_grid()
        # IQ1_M has the grid of IQ1_S.
        _native.set_grid(
            "iq1" if name == "IQ1_S" else name.lower(), table.grid.astype(np.int8).ravel()
        )
    _native.set_grid("iq4", np.array(quants.IQ4_NL.kvalues, np.int8))


def _matrix(array: NDArray[Any], dtype: type[Number] | np.dtype[Any]) -> NDArray[Number]:
    """Return `array` as a C-contiguous matrix of `dtype`."""
    if array.ndim != 2:
        raise UsageError(
            f"the array has {array.ndim} dimensions. Pass a matrix [n_rows, n_columns]."
        )
    # A float64 beyond float32 becomes an infinity, which is refused with its place.
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, dtype)


def _numbers(values: ArrayLike, what: str) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{what} cannot be read as an array: {error}.") from error
    if array.dtype.kind not in "biuf" and array.dtype.name not in SOURCES:
        raise UsageError(f"{what} are of type {array.dtype}. Pass real numbers.")
    return array


def _checked_threads(threads: int) -> int:
    if threads < 1:
        raise UsageError(f"{threads} threads cannot work. Pass 1 or more.")
    return min(threads, 1024)


def _bad_number(values: Rows, row: int) -> BadNumberError:
    column = int(np.argmin(np.isfinite(values)))
    problem = "is not a number" if np.isnan(values[column]) else "is infinite"
    return BadNumberError(problem, row, column)


def _relative_importance(importance: ArrayLike, columns: int) -> Rows | None:
    """Return importance as parts of the largest, float32 [columns]; None if all of it is zero."""
    values = _numbers(importance, "the importances").astype(np.float64)
    if values.shape != (columns,):
        raise UsageError(
            f"importance has the shape {list(values.shape)}; the rows have {columns} columns. "
            f"Pass one number a column."
        )
    bad = ~(np.isfinite(values) & (values >= 0))
    if bad.any():
        column = int(np.argmax(bad))
        raise FormatError(
            f"the importance of column {column} is {values[column]}; it must be a finite number, "
            "zero or more. Collect it again, or quantize without it."
        )
    largest = values.max(initial=0.0)
    if largest == 0:
        return None
    relative: Rows = np.maximum(values / largest, SMALLEST_IMPORTANCE).astype(np.float32)
    return relative
