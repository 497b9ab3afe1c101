"""How many bytes a model keeps for its context: one rule a kind of cache, equal to llama.cpp's.

Rules and rounding are those of llama.cpp's llama_kv_cache; tests compare with what it allocates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from snugfit.core import Configuration, LayerCache
from snugfit.errors import UnsupportedError, UsageError
from snugfit.quants.types import TYPES

# llama.cpp's --cache-type-k and --cache-type-v.
KV_TYPES = ("F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL")
CELLS_MULTIPLE = 256  # llama.cpp rounds every context up to it


@dataclass(frozen=True)
class AttentionShape:
    """What cache rules read off a model. `heads_kv` has one number a layer; widths in elements."""

    heads_kv: tuple[int, ...]
    key_length: int
    value_length: int


CacheRule = Callable[[AttentionShape], tuple[LayerCache, ...]]


def grouped_query(shape: AttentionShape) -> tuple[LayerCache, ...]:
    """Every layer keeps a key and a value for each of its key and value heads."""
    return tuple(
        LayerCache(layer, heads * shape.key_length, heads * shape.value_length, heads)
        for layer, heads in enumerate(shape.heads_kv)
        if heads
    )


def padded_cells(tokens: int) -> int:
    return math.ceil(tokens / CELLS_MULTIPLE) * CELLS_MULTIPLE


def cells_per_stream(configuration: Configuration) -> int:
    """Return the tokens that one attention sees: the whole context, or one slot's share of it."""
    if configuration.kv_unified:
        return padded_cells(configuration.ctx)
    return padded_cells(padded_cells(configuration.ctx) // configuration.slots)


def total_cells(configuration: Configuration) -> int:
    """Return the tokens that the cache has room for, over all slots."""
    streams = 1 if configuration.kv_unified else configuration.slots
    return cells_per_stream(configuration) * streams


def cache_bytes(caches: Sequence[LayerCache], configuration: Configuration) -> dict[int, int]:
    """Return layer -> bytes of its cache.

    Raises UsageError for a cache type that llama.cpp has no cache of or without flash attention
    where it needs it, UnsupportedError where its blocks do not fill a head.
    """
    check_configuration(configuration)
    cells = total_cells(configuration)
    # Without flash attention values are stored transposed, as wide as the widest layer's.
    widest = 0 if configuration.flash_attention else max((c.value_width for c in caches), default=0)
    sizes, known = {}, dict[tuple[int, int, int], int]()  # most models have one kind of layer
    for cache in caches:
        kind = (cache.key_width, cache.value_width, cache.heads)
        if kind not in known:
            known[kind] = cells * _token_bytes(cache, configuration.kv_type, widest)
        sizes[cache.layer] = known[kind]
    return sizes


def _token_bytes(cache: LayerCache, type_name: str, widest_value: int) -> int:
    kv_type = TYPES[type_name]
    for width in (cache.key_width, cache.value_width):
        if width // cache.heads % kv_type.block_weights:
            raise UnsupportedError(
                f"a {type_name} cache stores blocks of {kv_type.block_weights}; "
                f"heads of {width // cache.heads} do not fill them. Use --kv f16."
            )
    value_width = max(cache.value_width, widest_value)
    return kv_type.row_bytes(cache.key_width) + kv_type.row_bytes(value_width)


def check_configuration(configuration: Configuration) -> None:
    """Raise UsageError for what llama.cpp would refuse, whatever the model."""
    for what, number in (
        ("context", configuration.ctx),
        ("slots", configuration.slots),
        ("ubatch", configuration.ubatch),
    ):
        if number < 1:
            raise UsageError(f"{what} is {number}. Give at least 1.")
    name = configuration.kv_type
    if name not in KV_TYPES:
        known = ", ".join(kv_type.lower() for kv_type in KV_TYPES)
        raise UsageError(f"'{name}' is not a type of KV cache. Known: {known}.")
    if TYPES[name].is_quantized and not configuration.flash_attention:
        raise UsageError(
            f"a {name} cache needs flash attention. Use --flash-attention on, or --kv f16."
        )
