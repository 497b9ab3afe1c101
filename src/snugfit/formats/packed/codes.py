"""Small numbers out of bytes: integers of a few bits, and floats of four and eight bits.

Every table is built from the format's definition; a lookup turns a byte into all its numbers.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
# Values of the 4-bit float of OCP's microscaling formats (E2M1), by code.
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
FP4_VALUES = np.array([*E2M1, *(-value for value in E2M1)], np.float32)
LOW_HALVES, LOW_WORD = np.uint64(0x0F0F0F0F0F0F0F0F), np.uint64(0xFFFFFFFF)
FOUR, EIGHT, WORD = np.uint64(4), np.uint64(8), np.uint64(32)
# safetensors' name -> bits of exponent, bits of mantissa, whether the top exponent is infinite
FLOAT8 = {"F8_E4M3": (4, 3, False), "F8_E5M2": (5, 2, True)}


@cache
def float8_table(dtype: str) -> Array:
    """Return the float32 value of every byte of an 8-bit float of safetensors' name `dtype`.

    E4M3 is the variant without infinities, whose only NaN is all ones (OCP 8-bit floating point).
    """
    exponent_bits, mantissa_bits, has_infinity = FLOAT8[dtype]
    codes = np.arange(128)
    exponent, mantissa = codes >> mantissa_bits, codes & (2**mantissa_bits - 1)
    bias = 2 ** (exponent_bits - 1) - 1
    fraction = mantissa / 2**mantissa_bits + (exponent > 0)
    values = np.ldexp(fraction, np.maximum(exponent, 1) - bias).astype(np.float32)
    if has_infinity:
        top = exponent == 2**exponent_bits - 1
        values[top] = np.where(mantissa[top] == 0, np.inf, np.nan)
    else:
        values[127] = np.nan
    return np.concatenate([values, -values])


@cache
def exponent_table() -> Array:
    """Return the float32 value of every byte of E8M0: 2 to the code less 127, and NaN for 255."""
    values = np.ldexp(np.ones(255, np.float32), np.arange(255) - 127)
    return np.append(values, np.float32(np.nan))


@cache
def spread_table(bits: int, values: tuple[float, ...], high_first: bool = False) -> Array:
    """Return what a byte holds, as one item of 8 / bits float32: [256], of 4 to 16 bytes each.

    The first number is in the lowest bits, or with `high_first` in the highest.
    """
    shifts = np.arange(0, 8, bits)
    codes = np.arange(256)[:, None] >> (shifts[::-1] if high_first else shifts)
    found = np.array(values, np.float32)[codes & (2**bits - 1)]
    item = {1: np.float32, 2: np.uint64, 4: np.complex128}[len(shifts)]
    table: Array = np.ascontiguousarray(found).view(item)[:, 0]
    return table


def spread(packed: Array, table: Array) -> Array:
    """Return the float32 that bytes hold by a spread_table: [..., bytes] -> [..., numbers]."""
    found = np.take(table, np.ascontiguousarray(packed).view(np.uint8), mode="clip")
    return found.view(np.float32)


def integers(packed: Array, bits: int, zero: int = 0) -> Array:
    """Return integers of `bits` bits less `zero`, as float32, out of a little-endian bit stream.

    The last axis is a stream of its own: [..., words] -> [..., words * bits of a word // bits].
    """
    if bits in (2, 4, 8):
        return spread(packed, spread_table(bits, tuple(range(-zero, 2**bits - zero))))
    stream = np.ascontiguousarray(packed).view(np.uint8)
    groups = math.ceil(stream.shape[-1] / bits)  # each of 8 numbers, in as many bytes as bits
    padded = np.zeros((*stream.shape[:-1], groups * bits), np.uint8)
    padded[..., : stream.shape[-1]] = stream
    wide = np.zeros((*stream.shape[:-1], groups, 8), np.uint8)
    wide[..., :bits] = padded.reshape(*stream.shape[:-1], groups, bits)
    shifts = np.arange(0, 8 * bits, bits, dtype=np.uint64)
    numbers = (wide.view("<u8") >> shifts) & np.uint64(2**bits - 1)
    count = stream.shape[-1] * 8 // bits
    found: Array = numbers.reshape(*stream.shape[:-1], -1)[..., :count].astype(np.float32)
    return found - np.float32(zero) if zero else found


def mxfp4_blocks(codes: Array, exponents: Array) -> Array:
    """Return rows of GGUF's MXFP4 blocks, bit for bit: uint8 [..., columns // 32 * 17].

    `codes` are uint8 [..., columns // 2], the first of two numbers in the low half; `exponents`
    uint8 [..., columns // 32]. A block is its exponent and 16 bytes: byte j holds number j in its
    low half and number j + 16 in its high one (ggml's block_mxfp4).
    """
    lead, count = exponents.shape[:-1], exponents.shape[-1]
    pairs = np.ascontiguousarray(codes).view("<u8").reshape(-1, 2)  # 16 numbers each, by halves
    first, second = pairs[:, 0], pairs[:, 1]
    even = (first & LOW_HALVES) | (second & LOW_HALVES) << FOUR
    odd = (first >> FOUR & LOW_HALVES) | (second & ~LOW_HALVES)
    turns = np.empty((len(pairs), 2), "<u8")
    turns[:, 0] = _apart(even & LOW_WORD) | _apart(odd & LOW_WORD) << EIGHT
    turns[:, 1] = _apart(even >> WORD) | _apart(odd >> WORD) << EIGHT
    blocks = np.empty((len(pairs), 17), np.uint8)
    blocks[:, 0] = exponents.reshape(-1)
    blocks[:, 1:] = turns.view(np.uint8).reshape(-1, 16)
    return blocks.reshape(*lead, count * 17)


def _apart(bytes_: Array) -> Array:
    """Put a byte of zeros after each of the lower four bytes of 64 bits."""
    wide = (bytes_ | bytes_ << np.uint64(16)) & np.uint64(0x0000FFFF0000FFFF)
    found: Array = (wide | wide << EIGHT) & np.uint64(0x00FF00FF00FF00FF)
    return found
