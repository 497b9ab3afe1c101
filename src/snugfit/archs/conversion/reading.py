"""Rows of converted tensors out of what is stored, of which no more is read than they need."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from snugfit.archs.conversion.rules import Array
from snugfit.archs.conversion.tensors import BLOCKS, ConvertedTensor, Load, Piece, Stored


def read_rows(
    tensor: ConvertedTensor,
    stored: Mapping[str, Stored],
    first: int,
    count: int,
) -> Array:
    """Return `count` rows from `first` on, as bytes of the tensor's type: uint8 [rows, row_bytes].

    Only what holds these rows is read: of a stack, its matrices; of a matrix, its rows where the
    arrangement is a view.
    """
    width = tensor.info.columns
    if tensor.dtype in BLOCKS:
        width = tensor.info.type.row_bytes(width)
    found, start = [], 0
    for piece in tensor.pieces:
        each = piece.rows // max(piece.stack, 1)
        # Only matrices that hold these rows: a stack has hundreds, and is read task by task.
        begun, last = max(first - start, 0) // each, -(-(first + count - start) // each)
        for matrix in range(begun, min(last, max(piece.stack, 1))):
            before = start + matrix * each
            begin, end = max(first, before), min(first + count, before + each)
            values, load = _arranged(piece, stored, matrix)
            taken = _rows_of(values, begin - before, end - before, width, load)
            moved = tensor.columns(taken) if tensor.columns else taken
            found.append(_bytes_of(tensor, moved, begin))
        start += piece.rows
        if start >= first + count:
            break
    return found[0] if len(found) == 1 else np.concatenate(found)


def _arranged(piece: Piece, stored: Mapping[str, Stored], matrix: int) -> tuple[Array, Load]:
    """Return values in their places, and what loads a view of them."""
    if not piece.source:
        return piece.arrange(np.empty(0)), _as_it_is
    values, load = stored[piece.source].opened(matrix if piece.stack else None)
    arranged = piece.arrange(values)
    if np.may_share_memory(arranged, values):
        return arranged, load
    return piece.arrange(load(values)), _as_it_is  # it copies, as only small tensors' do


def _as_it_is(values: Array) -> Array:
    return values


def _rows_of(values: Array, begin: int, end: int, width: int, load: Load) -> Array:
    """Return rows of an array as a matrix; nothing but them is loaded and copied."""
    if values.ndim < 2 or values.shape[-1] != width:
        flat = values.reshape(-1, width)
        if np.may_share_memory(flat, values):
            return load(flat[begin:end])
        return load(values).reshape(-1, width)[begin:end]
    if values.ndim == 2:
        return load(values[begin:end])
    each, found = math.prod(values.shape[1:-1]), []
    while begin < end:
        entry, inside = divmod(begin, each)
        if inside or end - begin < each:
            stop = min(end, (entry + 1) * each)
            found.append(_rows_of(values[entry], inside, stop - entry * each, width, load))
        else:
            stop = end - end % each
            found.append(load(values[entry : stop // each]).reshape(-1, width))
        begin = stop
    return found[0] if len(found) == 1 else np.concatenate(found)


def _bytes_of(tensor: ConvertedTensor, rows: Array, first: int) -> Array:
    """Return rows as bytes of the tensor's type; bfloat16 bits are the upper half of float32's."""
    if tensor.info.type_name == "F32":
        if tensor.dtype == "BF16" and rows.dtype == np.uint16:
            rows = (rows.astype(np.uint32) << 16).view(np.float32)
        rows = np.ascontiguousarray(rows, np.float32)
        if tensor.compute:
            rows = np.ascontiguousarray(tensor.compute(rows), np.float32)
        if tensor.scale is not None:
            rows = rows * tensor.scale[first : first + len(rows), None]
    if tensor.info.type_name == "I32":
        rows = rows.astype(np.int32, copy=False)
    return np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)
