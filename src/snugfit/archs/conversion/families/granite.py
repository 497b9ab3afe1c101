"""Granite 3 and 4: Llama with four factors, with experts, and with Mamba 2 in most layers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from snugfit.archs.conversion.arrange import first_half_of_rows, second_half_of_rows
from snugfit.archs.conversion.config import Config
from snugfit.archs.conversion.families.llama import INTERLEAVED
from snugfit.archs.conversion.families.recurrent import (
    LONGEST_CONTEXT,
    STATE,
    refuse_other,
    state_metadata,
)
from snugfit.archs.conversion.metadata import (
    gated_metadata,
    require,
    rope_divisors,
    routed_metadata,
)
from snugfit.archs.conversion.rules import ConversionRow, Part, Rule
from snugfit.errors import FormatError

# Key in GGUF -> in config.json, where a missing one is 1.
FACTORS = {
    "attention.scale": "attention_multiplier",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
}


def granite_metadata(config: Config) -> dict[str, Any]:
    return gated_metadata(config) | {
        key: float(config.number(name, 1.0)) for key, name in FACTORS.items()
    }


def granite_moe_metadata(config: Config) -> dict[str, Any]:
    keys = granite_metadata(config) | routed_metadata(config)
    if shared := int(config.number("shared_intermediate_size", 0)):
        keys["expert_shared_feed_forward_length"] = shared
    return keys


def granite_hybrid_metadata(config: Config) -> dict[str, Any]:
    """Keys of Granite 4: attention in few layers; without experts, the shared one is all there is.

    Raises UnsupportedError for what llama.cpp runs otherwise.
    """
    keys = granite_moe_metadata(config) if config.experts else granite_metadata(config)
    if not config.experts:
        keys["feed_forward_length"] = int(config.number("shared_intermediate_size"))
    if is_hybrid(config):
        keys |= _state_metadata(config)
    position = config.raw.get("position_embedding_type")
    return keys | {"rope.scaling.finetuned": position == "rope"}  # whether to rotate at all


def _state_metadata(config: Config) -> dict[str, Any]:
    refuse_other(config)
    require(config, "mamba_proj_bias", False)
    require(config, "mamba_expand", 2)
    inner, heads = 2 * config.hidden_size, int(config.number("mamba_n_heads"))
    groups = int(config.number("mamba_n_groups", 1))
    key_value_heads = [
        0 if is_recurrent(config, layer) else config.key_value_heads
        for layer in range(config.layers)
    ]
    return state_metadata(config, inner, heads, groups, "mamba_d_") | {
        "attention.head_count_kv": np.array(key_value_heads, np.int32),
        "context_length": LONGEST_CONTEXT,
    }


def is_recurrent(config: Config, layer: int) -> bool:
    kinds = config.names("layer_types") or config.names("layers_block_type")
    if len(kinds) != config.layers:
        raise FormatError(
            f"{config.folder}/config.json: {len(kinds)} layer_types for {config.layers} layers. "
            "Download it again."
        )
    return kinds[layer] in ("mamba", "linear_attention")


def is_hybrid(config: Config) -> bool:
    return any(is_recurrent(config, layer) for layer in range(config.layers))


def granite_4(config: Config) -> ConversionRow:
    """Return the row of a Granite 4, which without Mamba layers is a Granite 3."""
    if is_hybrid(config):
        return GRANITE_HYBRID
    return replace(GRANITE_HYBRID, architecture="granitemoe" if config.experts else "granite")


def has_experts(config: Config) -> bool:
    return config.experts > 0


def lacks_experts(config: Config) -> bool:
    return config.experts == 0


# Gate and up are one matrix, of all experts [experts, 2 x rows, columns] or of the shared one.
LAYER = r"(model\.layers\.(\d+))"
SPLIT_EXPERTS = (
    Rule(
        LAYER + r"\.block_sparse_moe\.input_linear\.weight",
        (
            Part(r"blk.\2.ffn_gate_exps.weight", first_half_of_rows),
            Part(r"blk.\2.ffn_up_exps.weight", second_half_of_rows),
        ),
    ),
    *(
        Rule(
            LAYER + r"\.shared_mlp\.input_linear\.weight",
            (
                Part(rf"blk.\2.ffn_gate{ending}.weight", first_half_of_rows),
                Part(rf"blk.\2.ffn_up{ending}.weight", second_half_of_rows),
            ),
            applies,
        )
        for ending, applies in (("_shexp", has_experts), ("", lacks_experts))
    ),
    Rule(
        LAYER + r"\.shared_mlp\.output_linear\.weight",
        (Part(r"blk.\2.ffn_down.weight"),),
        lacks_experts,
    ),
)

GRANITE = ConversionRow("granite", granite_metadata, INTERLEAVED, rope_divisors)
GRANITE_MOE = ConversionRow(
    "granitemoe", granite_moe_metadata, INTERLEAVED + SPLIT_EXPERTS, rope_divisors
)
GRANITE_HYBRID = ConversionRow(
    "granitehybrid",
    granite_hybrid_metadata,
    INTERLEAVED + SPLIT_EXPERTS + STATE,
    rope_divisors,
    is_recurrent,
)
