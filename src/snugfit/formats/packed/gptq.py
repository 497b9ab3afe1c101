"""GPTQ: integers of 2, 3, 4 or 8 bits, packed along a weight's columns, in groups of columns.

qweight is int32 [columns * bits / 32, rows], scales [groups, rows], qzeros int32
[groups, rows * bits / 32], and g_idx [columns] the group of each column.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from snugfit.errors import FormatError
from snugfit.formats.packed.codes import Array, integers
from snugfit.formats.packed.source import Source
from snugfit.formats.packed.weights import DOWNLOAD, Grid, Rows, as_floats, check_shape, scaled
from snugfit.formats.safetensors import StoredTensor

BITS = (2, 3, 4, 8)
# What zero points are stored less by: the first format stores each less one, added to whole words
# (GPTQModel's conversion of v1 to v2), so that what one number borrowed from the next comes back.
FORMATS = {"gptq": 1, "gptq_v2": 0}
ONES = {2: 0x55555555, 4: 0x11111111, 8: 0x01010101}


def gptq_weights(source: Source) -> None:
    """Add every weight that has a qweight. Raises FormatError, UnsupportedError."""
    named = source.settings.get("checkpoint_format") or source.settings.get("format") or "gptq"
    if named not in FORMATS or source.settings.get("is_marlin_format"):
        raise source.unsupported(
            f"stores GPTQ in the format {named!r}; {', '.join(FORMATS)} can be read"
        )
    for base in source.ending(".qweight"):
        _add(source, base, FORMATS[named])


def _add(source: Source, base: str, less: int) -> None:
    name = f"{base}.weight"
    qweight, qzeros, scales = (
        source.part(f"{base}.{part}", name) for part in ("qweight", "qzeros", "scales")
    )
    groups_of = source.optional(f"{base}.g_idx")
    is_matrix = len(qweight.shape) == len(scales.shape) == 2
    if not is_matrix or {qweight.dtype, qzeros.dtype} != {"I32"}:
        raise source.unsupported(f"{base} is not packed into a matrix of 32-bit words")
    groups, rows = scales.shape
    bits = _bits(source, base, qweight, groups_of)
    columns = 32 * qweight.shape[0] // bits
    check_shape(qweight, (columns * bits // 32, rows), name)
    check_shape(qzeros, (groups, math.ceil(rows * bits / 32)), name)
    if groups_of:
        check_shape(groups_of, (columns,), name)
    size = _group_size(source, scales, columns, groups_of is not None)

    def open_matrix(_index: int) -> Rows:
        words = qweight.read()  # rows are columns of it
        order = _order(groups_of, size, groups)
        block = (1, size)
        factors = np.ascontiguousarray(as_floats(scales, scales.map()).T)
        zeros = np.ascontiguousarray(_zeros(qzeros.read(), bits, less)[:, :rows].T)
        return scaled(
            lambda first, last: integers(words[:, first:last].T, bits),
            Grid(factors, block, order),
            Grid(zeros, block, order),
        )

    source.add(name, qweight, (rows, columns), open_matrix)


def _bits(source: Source, base: str, qweight: StoredTensor, order: StoredTensor | None) -> int:
    """Return bits of a number; a g_idx tells the columns, for layers may differ."""
    bits: Any = source.settings.get("bits")
    if order and len(order.shape) == 1 and order.shape[0]:
        bits = 32 * qweight.shape[0] / order.shape[0]
    if bits not in BITS:
        raise source.unsupported(
            f"{base} has {bits!r} bits a weight; GPTQ of {', '.join(map(str, BITS))} can be read"
        )
    return int(bits)


def _group_size(source: Source, scales: StoredTensor, columns: int, is_told: bool) -> int:
    """Return columns of a group, where they follow in order; a g_idx may tell otherwise."""
    groups, size = scales.shape[0], source.number("group_size", -1)
    size = columns if size <= 0 else size
    if groups and columns and is_told and -(-columns // size) != groups:
        size = -(-columns // groups)
    if not groups or not columns or (not is_told and -(-columns // size) != groups):
        raise FormatError(
            f"{scales.path}: tensor {scales.name} has {groups} groups, but {columns} columns in "
            f"groups of {size} make {-(-columns // size)}. {DOWNLOAD}"
        )
    return size


def _zeros(words: Array, bits: int, less: int) -> Array:
    """Return zero points as float32 [groups, rows]."""
    if less and bits in ONES:
        words = words.view(np.uint32) + np.uint32(ONES[bits])
    zeros = integers(words, bits)
    return (zeros + 1) % 2**bits if less and bits not in ONES else zeros


def _order(stored: StoredTensor | None, size: int, groups: int) -> Array | None:
    """Return the group of each column, or None where groups follow in order."""
    if stored is None:
        return None
    order = stored.read()
    if np.array_equal(order, np.arange(len(order)) // size):
        return None
    if order.dtype.kind not in "iu" or order.min() < 0 or order.max() >= groups:
        raise FormatError(
            f"{stored.path}: tensor {stored.name} names groups from {order.min()} to "
            f"{order.max()}, of {groups}. {DOWNLOAD}"
        )
    return order.astype(np.intp)
