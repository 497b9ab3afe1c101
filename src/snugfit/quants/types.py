"""Every ggml tensor type as one row. A row holds the block as a numpy struct; sizes are derived.

Field names and order are those of ggml's C structs (ggml-common.h), so that code reads
`block["scales"]` instead of counting offsets. Tests pin the sizes to ggml's own and the fields to
golden blocks, since a swapped pair of fields would keep the size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from snugfit.errors import UnsupportedError


@dataclass(frozen=True)
class QuantType:
    """One ggml type: `block_weights` consecutive weights of a row are stored as one `block`."""

    id: int
    name: str
    block_weights: int
    block: np.dtype[np.void]

    @property
    def block_bytes(self) -> int:
        return self.block.itemsize

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.block_bytes / self.block_weights

    @property
    def is_quantized(self) -> bool:
        return self.block_weights > 1

    def row_bytes(self, columns: int) -> int:
        """Return the bytes of one row. Raises UnsupportedError if blocks do not fill it."""
        if columns % self.block_weights:
            raise UnsupportedError(
                f"a row of {columns} weights; {self.name} needs a multiple of {self.block_weights}"
            )
        return columns // self.block_weights * self.block_bytes

    def tensor_bytes(self, shape: Sequence[int]) -> int:
        """Return the bytes of a tensor of `shape` [..., rows, columns], without padding."""
        return math.prod(shape[:-1]) * self.row_bytes(shape[-1])


def _row(id: int, name: str, block_weights: int, **fields: DTypeLike) -> QuantType:
    return QuantType(id, name, block_weights, np.dtype(list(fields.items())))


def _bytes(count: int) -> DTypeLike:
    return np.dtype((np.uint8, (count,)))


def _words(count: int) -> DTypeLike:
    return np.dtype(("<u2", (count,)))


_TABLE = (
    _row(0, "F32", 1, value="<f4"),
    _row(1, "F16", 1, value="<f2"),
    _row(2, "Q4_0", 32, d="<f2", qs=_bytes(16)),
    _row(3, "Q4_1", 32, d="<f2", m="<f2", qs=_bytes(16)),
    _row(6, "Q5_0", 32, d="<f2", qh=_bytes(4), qs=_bytes(16)),
    _row(7, "Q5_1", 32, d="<f2", m="<f2", qh=_bytes(4), qs=_bytes(16)),
    _row(8, "Q8_0", 32, d="<f2", qs=np.dtype(("i1", (32,)))),
    _row(9, "Q8_1", 32, d="<f2", s="<f2", qs=np.dtype(("i1", (32,)))),
    _row(10, "Q2_K", 256, scales=_bytes(16), qs=_bytes(64), d="<f2", dmin="<f2"),
    _row(11, "Q3_K", 256, hmask=_bytes(32), qs=_bytes(64), scales=_bytes(12), d="<f2"),
    _row(12, "Q4_K", 256, d="<f2", dmin="<f2", scales=_bytes(12), qs=_bytes(128)),
    _row(13, "Q5_K", 256, d="<f2", dmin="<f2", scales=_bytes(12), qh=_bytes(32), qs=_bytes(128)),
    _row(14, "Q6_K", 256, ql=_bytes(128), qh=_bytes(64), scales=np.dtype(("i1", (16,))), d="<f2"),
    _row(15, "Q8_K", 256, d="<f4", qs=np.dtype(("i1", (256,))), bsums=np.dtype(("<i2", (16,)))),
    _row(16, "IQ2_XXS", 256, d="<f2", qs=_words(32)),
    _row(17, "IQ2_XS", 256, d="<f2", qs=_words(32), scales=_bytes(8)),
    _row(18, "IQ3_XXS", 256, d="<f2", qs=_bytes(96)),
    _row(19, "IQ1_S", 256, d="<f2", qs=_bytes(32), qh=_words(8)),
    _row(20, "IQ4_NL", 32, d="<f2", qs=_bytes(16)),
    _row(
        21, "IQ3_S", 256, d="<f2", qs=_bytes(64), qh=_bytes(8), signs=_bytes(32), scales=_bytes(4)
    ),
    _row(22, "IQ2_S", 256, d="<f2", qs=_bytes(64), qh=_bytes(8), scales=_bytes(8)),
    _row(23, "IQ4_XS", 256, d="<f2", scales_h="<u2", scales_l=_bytes(4), qs=_bytes(128)),
    _row(24, "I8", 1, value="<i1"),
    _row(25, "I16", 1, value="<i2"),
    _row(26, "I32", 1, value="<i4"),
    _row(27, "I64", 1, value="<i8"),
    _row(28, "F64", 1, value="<f8"),
    _row(29, "IQ1_M", 256, qs=_bytes(32), qh=_bytes(16), scales=_bytes(8)),
    _row(30, "BF16", 1, value="<u2"),
    _row(34, "TQ1_0", 256, qs=_bytes(48), qh=_bytes(4), d="<f2"),
    _row(35, "TQ2_0", 256, qs=_bytes(64), d="<f2"),
    _row(39, "MXFP4", 32, e=_bytes(1), qs=_bytes(16)),
    _row(40, "NVFP4", 64, d=_bytes(4), qs=_bytes(32)),
    _row(41, "Q1_0", 128, d="<f2", qs=_bytes(16)),
    _row(42, "Q2_0", 64, d="<f2", qs=_bytes(16)),
)

TYPES: dict[str, QuantType] = {row.name: row for row in _TABLE}
TYPE_OF_ID: dict[int, QuantType] = {row.id: row for row in _TABLE}


def type_named(name: str) -> QuantType:
    """Return the type called `name`, in any case. Raises UnsupportedError with the known names."""
    found = TYPES.get(name.upper())
    if found is None:
        raise UnsupportedError(f"'{name}' is not a tensor type. Known: {', '.join(TYPES)}.")
    return found
