"""Gemma 3n: several streams of hidden states, inputs of their own for each layer, shared caches."""

from __future__ import annotations

from collections.abc import Hashable
from statistics import NormalDist
from typing import Any

import numpy as np

from snugfit.archs.conversion.config import Config
from snugfit.archs.conversion.families.gemma import (
    TANH,
    TOWERS,
    rope_metadata,
    shape_metadata,
    vocabulary,
    windows,
)
from snugfit.archs.conversion.rules import Array, ConversionRow, Part, Rule, Stack
from snugfit.errors import UnsupportedError

# llama.cpp has these as constants, and reads no key for them.
OWN_CACHES, SPARSE_LAYERS, SPARSITY = 20, 10, 0.95


def gemma3n_metadata(config: Config) -> dict[str, Any]:
    config.require(
        hidden_activation=(TANH,),
        final_logit_softcapping=(30.0,),
        altup_num_inputs=(4,),
        altup_active_idx=(0,),
        altup_correct_scale=(True,),
        laurel_rank=(64,),
        hidden_size_per_layer_input=(256,),
    )
    flags = windows(config, "gemma3n")
    shared = int(config.number("num_kv_shared_layers"))
    if config.layers - shared != OWN_CACHES or not flags[OWN_CACHES - 2] or flags[OWN_CACHES - 1]:
        raise UnsupportedError(
            f"{config.folder}/config.json: llama.cpp runs gemma3n where {OWN_CACHES} layers have "
            "caches, the last for the whole context and the one before for a window, only."
        )
    wide = config.each_layer("intermediate_size")
    return (
        shape_metadata(config)
        | rope_metadata(config)
        | {
            "feed_forward_length": wide,
            "attention.sliding_window": int(config.number("sliding_window")),
            "attention.sliding_window_pattern": flags,
            "attention.shared_kv_layers": shared,
            "embedding_length_per_layer_input": int(config.number("hidden_size_per_layer_input")),
            "altup.active_idx": int(config.number("altup_active_idx")),
            "altup.num_inputs": int(config.number("altup_num_inputs")),
            "activation_sparsity_scale": _sparsity_scales(config),
            "final_logit_softcapping": float(config.number("final_logit_softcapping")),
        }
    )


def _sparsity_scales(config: Config) -> Array:
    """Return how many standard deviations above the mean a gate must be, for each layer."""
    assumed = [SPARSITY] * SPARSE_LAYERS + [0.0] * (config.layers - SPARSE_LAYERS)
    if (config.raw.get("activation_sparsity_pattern") or assumed) != assumed:
        raise UnsupportedError(
            f"{config.folder}/config.json: activation_sparsity_pattern is unusual; llama.cpp runs "
            f"gemma3n with {SPARSITY} in the first {SPARSE_LAYERS} layers and 0 in others only."
        )
    scale = NormalDist().inv_cdf(SPARSITY)
    return np.array([scale if one else -np.inf for one in assumed], np.float32)


def unused_caches(config: Config) -> dict[str, Array]:
    """Matrices that llama.cpp loads and never uses; folders that transformers 5 saved lack them."""
    rows, found = config.key_value_heads * config.head_size, {}
    for layer in range(OWN_CACHES, config.layers):
        for role in ("attn_k", "attn_v"):
            found[f"blk.{layer}.{role}.weight"] = np.broadcast_to(
                np.float32(0), (rows, config.hidden_size)
            )
        found[f"blk.{layer}.attn_k_norm.weight"] = np.zeros(config.head_size, np.float32)
    return found


def kind_of_layer(config: Config, layer: int) -> Hashable:
    return layer >= config.layers - int(config.number("num_kv_shared_layers"))


GEMMA3N = ConversionRow(
    "gemma3n",
    gemma3n_metadata,
    (
        TOWERS,
        # Tokens for pictures and sound come last, and have no inputs of layers.
        Rule(r"model\.embed_tokens_per_layer\.weight", (Part(rows=vocabulary),)),
        Rule(r"(.+\.correct_output_scale)", (Part(r"\1.weight"),)),
    ),
    unused_caches,
    kind_of_layer,
    stacks=(Stack(r"(model\.altup(?:_unembed)?_projections)\.(\d+)(\.weight)", lambda _: 3),),
    tied_by_default=True,
)
