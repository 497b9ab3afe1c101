"""Where the values of a stored matrix [rows, columns] go: views of it, wherever they can be."""

from __future__ import annotations

from snugfit.archs.conversion.config import Config
from snugfit.archs.conversion.rules import Array


def interleaved_queries(values: Array, config: Config) -> Array:
    return interleaved(_of_heads(values, config.heads, config), config.heads)


def interleaved_keys(values: Array, config: Config) -> Array:
    heads = config.key_value_heads
    return interleaved(_of_heads(values, heads, config), heads)


def _of_heads(values: Array, heads: int, config: Config) -> Array:
    if len(values) != heads * config.head_size:
        raise ValueError("the rows are not those of so many heads")
    return values


def interleaved(values: Array, heads: int) -> Array:
    """Put the halves of each head's rows in turns: [heads, pairs, 2, columns], a view."""
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2)


def first_half_of_rows(values: Array, _config: Config) -> Array:
    return values[: len(values) // 2]


def second_half_of_rows(values: Array, _config: Config) -> Array:
    return values[len(values) // 2 :]


def first_row(values: Array, _config: Config) -> Array:
    """Return a matrix of one row as a vector."""
    return values.reshape(values.shape[-1])


def transposed(values: Array, _config: Config) -> Array:
    return values.T
