"""How many bytes caches and states take for their context, equal to llama.cpp's.

Rules and rounding are those of llama.cpp's llama_kv_cache and llama_memory_recurrent; tests compare
with what it allocates. What each layer keeps is in `attention`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import TypeAlias

from snugfit.core import Configuration, LayerCache, LayerState
from snugfit.errors import UnsupportedError, UsageError
from snugfit.quants.types import TYPES, QuantType

# llama.cpp's --cache-type-k and --cache-type-v.
KV_TYPES = ("F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL")
CELLS_MULTIPLE = 256  # llama.cpp rounds every number of cells up to it
# What caches of the same size have in common.
KIND = operator.attrgetter(
    "key_width", "value_width", "heads", "window", "tokens_per_cell", "is_per_slot", "is_index"
)
CacheGroups: TypeAlias = tuple[tuple[LayerCache, tuple[int, ...]], ...]
STATE_BYTES = 4  # a number of a state, whatever type the cache has


def padded_cells(tokens: int) -> int:
    return math.ceil(tokens / CELLS_MULTIPLE) * CELLS_MULTIPLE


def cells_per_stream(configuration: Configuration) -> int:
    """Return the tokens that one attention sees: the whole context, or one slot's share of it."""
    if configuration.kv_unified:
        return padded_cells(configuration.ctx)
    return padded_cells(padded_cells(configuration.ctx) // configuration.slots)


def total_cells(configuration: Configuration) -> int:
    """Return the tokens that a cache of the whole context has room for, over all slots."""
    streams = 1 if configuration.kv_unified else configuration.slots
    return cells_per_stream(configuration) * streams


def tokens_of_pass(configuration: Configuration) -> int:
    """Return the tokens that are computed at once."""
    return min(configuration.ubatch, configuration.ctx)


def cells_of(cache: LayerCache, configuration: Configuration) -> int:
    """Return the cells of one stream of this cache.

    A window needs room for the tokens it keeps, of every slot that shares the cache, and for those
    of the next pass.
    """
    context = cells_per_stream(configuration)
    if cache.window and not configuration.swa_full:
        shared = configuration.kv_unified and not cache.is_per_slot
        kept = cache.window * (configuration.slots if shared else 1)
        return padded_cells(min(context, kept + tokens_of_pass(configuration)))
    if cache.tokens_per_cell > 1:
        return padded_cells(math.ceil(context / cache.tokens_per_cell))
    return context


def cache_bytes(caches: Sequence[LayerCache], configuration: Configuration) -> dict[int, int]:
    """Return layer -> bytes of its caches. Raises as `group_bytes` does."""
    return layer_bytes(grouped(caches), configuration)


def layer_bytes(groups: CacheGroups, configuration: Configuration) -> dict[int, int]:
    """Return layer -> bytes of its caches, given in groups. Raises as `group_bytes` does."""
    sizes: dict[int, int] = {}
    for layers, size in group_bytes(groups, configuration):
        for layer in layers:
            sizes[layer] = sizes.get(layer, 0) + size
    return sizes


def grouped(caches: Sequence[LayerCache]) -> CacheGroups:
    """Return one cache of each kind, and the layers that have it: most models have a few kinds."""
    layers: dict[tuple[int, ...], list[int]] = {}
    kinds: dict[tuple[int, ...], LayerCache] = {}
    for cache in caches:
        kind = KIND(cache)
        kinds.setdefault(kind, cache)
        layers.setdefault(kind, []).append(cache.layer)
    return tuple((kinds[kind], tuple(layers[kind])) for kind in kinds)


def group_bytes(
    groups: CacheGroups, configuration: Configuration
) -> list[tuple[tuple[int, ...], int]]:
    """Return (layers, bytes that each of them takes) of every group.

    Raises UsageError for a cache type that llama.cpp has no cache of or without flash attention
    where it needs it, UnsupportedError where its blocks do not fill a head.
    """
    check_configuration(configuration)
    # Without flash attention values are stored transposed, as wide as the widest layer's.
    values = (0,) if configuration.flash_attention else (c.value_width for c, _ in groups)
    widest = max(values, default=0)
    return [(layers, _bytes_of(cache, configuration, widest)) for cache, layers in groups]


def state_bytes(states: Sequence[LayerState], configuration: Configuration) -> dict[int, int]:
    """Return layer -> bytes of its recurrent state, of all slots, with what they can take back."""
    planes = configuration.slots * (1 + configuration.rollback)
    return {
        state.layer: state.numbers
        * STATE_BYTES
        * (planes if state.can_roll_back else configuration.slots)
        for state in states
    }


def value_type(configuration: Configuration) -> str:
    return configuration.value_type or configuration.kv_type


def check_configuration(configuration: Configuration) -> None:
    """Raise UsageError for what llama.cpp would refuse, whatever the model."""
    for what, number, lowest in (
        ("context", configuration.ctx, 1),
        ("slots", configuration.slots, 1),
        ("ubatch", configuration.ubatch, 1),
        ("rollback", configuration.rollback, 0),
    ):
        if number < lowest:
            raise UsageError(f"{what} is {number}. Give at least {lowest}.")
    for name in (configuration.kv_type, value_type(configuration)):
        if name not in KV_TYPES:
            known = ", ".join(kv_type.lower() for kv_type in KV_TYPES)
            raise UsageError(f"'{name}' is not a type of KV cache. Known: {known}.")
    name = value_type(configuration)
    if TYPES[name].is_quantized and not configuration.flash_attention:
        raise UsageError(
            f"a {name} cache needs flash attention. Use --flash-attention on, or --kv f16."
        )


def _bytes_of(cache: LayerCache, configuration: Configuration, widest_value: int) -> int:
    key_type, type_of_values = TYPES[configuration.kv_type], TYPES[value_type(configuration)]
    cell = _row_bytes(cache.key_width, cache.heads, key_type)
    if cache.value_width or not cache.key_width:  # neither: a layer without heads
        _row_bytes(cache.value_width, cache.heads, type_of_values)
        padded = 0 if cache.is_index else widest_value
        cell += type_of_values.row_bytes(max(cache.value_width, padded))
    is_shared = configuration.kv_unified and not cache.is_per_slot
    return cell * cells_of(cache, configuration) * (1 if is_shared else configuration.slots)


def _row_bytes(width: int, heads: int, kv_type: QuantType) -> int:
    if width // heads % kv_type.block_weights:
        raise UnsupportedError(
            f"a {kv_type.name} cache stores blocks of {kv_type.block_weights}; "
            f"heads of {width // heads} do not fill them. Use --kv f16."
        )
    return kv_type.row_bytes(width)
