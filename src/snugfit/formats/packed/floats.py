"""Weights of 8-bit or 4-bit floats with scales: methods fp8, fbgemm_fp8 and modelopt.

A weight keeps its name and its scales stand beside it; which of the methods wrote it follows from
the names and types of the scales. Weights without scales beside them are stored as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from snugfit.errors import FormatError
from snugfit.formats.packed.codes import FLOAT8, FP4_VALUES, Array, spread, spread_table
from snugfit.formats.packed.source import Source
from snugfit.formats.packed.weights import (
    DOWNLOAD,
    MXFP4_COLUMNS,
    Grid,
    Rows,
    block_of,
    check_shape,
    grid,
    matrix_of,
    mxfp4_matrix,
    scaled,
)
from snugfit.formats.reading import loaded
from snugfit.formats.safetensors import StoredTensor

# What scales' names end with -> what the name of their weight ends with. DeepSeek-V3 and Qwen;
# NVIDIA's modelopt and fbgemm; Mistral; DeepSeek-V4.
WEIGHT_OF_SCALES = {
    "_scale_inv": "",
    "_scale": "",
    ".qscale_weight": ".weight",
    ".scale": ".weight",
}
SURELY = ("weight_scale", "_scale_inv", ".qscale_weight")
# Scales of activations and of the cache, which weights do not need.
OF_ACTIVATIONS = (
    "activation_scale",
    ".input_scale",
    ".input_scale_ub",
    ".output_scale",
    ".qscale_act",
    ".k_scale",
    ".v_scale",
    ".q_scale",
    ".prob_output_scale",
)
DEFAULT_BLOCK = (128, 128)  # DeepSeek-V3's
NVFP4_COLUMNS = 16  # of a block that shares one scale
EXPONENTS = ("F8_E8M0", "U8")
BYTES_OF_FP4 = ("U8", "I8", "F4")


def float_weights(source: Source) -> None:
    """Add every weight that has scales beside it. Raises FormatError, UnsupportedError."""
    source.drop(*OF_ACTIVATIONS)
    if source.ending(".pre_quant_scale"):
        raise source.unsupported("scales its inputs before each weight (AWQ of modelopt)")
    blocks = _blocks(source)
    for suffix, of_weight in WEIGHT_OF_SCALES.items():
        for base in source.ending(suffix):
            name = base + of_weight
            # Models have scales of their own; those of weights say so, or have a packed weight.
            if (base + suffix).endswith(SURELY) or _is_packed(source.tensors.get(name)):
                _add(source, name, base + suffix, blocks)
    _check_scaled(source)


def _blocks(source: Source) -> list[tuple[int, int]]:
    named = source.settings.get("weight_block_size")
    if named is None:
        return [DEFAULT_BLOCK]
    return [block_size(source, named), DEFAULT_BLOCK]


def block_size(source: Source, named: Any) -> tuple[int, int]:
    """Return rows and columns of a block as the config names them. Raises FormatError."""
    sizes = list(named) if isinstance(named, list) else []
    if len(sizes) != 2 or not all(type(size) is int and 0 < size < 2**31 for size in sizes):
        raise FormatError(
            f"{source.folder}/config.json: the block of weights is {named!r}, not rows and "
            f"columns. {DOWNLOAD}"
        )
    return sizes[0], sizes[1]


def _is_packed(tensor: StoredTensor | None) -> bool:
    return tensor is not None and (tensor.dtype in FLOAT8 or tensor.dtype in BYTES_OF_FP4)


def _add(source: Source, name: str, scale_name: str, blocks: Sequence[tuple[int, int]]) -> None:
    scales = source.part(scale_name, name)
    weight = source.part(name, name)
    if weight.dtype in FLOAT8:
        add_float8(source, name, weight, scales, blocks)
    elif weight.dtype in BYTES_OF_FP4:
        second = source.optional(f"{scale_name}_2")
        if scales.dtype in EXPONENTS:
            add_mxfp4(source, name, weight, scales)
        else:
            add_nvfp4(source, name, weight, scales, second, np.multiply)
    else:
        raise FormatError(
            f"{weight.path}: tensor {name} is stored as {weight.dtype}, which needs no scales, but "
            f"{scale_name} is there. {DOWNLOAD}"
        )


def _check_scaled(source: Source) -> None:
    for name, tensor in source.tensors.items():
        if tensor.dtype in FLOAT8 and name not in source.used:
            raise FormatError(
                f"{tensor.path}: tensor {name} is stored as {tensor.dtype}, but its scales are "
                "missing. Download every shard."
            )


def add_float8(
    source: Source,
    name: str,
    weight: StoredTensor,
    scales: StoredTensor,
    blocks: Sequence[tuple[int, int]],
) -> None:
    """Add a weight of 8-bit floats; its scales are of the whole, of rows, groups or blocks."""
    from snugfit.formats.packed.codes import float8_table

    shape = weight.shape
    block = block_of(weight, scales, shape, blocks)

    def open_matrix(index: int) -> Rows:
        table, codes = float8_table(weight.dtype), matrix_of(weight, index, shape)
        return scaled(
            lambda first, last: np.take(table, loaded(codes[first:last]), mode="clip"),
            grid(scales, index, shape, block),
        )

    source.add(name, weight, shape, open_matrix)


def fp4_shape(weight: StoredTensor) -> tuple[int, ...]:
    """Return the shape of a weight of 4-bit floats, of which others than F4 are two a byte."""
    if weight.dtype == "F4" or not weight.shape:
        return weight.shape
    return (*weight.shape[:-1], 2 * weight.shape[-1])


def add_mxfp4(source: Source, name: str, weight: StoredTensor, exponents: StoredTensor) -> None:
    """Add a weight of MXFP4: experts as they are, bit for bit; others dequantized.

    Conversion moves columns of some other matrices, which blocks cannot follow.
    """
    shape = fp4_shape(weight)
    check_shape(exponents, (*shape[:-1], (shape or (0,))[-1] // MXFP4_COLUMNS), name)
    if shape[-1] % MXFP4_COLUMNS == 0 and ".experts." in name:
        source.add(name, weight, shape, mxfp4_matrix(weight, exponents, shape), "MXFP4")
        return
    block = block_of(weight, exponents, shape)

    def open_matrix(index: int) -> Rows:
        return scaled(_fp4(weight, index, shape), grid(exponents, index, shape, block))

    source.add(name, weight, shape, open_matrix)


def add_nvfp4(
    source: Source,
    name: str,
    weight: StoredTensor,
    scales: StoredTensor,
    second: StoredTensor | None,
    operation: np.ufunc,
) -> None:
    """Add a weight of NVFP4, whose scales are themselves scaled by `operation` with `second`."""
    shape = fp4_shape(weight)
    check_shape(scales, (*shape[:-1], (shape or (0,))[-1] // NVFP4_COLUMNS), name)
    block = block_of(weight, scales, shape)
    second_block = block_of(weight, second, shape) if second else None

    def open_matrix(index: int) -> Rows:
        found = grid(scales, index, shape, block)
        if second and second_block:
            shared = grid(second, index, shape, second_block)
            found = Grid(operation(found.values, shared.values), block)
        return scaled(_fp4(weight, index, shape), found)

    source.add(name, weight, shape, open_matrix)


def _fp4(weight: StoredTensor, index: int, shape: tuple[int, ...]) -> Rows:
    codes: Array = matrix_of(weight, index, shape).view(np.uint8).reshape(shape[-2], -1)
    table = spread_table(4, tuple(FP4_VALUES.tolist()))
    return lambda first, last: spread(loaded(codes[first:last]), table)
