"""Rows of weights to blocks of bytes and back.

The loops are native (`native/*.cpp`); what is asked of them is checked here. To add a type, write
its kernel and add its line to CODECS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from snugfit.errors import FormatError, UnsupportedError, UsageError
from snugfit.quants import _native
from snugfit.quants.types import QuantType, type_named

Rows = NDArray[np.float32]
Blocks = NDArray[np.uint8]
Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True)
class Codec:
    """The native functions of one type. Each fills its second argument, whose sizes it checks."""

    quantize: Callable[[Rows, Blocks, Rows | None, int], None]
    dequantize: Callable[[Blocks, Rows, int], None]


CODECS = {
    "F32": Codec(_native.quantize_f32, _native.dequantize_f32),
    "F16": Codec(_native.quantize_f16, _native.dequantize_f16),
    "BF16": Codec(_native.quantize_bf16, _native.dequantize_bf16),
    "Q8_0": Codec(_native.quantize_q8_0, _native.dequantize_q8_0),
    "Q4_0": Codec(_native.quantize_q4_0, _native.dequantize_q4_0),
    "Q4_1": Codec(_native.quantize_q4_1, _native.dequantize_q4_1),
    "Q5_0": Codec(_native.quantize_q5_0, _native.dequantize_q5_0),
    "Q5_1": Codec(_native.quantize_q5_1, _native.dequantize_q5_1),
    "Q4_K": Codec(_native.quantize_q4_k, _native.dequantize_q4_k),
    "Q5_K": Codec(_native.quantize_q5_k, _native.dequantize_q5_k),
    "Q6_K": Codec(_native.quantize_q6_k, _native.dequantize_q6_k),
}

# What takes the place of a type whose blocks do not fill a row; llama.cpp falls back likewise.
SMALLER_BLOCKS = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}

# Importance below this part of the largest counts as this: a column of none is still worth more
# than noise, and a block of none is stored as if all of its columns counted alike.
SMALLEST_IMPORTANCE = 1e-12


def can_quantize(type_name: str) -> bool:
    """Return whether `quantize_rows` and `dequantize_rows` know the type, named in any case."""
    return type_name.upper() in CODECS


def quantize_rows(
    rows: ArrayLike, type_name: str, importance: ArrayLike | None = None, threads: int = 1
) -> Blocks:
    """Quantize rows, with the least error that is found.

    rows: [n_rows, n_columns], converted to float32. importance: [n_columns], non-negative: how
    much a squared error in each column counts; F32, F16, BF16 and Q8_0 do not use it.
    Returns uint8 [n_rows, row_bytes]; the bytes do not depend on `threads`. Weights too large for
    the type's scale take the largest value that it has.

    Raises UnsupportedError if there is no kernel for the type or its blocks do not fill a row,
    FormatError if a weight or importance is not a finite number, UsageError for wrong arguments.
    """
    type_, codec = _codec_of(type_name)
    values = _matrix(rows, np.float32)
    columns = values.shape[1]
    if columns % type_.block_weights:
        raise UnsupportedError(
            f"the rows have {columns} columns; {type_.name} needs a multiple of "
            f"{type_.block_weights}. Use {_instead_of(type_.name, columns)}."
        )
    weights = None if importance is None else _relative_importance(importance, columns)
    threads = _checked_threads(threads)
    _refuse_bad_numbers(values, threads)
    blocks = np.empty((len(values), type_.row_bytes(columns)), np.uint8)
    codec.quantize(values, blocks, weights, threads)
    return blocks


def dequantize_rows(blocks: ArrayLike, type_name: str, threads: int = 1) -> Rows:
    """Return the weights that blocks stand for, bit for bit those of ggml.

    blocks: uint8 [n_rows, row_bytes]. Returns float32 [n_rows, n_columns].

    Raises UnsupportedError if there is no kernel for the type, FormatError if the rows do not hold
    whole blocks, UsageError for wrong arguments.
    """
    type_, codec = _codec_of(type_name)
    given = _numbers(blocks, "the blocks")
    if given.dtype != np.uint8:
        raise UsageError(f"the blocks are of type {given.dtype}. Pass the raw bytes, as uint8.")
    data = _matrix(given, np.uint8)
    count, rest = divmod(data.shape[1], type_.block_bytes)
    if rest:
        raise FormatError(
            f"a row of {data.shape[1]} bytes is not made of {type_.name} blocks, which have "
            f"{type_.block_bytes}. Check the type and the width of the tensor."
        )
    rows = np.empty((len(data), count * type_.block_weights), np.float32)
    codec.dequantize(data, rows, _checked_threads(threads))
    return rows


def _codec_of(type_name: str) -> tuple[QuantType, Codec]:
    type_ = type_named(type_name)
    codec = CODECS.get(type_.name)
    if codec is None:
        raise UnsupportedError(f"{type_.name} has no kernel yet. Use one of {', '.join(CODECS)}.")
    return type_, codec


def _matrix(values: ArrayLike, dtype: type[Number]) -> NDArray[Number]:
    """Return `values` as a C-contiguous matrix of `dtype`."""
    array = _numbers(values, "the rows")
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
    if array.dtype.kind not in "biuf":
        raise UsageError(f"{what} are of type {array.dtype}. Pass real numbers.")
    return array


def _instead_of(type_name: str, columns: int) -> str:
    smaller = SMALLER_BLOCKS.get(type_name)
    return smaller if smaller and columns % 32 == 0 else "F16"


def _checked_threads(threads: int) -> int:
    if threads < 1:
        raise UsageError(f"{threads} threads cannot work. Pass 1 or more.")
    return min(threads, 1024)


def _refuse_bad_numbers(rows: Rows, threads: int) -> None:
    row = _native.first_bad_row(rows, threads)
    if row < 0:
        return
    column = int(np.argmin(np.isfinite(rows[row])))
    problem = "is not a number" if np.isnan(rows[row, column]) else "is infinite"
    raise FormatError(
        f"row {row}, column {column} {problem}; the weights are damaged. Get the file again."
    )


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
