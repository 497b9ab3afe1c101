"""Granite 3: Llama with four factors, dense and with experts."""

from __future__ import annotations

from typing import Any

from snugfit.archs.conversion.arrange import first_half_of_rows, second_half_of_rows
from snugfit.archs.conversion.config import Config
from snugfit.archs.conversion.llama import INTERLEAVED
from snugfit.archs.conversion.metadata import gated_metadata, rope_divisors, routed_metadata
from snugfit.archs.conversion.rules import ConversionRow, Part, Rule

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
    Rule(
        LAYER + r"\.shared_mlp\.input_linear\.weight",
        (
            Part(r"blk.\2.ffn_gate_shexp.weight", first_half_of_rows),
            Part(r"blk.\2.ffn_up_shexp.weight", second_half_of_rows),
        ),
    ),
)

GRANITE = ConversionRow("granite", granite_metadata, INTERLEAVED, rope_divisors)
GRANITE_MOE = ConversionRow(
    "granitemoe", granite_moe_metadata, INTERLEAVED + SPLIT_EXPERTS, rope_divisors
)
