"""What each layer of a model keeps: one function a kind of attention, window and state.

The rules are llama.cpp's (llama-hparams.cpp, llama-model.cpp and its classes of memory, release
b11549); tests compare every kind with what the engine itself would allocate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from snugfit.archs.metadata import LONGEST, MOST_HEADS, MOST_LAYERS, WIDEST, Metadata
from snugfit.core import LayerCache, LayerState

# DeepSeek V4 compresses so many tokens into one, by the layer's ratio; the first kind is indexed.
INDEXED_RATIO, COARSE_RATIO = 4, 128


@dataclass(frozen=True)
class Shape:
    """What the rules read off a model. Tuples have one entry a layer; lengths are in elements."""

    metadata: Metadata
    layers: int
    trunk: int  # layers without the last ones, which only draft tokens (MTP)
    hidden_size: int
    heads: tuple[int, ...]
    heads_kv: tuple[int, ...]
    key_length: int
    value_length: int
    window: int = 0
    windowed: tuple[bool, ...] = ()

    def window_of(self, layer: int) -> int:
        return self.window if self.windowed and self.windowed[layer] else 0

    def length(self, key: str, default: int | None = None, lowest: int = 0) -> int:
        return self.metadata.whole(key, lowest, WIDEST, default=default)


AttentionRule = Callable[[Shape, int], tuple[LayerCache, ...]]  # shape, layer -> its caches
StateRule = Callable[[Shape, int], int]  # shape, layer -> numbers that a sequence keeps
RecurrentRule = Callable[[Shape], tuple[bool, ...]]  # which layers have a state


# Attention


def grouped_query(shape: Shape, layer: int) -> tuple[LayerCache, ...]:
    """A key and a value for each key and value head; layers with windows may have other sizes."""
    heads = shape.heads_kv[layer]
    if not heads:
        return ()
    key, value, window = shape.key_length, shape.value_length, shape.window_of(layer)
    if window:
        key = shape.length("attention.key_length_swa", key)
        value = shape.length("attention.value_length_swa", value)
    return (LayerCache(layer, heads * key, heads * value, heads, window),)


def grouped_or_empty(shape: Shape, layer: int) -> tuple[LayerCache, ...]:
    """The same, but llama.cpp gives a layer without heads an empty cache, which padding fills."""
    return grouped_query(shape, layer) or (LayerCache(layer, 0, 0),)


def latent(shape: Shape, layer: int) -> tuple[LayerCache, ...]:
    """One compressed key that values are read out of; older files keep plain keys and values."""
    caches = grouped_query(shape, layer)
    if not shape.length("attention.key_length_mla", 0):
        return caches
    return tuple(replace(cache, value_width=0) for cache in caches)


def indexed_latent(shape: Shape, layer: int) -> tuple[LayerCache, ...]:
    """Latent attention that an indexer aims: layers with an index of their own keep its keys."""
    types = shape.metadata.each_layer_flag("attention.indexer.types", shape.trunk)
    if types and not types[layer]:
        return latent(shape, layer)
    index = shape.length("attention.indexer.key_length", lowest=1)
    return (*latent(shape, layer), LayerCache(layer, index, 0, is_index=True))


def indexed_query(shape: Shape, layer: int) -> tuple[LayerCache, ...]:
    """MiniMax M3: plain keys and values, and after the first dense layers an index of both."""
    caches = grouped_query(shape, layer)
    if layer < shape.metadata.whole("leading_dense_block_count", 0, MOST_LAYERS, default=0):
        return caches
    index = shape.length("attention.indexer.key_length", lowest=1)
    return (*caches, LayerCache(layer, index, shape.value_length, is_index=True))


def compressed(shape: Shape, layer: int) -> tuple[LayerCache, ...]:
    """DeepSeek V4: a window of plain keys, and keys of compressed tokens, some with an index."""
    key = shape.key_length * shape.heads_kv[layer]
    caches = [LayerCache(layer, key, 0, window=shape.window, is_per_slot=True)]
    ratio = _compression(shape)[layer]
    if ratio in (INDEXED_RATIO, COARSE_RATIO):
        caches.append(LayerCache(layer, key, 0, tokens_per_cell=ratio, is_per_slot=True))
    if ratio == INDEXED_RATIO:
        index = shape.length("attention.indexer.key_length", lowest=1)
        caches.append(
            LayerCache(layer, index, 0, tokens_per_cell=ratio, is_per_slot=True, is_index=True)
        )
    return tuple(caches)


def _compression(shape: Shape) -> tuple[int, ...]:
    return shape.metadata.each_layer("attention.compress_ratios", shape.layers, 0, LONGEST)


# Windows


@dataclass(frozen=True)
class Windows:
    """Which layers see only the latest tokens, where a file's own pattern does not say.

    Of every `period` layers the last sees everything, or the first if `full_first`; a period of 0
    gives each layer a window. `size` stands in for a missing one; without both there is none.
    """

    period: int = 0
    full_first: bool = False
    size: int = 0
    is_fixed: bool = False  # llama.cpp overrules the size that a file has, unless that is 0
    only_of_layers: int = 0  # models of another depth have no windows

    def of(self, metadata: Metadata, layers: int, trunk: int) -> tuple[int, tuple[bool, ...]]:
        """Return the window, and whether each layer has it."""
        size = metadata.whole("attention.sliding_window", 0, LONGEST, default=self.size)
        if not size or self.only_of_layers not in (0, trunk):
            return 0, ()
        key = "attention.sliding_window_pattern"
        flags = metadata.each_layer_flag(key, layers)
        if flags is None:
            period = metadata.whole(key, 0, MOST_LAYERS, default=self.period)
            full = 0 if self.full_first else period - 1
            flags = tuple(
                layer < trunk and (period == 0 or layer % period != full) for layer in range(layers)
            )
        return self.size if self.is_fixed else size, flags


# States: which layers have one


def without_key_heads(shape: Shape) -> tuple[bool, ...]:
    """Layers without key heads; those with a feed-forward part instead have no state either."""
    wide = shape.metadata.each_layer("feed_forward_length", shape.layers, 0, WIDEST, default=0)
    mixed = len(set(wide)) > 1 and 0 in wide  # one kind of block a layer
    return tuple(
        layer < shape.trunk and not heads and not (mixed and wide[layer])
        for layer, heads in enumerate(shape.heads_kv)
    )


def between_full_attention(interval: int) -> RecurrentRule:
    """All layers but every `interval`th, or what the file says instead."""

    def rule(shape: Shape) -> tuple[bool, ...]:
        flags = shape.metadata.each_layer_flag("attention.recurrent_layers", shape.layers)
        every = shape.metadata.whole("full_attention_interval", 1, MOST_LAYERS, default=interval)
        return flags or tuple(
            layer < shape.trunk and (layer + 1) % every != 0 for layer in range(shape.layers)
        )

    return rule


def every_layer(shape: Shape) -> tuple[bool, ...]:
    return tuple(layer < shape.trunk for layer in range(shape.layers))


# States: how large


def mamba(shape: Shape, _: int) -> int:
    """The last inputs of a convolution, and a vector of state for each of its channels."""
    inner, state = shape.length("ssm.inner_size", lowest=1), shape.length("ssm.state_size")
    return (shape.length("ssm.conv_kernel", lowest=1) - 1) * inner + state * inner


def mamba2(shape: Shape, layer: int) -> int:
    """Of Mamba 2 and of the gated delta rule: keys and queries of each group are convolved too."""
    groups, state = shape.length("ssm.group_count"), shape.length("ssm.state_size")
    kernel = shape.length("ssm.conv_kernel", lowest=1)
    return mamba(shape, layer) + (kernel - 1) * 2 * groups * state


def delta_attention(shape: Shape, _: int) -> int:
    """Kimi's delta attention: a square state a head; queries, keys and values are convolved."""
    size, heads = shape.length("kda.head_dim", lowest=1), shape.heads[0]
    kernel = shape.length("ssm.conv_kernel", lowest=1)
    return 3 * (kernel - 1) * heads * size + size * size * heads


