"""bitsandbytes: 4-bit numbers of a table of 16 (NF4, FP4) in blocks, or 8-bit integers by row.

The shape of a 4-bit weight is in a JSON text that is stored as a tensor beside it. The largest
number of each block may itself be packed: a byte of a table of 256, in blocks, less their mean.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from snugfit.errors import FormatError
from snugfit.formats.packed.codes import Array, spread, spread_table
from snugfit.formats.packed.source import Source
from snugfit.formats.packed.weights import (
    DOWNLOAD,
    Grid,
    Rows,
    as_floats,
    block_of,
    check_shape,
    scaled,
)
from snugfit.formats.reading import loaded
from snugfit.formats.safetensors import StoredTensor

STATE = ".quant_state.bitsandbytes__"
KINDS = ("nf4", "fp4")
MOST_OFFSET = 1e30  # a mean of numbers of float32
BY_ROW = 0  # the only weight_format that rows of integers are stored in
# An integer times this is its part of the largest number of its row: 1 / 127 in float32.
OF_127 = np.float32(1 / 127)


@dataclass(frozen=True)
class State:
    """What the JSON text says of a 4-bit weight. Sizes in numbers."""

    shape: tuple[int, ...]
    block: int
    nested_block: int
    offset: float


def bitsandbytes_weights(source: Source) -> None:
    """Add every weight that has a quant_state or an SCB. Raises FormatError, UnsupportedError."""
    for kind in KINDS:
        for name in source.ending(STATE + kind):
            _add_four_bits(source, name, source.part(f"{name}{STATE}{kind}", name))
    for base in source.ending(".SCB"):
        _add_eight_bits(source, base)


def _add_four_bits(source: Source, name: str, described: StoredTensor) -> None:
    packed, absmax, table = (
        source.part(name + part, name) for part in ("", ".absmax", ".quant_map")
    )
    state = _state(described, source.sample(described))
    if math.prod(packed.shape) * packed.item.itemsize * 2 != math.prod(state.shape):
        raise FormatError(
            f"{packed.path}: tensor {name} has {packed.size_bytes} bytes, which {described.name} "
            f"says are a weight of shape {list(state.shape)}. {DOWNLOAD}"
        )
    blocks = math.ceil(math.prod(state.shape) / state.block)
    check_shape(absmax, (blocks,), name)
    check_shape(table, (16,), name)
    nested = None
    if absmax.dtype == "U8":
        nested = (
            source.part(f"{name}.nested_absmax", name),
            source.part(f"{name}.nested_quant_map", name),
        )
        check_shape(nested[0], (math.ceil(blocks / state.nested_block),), name)
        check_shape(nested[1], (256,), name)

    def open_matrix(_index: int) -> Rows:
        own = _state(described, described.read())
        if own.shape != state.shape or own.block != state.block:
            raise FormatError(
                f"{described.path}: tensor {described.name} says shape {list(own.shape)}, unlike "
                f"the other layers. {DOWNLOAD}"
            )
        largest = (
            as_floats(absmax, absmax.map()) if nested is None else _largest(absmax, *nested, own)
        )
        return _reader(packed, as_floats(table, table.map()), largest, own)

    source.add(name, packed, state.shape, open_matrix)


def _state(described: StoredTensor, values: Array) -> State:
    """Read the JSON text beside a weight. Raises FormatError if it makes no sense."""
    try:
        said: Any = json.loads(values.tobytes())
        shape = tuple(said["shape"])
        numbers = (*shape, said["blocksize"], said.get("nested_blocksize", 1))
        offset = float(said.get("nested_offset", 0.0))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        numbers, offset = (), math.nan
    if (
        not abs(offset) < MOST_OFFSET
        or len(numbers) < 4
        or not all(type(n) is int and 0 < n < 2**31 for n in numbers)
    ):
        raise FormatError(
            f"{described.path}: tensor {described.name} is not a JSON text of a weight's shape and "
            f"blocks. {DOWNLOAD}"
        )
    return State(shape, numbers[-2], numbers[-1], offset)


def _largest(
    packed: StoredTensor, scales: StoredTensor, table: StoredTensor, state: State
) -> Array:
    """Return the largest number of each block out of bytes of a table, as float32."""
    found = as_floats(table, table.map())[packed.read()]
    shared = np.repeat(as_floats(scales, scales.map()), state.nested_block)[: len(found)]
    largest: Array = found * shared + np.float32(state.offset)
    return largest


def _reader(packed: StoredTensor, table: Array, largest: Array, state: State) -> Rows:
    """Return what reads rows out of blocks, which run on from one row into the next."""
    stream = packed.map().reshape(-1).view(np.uint8)
    pairs = spread_table(4, tuple(table.tolist()), high_first=True)
    columns, size = state.shape[-1], state.block

    def rows(first: int, last: int) -> Array:
        start, end = first * columns // size, math.ceil(last * columns / size)
        # An odd block shares its first byte with the one before it.
        begin = start * size // 2
        values = spread(loaded(stream[begin : math.ceil(end * size / 2)]), pairs)
        values = values[start * size - 2 * begin :]
        short = (end - start) * size - len(values)
        if short > 0:
            values = np.concatenate([values, np.zeros(short, np.float32)])
        values = values[: (end - start) * size].reshape(-1, size)
        values *= largest[start:end, None]
        skip = first * columns - start * size
        found = values.reshape(-1)[skip : skip + (last - first) * columns]
        return found.reshape(last - first, columns)

    return rows


def _add_eight_bits(source: Source, base: str) -> None:
    name = f"{base}.weight"
    weight, largest = source.part(name, name), source.part(f"{base}.SCB", name)
    layout = source.optional(f"{base}.weight_format")
    if weight.dtype != "I8" or len(weight.shape) != 2:
        raise FormatError(
            f"{weight.path}: tensor {name} is stored as {weight.dtype} of shape "
            f"{list(weight.shape)}; {largest.name} goes with a matrix of I8. {DOWNLOAD}"
        )
    check_shape(largest, weight.shape[:1], name)
    block = block_of(weight, largest, weight.shape)
    if layout and np.any(source.sample(layout) != BY_ROW):
        raise source.unsupported(f"stores {name} in an order of an older GPU")

    def open_matrix(_index: int) -> Rows:
        codes = weight.map()
        by_row = as_floats(largest, largest.map()).reshape(-1, 1)
        rows = scaled(lambda a, b: loaded(codes[a:b]).astype(np.float32), Grid(by_row, block))
        return lambda first, last: np.multiply(rows(first, last), OF_127)

    source.add(name, weight, weight.shape, open_matrix)
