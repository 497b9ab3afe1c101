"""AWQ: integers of 4 bits, packed along a weight's rows in an order of their own.

qweight is int32 [columns, rows / 8], scales [groups, rows], qzeros int32 [groups, rows / 8].
"""

from __future__ import annotations

import numpy as np

from snugfit.errors import FormatError
from snugfit.formats.packed.codes import Array
from snugfit.formats.packed.source import Source
from snugfit.formats.packed.weights import DOWNLOAD, Grid, Rows, as_floats, check_shape, scaled
from snugfit.formats.safetensors import StoredTensor

# The place in a word, in units of 4 bits, of each of its 8 rows (AutoAWQ's WQLinear_GEMM).
PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
ROWS = len(PLACES)


def awq_weights(source: Source) -> None:
    """Add every weight that has a qweight. Raises FormatError, UnsupportedError."""
    version = str(source.settings.get("version", "gemm")).lower()
    bits = source.settings.get("bits", source.settings.get("w_bit", 4))
    if version != "gemm" or bits != 4:
        raise source.unsupported(
            f"stores AWQ in the version {version!r} of {bits} bits; gemm of 4 can be read"
        )
    for base in source.ending(".qweight"):
        _add(source, base)


def _add(source: Source, base: str) -> None:
    name = f"{base}.weight"
    qweight, qzeros, scales = (
        source.part(f"{base}.{part}", name) for part in ("qweight", "qzeros", "scales")
    )
    is_matrix = len(qweight.shape) == len(scales.shape) == 2
    if not is_matrix or {qweight.dtype, qzeros.dtype} != {"I32"}:
        raise source.unsupported(f"{base} is not packed into a matrix of 32-bit words")
    columns, (groups, rows) = qweight.shape[0], scales.shape
    check_shape(qweight, (columns, rows // ROWS), name)
    check_shape(qzeros, (groups, rows // ROWS), name)
    if not groups or columns % groups or rows % ROWS:
        raise FormatError(
            f"{scales.path}: tensor {scales.name} has shape {list(scales.shape)}, whose groups do "
            f"not divide the {columns} columns of {name}. {DOWNLOAD}"
        )

    def open_matrix(_index: int) -> Rows:
        block = (1, columns // groups)
        return scaled(
            _reader(qweight),
            Grid(np.ascontiguousarray(as_floats(scales, scales.map()).T), block),
            Grid(unpacked(qzeros.read()), block),
        )

    source.add(name, qweight, (rows, columns), open_matrix)


def _reader(qweight: StoredTensor) -> Rows:
    words = qweight.read()  # rows are columns of it

    def rows(first: int, last: int) -> Array:
        start = first // ROWS
        found = unpacked(words[:, start : -(-last // ROWS)])
        return found[first - start * ROWS : last - start * ROWS]

    return rows


def unpacked(words: Array) -> Array:
    """Return the numbers of words as float32, turned over: [n, rows / 8] -> [rows, n]."""
    turned = np.ascontiguousarray(words.T).view(np.uint32)
    found = np.empty((len(turned), ROWS, turned.shape[1]), np.float32)
    for row, place in enumerate(PLACES):
        found[:, row] = (turned >> np.uint32(4 * place)) & np.uint32(15)
    return found.reshape(-1, turned.shape[1])