def short_convolution(shape: Shape, _: int) -> int:
    """LFM2's: the last inputs of a convolution over the hidden state."""
    return shape.hidden_size * (shape.length("shortconv.l_cache", lowest=1) - 1)


def lightning(shape: Shape, _: int) -> int:
    """MiniMax-Text-01's linear attention: a square state a head."""
    return shape.key_length**2 * shape.heads[0]


def compressors(shape: Shape, layer: int) -> int:
    """DeepSeek V4's: the tokens that wait to be compressed, and their scores, per compressor."""
    ratio = _compression(shape)[layer]
    if ratio == COARSE_RATIO:
        return 2 * ratio * shape.key_length
    if ratio == INDEXED_RATIO:
        index = shape.length("attention.indexer.key_length", lowest=1)
        return 2 * (2 * ratio) * 2 * (shape.key_length + index)
    return 0


def states_of(
    shape: Shape, rule: StateRule, recurrent: RecurrentRule, *, can_roll_back: bool
) -> tuple[LayerState, ...]:
    """Return the state of every layer that has one."""
    return tuple(
        LayerState(layer, numbers, can_roll_back)
        for layer, has_state in enumerate(recurrent(shape))
        if has_state and (numbers := rule(shape, layer))
    )


def shape_of(metadata: Metadata, layers: int, windows: Windows | None, lowest_heads: int) -> Shape:
    """Read what the rules need. `lowest_heads` is 0 where layers may go without attention."""
    trunk = layers - metadata.whole("nextn_predict_layers", 0, layers - 1, default=0)
    heads = metadata.each_layer("attention.head_count", layers, lowest_heads, MOST_HEADS)
    heads_kv = metadata.each_layer(
        "attention.head_count_kv", layers, lowest_heads, MOST_HEADS, default=heads
    )
    hidden = metadata.whole("embedding_length", 1, WIDEST)
    # llama.cpp takes a model whose first layer has no heads for one without attention.
    size = hidden // heads[0] if heads[0] else 0
    key_length, value_length = (
        metadata.whole(f"attention.{which}_length", 1, WIDEST, default=size) if size else 0
        for which in ("key", "value")
    )
    window, windowed = windows.of(metadata, layers, trunk) if windows else (0, ())
    return Shape(
        metadata, layers, trunk, hidden, heads, heads_kv, key_length, value_length, window, windowed
    )
