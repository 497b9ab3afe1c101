"""ggml itself, as the oracle: functions that the library inside xllamacpp exports, by ctypes."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from ggml_rows import REFUSED_WITHOUT_IMPORTANCE
from numpy.typing import NDArray

from snugfit.quants.types import TYPES


class _TypeTraits(ctypes.Structure):
    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("block_weights", ctypes.c_int64),
        ("block_weights_interleaved", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    )


@lru_cache
def library() -> ctypes.CDLL:
    spec = find_spec("xllamacpp")
    assert spec is not None and spec.origin is not None
    (path,) = Path(spec.origin).parent.glob("xllamacpp*.so")
    ggml = ctypes.CDLL(str(path))
    ggml.ggml_type_size.restype = ctypes.c_size_t
    ggml.ggml_blck_size.restype = ctypes.c_int64
    ggml.ggml_row_size.argtypes = (ctypes.c_int, ctypes.c_int64)
    ggml.ggml_row_size.restype = ctypes.c_size_t
    ggml.ggml_get_type_traits.restype = ctypes.POINTER(_TypeTraits)
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = (
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
    )
    return ggml


def quantize(
    rows: NDArray[np.float32], type_name: str, importance: NDArray[np.float32] | None = None
) -> NDArray[np.uint8]:
    """Return ggml's own blocks of float32 [n_rows, n_columns]."""
    rows = np.ascontiguousarray(rows, np.float32)
    if importance is None and type_name in REFUSED_WITHOUT_IMPORTANCE:
        importance = np.ones(rows.shape[1], np.float32)
    n_rows, n_columns = rows.shape
    blocks = np.zeros((n_rows, TYPES[type_name].row_bytes(n_columns)), np.uint8)
    written = library().ggml_quantize_chunk(
        TYPES[type_name].id,
        rows.ctypes.data,
        blocks.ctypes.data,
        0,
        n_rows,
        n_columns,
        None if importance is None else importance.ctypes.data,
    )
    assert written == blocks.nbytes
    return blocks


def dequantize(blocks: NDArray[np.uint8], type_name: str) -> NDArray[np.float32]:
    """Return ggml's own weights of the blocks of one row, uint8 [row_bytes]."""
    type_ = TYPES[type_name]
    values = np.empty(blocks.size // type_.block_bytes * type_.block_weights, np.float32)
    traits = library().ggml_get_type_traits(type_.id).contents
    traits.to_float(blocks.ctypes.data, values.ctypes.data, values.size)
    return values
