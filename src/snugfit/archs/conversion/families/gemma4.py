"""Gemma 4: two sizes of heads, inputs of their own for each layer, caches shared by layers."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from snugfit.archs.conversion.config import Config
from snugfit.archs.conversion.families.gemma import (
    FULL,
    TANH,
    TOWERS,
    shape_metadata,
    sliding_rope,
    vocabulary,
    windows,
)
from snugfit.archs.conversion.rules import Array, ConversionRow, Part, Rule
from snugfit.errors import FormatError, UnsupportedError

KNOWN = {"head_dim", "num_key_value_heads"}  # of per_layer_config
LARGEST_HEAD = 2**16
UNTURNED = 1e30  # a divisor that leaves a pair of values as it is
# transformers' default of layers that see everything.
ROPE = {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0}


def gemma4_metadata(config: Config) -> dict[str, Any]:
    config.require(hidden_activation=(TANH,), use_bidirectional_attention=(None, False, "vision"))
    flags = windows(config, "gemma4")
    shared = _shared_layers(config, flags)
    size = full_head_size(config)
    rope, sliding = full_rope(config), sliding_rope(config)
    sliding.require(rope_type=("default",))
    keys = {
        "feed_forward_length": _feed_forward_length(config, shared),
        "attention.head_count_kv": _key_value_heads(config, flags),
        "attention.key_length": size,
        "attention.value_length": size,
        "attention.key_length_swa": config.head_size,
        "attention.value_length_swa": config.head_size,
        "attention.sliding_window": int(config.number("sliding_window")),
        "attention.sliding_window_pattern": flags,
        "attention.shared_kv_layers": shared,
        "rope.freq_base": float(rope.number("rope_theta")),
        "rope.freq_base_swa": float(sliding.number("rope_theta")),
        "rope.dimension_count": size,
        "rope.dimension_count_swa": config.head_size,
        "embedding_length_per_layer_input": int(config.number("hidden_size_per_layer_input", 0)),
        # Without the key, llama.cpp caps at 30.
        "final_logit_softcapping": float(config.number("final_logit_softcapping", 0.0)),
    }
    return shape_metadata(config) | keys | _experts(config)


def _shared_layers(config: Config, flags: list[bool]) -> int:
    """Return how many last layers read caches of others, which llama.cpp finds by their place."""
    shared = int(config.number("num_kv_shared_layers"))
    first = config.layers - shared
    if shared and (first < 2 or flags[first - 1] or not flags[first - 2]):
        raise UnsupportedError(
            f"{config.folder}/config.json: num_kv_shared_layers is {shared}; llama.cpp needs the "
            "last layer with a cache to see the whole context, and the one before it a window."
        )
    return shared


def _feed_forward_length(config: Config, shared: int) -> int | list[int]:
    length = int(config.number("intermediate_size"))
    if not config.flag("use_double_wide_mlp"):
        return length
    return [length] * (config.layers - shared) + [2 * length] * shared


def full_head_size(config: Config) -> int:
    return int(_of_full_layers(config, "head_dim") or config.number("global_head_dim", 512))


def _key_value_heads(config: Config, flags: list[bool]) -> int | list[int]:
    heads = _of_full_layers(config, "num_key_value_heads")
    if heads is None and config.flag("attention_k_eq_v"):
        heads = int(config.number("num_global_key_value_heads", 0)) or None
    if heads is None:
        return config.key_value_heads
    return [config.key_value_heads if is_window else heads for is_window in flags]


def _of_full_layers(config: Config, key: str) -> int | None:
    """Return a number that transformers 5 stores for each layer that sees everything."""
    by_layer = config.raw.get("per_layer_config")
    if not isinstance(by_layer, Mapping):
        return None
    full = {str(n) for n, is_window in enumerate(windows(config, "gemma4")) if not is_window}
    alike = len({json.dumps(one, sort_keys=True) for one in by_layer.values()}) == 1
    own = next(iter(by_layer.values()), None)
    if not isinstance(own, Mapping) or not alike or by_layer.keys() != full or own.keys() - KNOWN:
        raise UnsupportedError(
            f"{config.folder}/config.json: per_layer_config is unusual; llama.cpp runs gemma4 with "
            "two kinds of layers, whose heads differ in size and number."
        )
    return int(Config(config.folder, own).number(key)) if key in own else None


def full_rope(config: Config) -> Config:
    """Return the rope of layers that see everything: only some of the pairs of a head turn."""
    found = config.raw.get("rope_parameters")
    given = found.get(FULL) if isinstance(found, Mapping) else None
    rope = Config(config.folder, given if isinstance(given, Mapping) else ROPE)
    rope.require(rope_type=("proportional",), factor=(None, 1))
    return rope


def rope_divisors(config: Config) -> dict[str, Array]:
    """Frequency divisors that keep pairs past `partial_rotary_factor` of a head as they are."""
    size = full_head_size(config)
    turned = int(size * min(1.0, full_rope(config).number("partial_rotary_factor", 1.0)) / 2)
    divisors = np.full(min(size, LARGEST_HEAD) // 2, UNTURNED, np.float32)
    divisors[:turned] = 1
    return {"rope_freqs.weight": divisors}


def _experts(config: Config) -> dict[str, Any]:
    if not config.flag("enable_moe_block"):
        return {}
    used = int(config.number("top_k_experts"))
    if not 0 < used <= config.experts:
        raise FormatError(
            f"{config.folder}/config.json: {used} of {config.experts} experts used cannot be right."
        )
    return {
        "expert_count": config.experts,
        "expert_used_count": used,
        "expert_feed_forward_length": int(config.number("moe_intermediate_size")),
    }


def kind_of_layer(config: Config, layer: int) -> Hashable:
    first = config.layers - int(config.number("num_kv_shared_layers"))
    return windows(config, "gemma4")[layer], layer >= first


LAYER = r"model\.layers\.(\d+)\."
RULES = (
    TOWERS,
    Rule(r"model\.embed_tokens_per_layer\.weight", (Part(rows=vocabulary),)),
    Rule(r"(.+\.layer_scalar)", (Part(r"\1.weight"),)),
    Rule(LAYER + r"router\.scale", (Part(r"blk.\1.ffn_gate_inp.scale"),)),
    Rule(LAYER + r"router\.per_expert_scale", (Part(r"blk.\1.ffn_down_exps.scale"),)),
    # Gate and up are one matrix, as stored; quantizers of others store each expert by itself.
    Rule(LAYER + r"experts\.(gate_up|down)_proj", (Part(r"blk.\1.ffn_\2_exps.weight"),)),
    Rule(LAYER + r"experts\.(gate|up|down)_proj\.weight", (Part(r"blk.\1.ffn_\2_exps.weight"),)),
)
GEMMA4 = ConversionRow(
    "gemma4", gemma4_metadata, RULES, rope_divisors, kind_of_layer, tied_by_default=True
)
