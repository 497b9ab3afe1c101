"""compressed-tensors (llm-compressor, vLLM): integers packed into words, or plain small types.

What a weight is stored as follows from the names and types of its parts; the config's groups say
how many bits a packed integer may have. Weights without such parts are stored as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from snugfit.errors import FormatError
from snugfit.formats.packed.codes import FLOAT8, Array, integers
from snugfit.formats.packed.floats import add_float8, add_mxfp4, add_nvfp4, block_size
from snugfit.formats.packed.source import Source
from snugfit.formats.packed.weights import (
    DOWNLOAD,
    Grid,
    Rows,
    as_floats,
    block_of,
    check_shape,
    grid,
    matrix_of,
    scaled,
)
from snugfit.formats.reading import loaded
from snugfit.formats.safetensors import StoredTensor

FORMATS = (
    "dense",
    "pack-quantized",
    "int-quantized",
    "float-quantized",
    "naive-quantized",
    "nvfp4-pack-quantized",
    "mxfp4-pack-quantized",
    "mxfp8-quantized",
    "mixed-precision",
)
# What describes activations and caches, which weights do not need.
OF_ACTIVATIONS = (
    ".input_scale",
    ".input_zero_point",
    ".input_global_scale",
    ".output_scale",
    ".output_zero_point",
    ".k_scale",
    ".v_scale",
    ".q_scale",
    ".k_zero_point",
    ".v_zero_point",
)
WORD_BITS = 32


def compressed_weights(source: Source) -> None:
    """Add every weight that is packed or has scales. Raises FormatError, UnsupportedError."""
    groups = _groups(source)
    for named in {source.settings.get("format"), *(group.get("format") for group in groups)}:
        if named is not None and named not in FORMATS:
            raise source.unsupported(f"is packed as {named!r}; {', '.join(FORMATS)} can be read")
    source.drop(*OF_ACTIVATIONS)
    weights = [group.get("weights") or {} for group in groups]
    for name in source.ending("_packed"):
        if source.part(f"{name}_packed", name).dtype == "I32":
            _add_integers(source, name, [_bits(source, one) for one in weights])
        else:
            _add_fp4(source, name)
    blocks = [
        block_size(source, _structure(one["block_structure"]))
        for one in weights
        if one.get("block_structure") is not None
    ]
    for name in source.ending("_scale"):
        if not name.endswith("weight") and name not in source.tensors:
            continue  # a scale that the model has of its own
        _add_plain(source, name, blocks)


def _groups(source: Source) -> list[Mapping[str, Any]]:
    groups = source.settings.get("config_groups") or {}
    found: list[Any] = list(groups.values()) if isinstance(groups, Mapping) else [None]
    if not all(
        isinstance(group, Mapping) and isinstance(group.get("weights") or {}, Mapping)
        for group in found
    ):
        raise FormatError(
            f"{source.folder}/config.json: config_groups of quantization_config is not an object "
            f"of objects. {DOWNLOAD}"
        )
    return found


def _bits(source: Source, weights: Mapping[str, Any]) -> int:
    bits = weights.get("num_bits", 8)
    if type(bits) is not int or not 1 <= bits <= 8:
        raise source.unsupported(f"packs weights into {bits!r} bits; 1 to 8 can be read")
    return bits


def _structure(named: Any) -> Any:
    """Return [rows, columns]; older files write them as "128x128"."""
    if isinstance(named, str):
        return [int(size) if size.isdecimal() else None for size in named.split("x")]
    return named


def _add_integers(source: Source, name: str, choices: Sequence[int]) -> None:
    words = source.part(f"{name}_packed", name)
    scales = source.part(f"{name}_scale", name)
    shape = _told_shape(source, name, words)
    bits, per_word = _packing(words, shape, choices or [4])
    check_shape(words, (*shape[:-1], words.shape[-1]), name)
    zeros = source.optional(f"{name}_zero_point")
    order = source.optional(f"{name}_g_idx")
    block = block_of(words, scales, shape)
    if order:
        check_shape(order, shape[-1:], name)
    middle = 2 ** (bits - 1)  # what integers are stored plus

    def open_matrix(index: int) -> Rows:
        columns, groups_of = shape[-1], None
        packed = matrix_of(words, index, shape)
        found = grid(scales, index, shape, block)
        if order:
            groups_of = _checked_order(order, found.values.shape[1])
        points = _zero_points(zeros, index, shape, found, bits) if zeros else None
        return scaled(
            lambda first, last: _unpacked(
                loaded(packed[first:last]), bits, per_word, columns, middle
            ),
            Grid(found.values, found.block, groups_of),
            Grid(points, found.block, groups_of) if points is not None else None,
        )

    source.add(name, words, shape, open_matrix)


def _told_shape(source: Source, name: str, words: StoredTensor) -> tuple[int, ...]:
    """Return the shape that is stored beside a weight, which its words may fill only in part."""
    stored = source.part(f"{name}_shape", name)
    told = [int(size) for size in np.asarray(source.sample(stored)).reshape(-1)]
    if len(told) != 2 or not all(0 < size < 2**31 for size in told):
        raise FormatError(f"{stored.path}: tensor {stored.name} is {told}, no shape. {DOWNLOAD}")
    return (*words.shape[:-2], *told)


def _packing(
    words: StoredTensor, shape: tuple[int, ...], choices: Sequence[int]
) -> tuple[int, int | None]:
    """Return bits of an integer, and integers of a word where none is split between two."""
    columns, width = shape[-1], words.shape[-1] if words.shape else 0
    for bits in dict.fromkeys(choices):
        if width == math.ceil(columns * bits / WORD_BITS):
            return bits, None
        if width == math.ceil(columns / (WORD_BITS // bits)):  # before compressed-tensors 0.15
            return bits, WORD_BITS // bits
    raise FormatError(
        f"{words.path}: tensor {words.name} has {width} words a row, but {columns} integers of "
        f"{' or '.join(map(str, dict.fromkeys(choices)))} bits need another number. {DOWNLOAD}"
    )


def _unpacked(words: Array, bits: int, per_word: int | None, columns: int, middle: int) -> Array:
    """Return integers as float32 [rows, columns] out of words, less `middle`."""
    if per_word is None:
        found = integers(words, bits, middle)
    else:
        shifts = np.arange(per_word, dtype=np.uint32) * np.uint32(bits)
        numbers = (words.view(np.uint32)[..., None] >> shifts) & np.uint32(2**bits - 1)
        found = numbers.reshape(*words.shape[:-1], -1).astype(np.float32) - np.float32(middle)
    return found if found.shape[-1] == columns else np.ascontiguousarray(found[..., :columns])


def _zero_points(
    stored: StoredTensor, index: int, shape: tuple[int, ...], scales: Grid, bits: int
) -> Array:
    """Return zero points in the places of scales; words are packed along a weight's rows."""
    rows, groups = scales.values.shape
    values = loaded(matrix_of(stored, index, shape))
    if values.size == scales.values.size and stored.dtype == "I8":
        return values.astype(np.float32).reshape(rows, groups)
    if stored.dtype == "I32" and values.ndim == 2 and values.shape[1] == groups:
        for per_word in (None, WORD_BITS // bits):
            if values.shape[0] == math.ceil(rows / (per_word or WORD_BITS / bits)):
                turned = np.ascontiguousarray(values.T)
                return np.ascontiguousarray(
                    _unpacked(turned, bits, per_word, rows, 2 ** (bits - 1)).T
                )
    raise FormatError(
        f"{stored.path}: tensor {stored.name} has shape {list(stored.shape)}, which does not fit "
        f"scales of shape {[rows, groups]}. {DOWNLOAD}"
    )


def _checked_order(stored: StoredTensor, groups: int) -> Array | None:
    order = stored.read()
    if order.dtype.kind not in "iu" or order.min() < -1 or order.max() >= groups:
        raise FormatError(
            f"{stored.path}: tensor {stored.name} names groups from {order.min()} to "
            f"{order.max()}, of {groups}. {DOWNLOAD}"
        )
    return None if -1 in order else order.astype(np.intp)  # -1: never filled in


def _add_fp4(source: Source, name: str) -> None:
    codes = source.part(f"{name}_packed", name)
    scales = source.part(f"{name}_scale", name)
    if scales.dtype in FLOAT8:
        second = source.part(f"{name}_global_scale", name)
        add_nvfp4(source, name, codes, scales, second, np.divide)
    else:
        add_mxfp4(source, name, codes, scales)


def _add_plain(source: Source, name: str, blocks: Sequence[tuple[int, int]]) -> None:
    scales = source.part(f"{name}_scale", name)
    weight = source.part(name, name)
    if weight.dtype in FLOAT8:
        add_float8(source, name, weight, scales, blocks)
        return
    if weight.dtype != "I8":
        raise FormatError(
            f"{weight.path}: tensor {name} is stored as {weight.dtype}, which needs no scales, but "
            f"{scales.name} is there. {DOWNLOAD}"
        )
    shape, zeros = weight.shape, source.optional(f"{name}_zero_point")
    block = block_of(weight, scales, shape, blocks)
    if zeros:
        check_shape(zeros, scales.shape, name)

    def open_matrix(index: int) -> Rows:
        codes = matrix_of(weight, index, shape)
        found = grid(scales, index, shape, block)
        points = None
        if zeros:
            values = matrix_of(zeros, index, shape)
            values = loaded(values) if zeros.dtype == "I8" else as_floats(zeros, values)
            points = Grid(values.astype(np.float32).reshape(found.values.shape), block)
        return scaled(
            lambda first, last: loaded(codes[first:last]).astype(np.float32), found, points
        )

    source.add(name, weight, shape, open_matrix)
