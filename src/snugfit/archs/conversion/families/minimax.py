"""MiniMax M2: experts chosen by a biased sigmoid, rotation of half a head."""

from __future__ import annotations

from typing import Any

from snugfit.archs.conversion.config import Config
from snugfit.archs.conversion.families.qwen import FUSED_EXPERTS
from snugfit.archs.conversion.metadata import gated_metadata, require, routed_metadata, without
from snugfit.archs.conversion.rules import ConversionRow, Part, Rule

SIGMOID = 2  # of llama.cpp's gating functions


def minimax_metadata(config: Config) -> dict[str, Any]:
    require(config, "scoring_func", "sigmoid")
    require(config, "use_qk_norm", True)
    require(config, "qk_norm_type", "per_layer")
    require(config, "shared_intermediate_size", 0)
    share = config.rope_numbers.number("partial_rotary_factor", 1.0)
    rotated = int(config.number("rotary_dim", share * config.head_size))
    return (
        without(gated_metadata(config), "vocab_size")
        | routed_metadata(config)
        | {
            "expert_feed_forward_length": int(config.number("intermediate_size")),
            "expert_gating_func": SIGMOID,
            "rope.dimension_count": rotated,
        }
    )


BIAS = Rule(
    r"model\.layers\.(\d+)\.(?:block_sparse_moe|mlp)\.e_score_correction_bias",
    (Part(r"blk.\1.exp_probs_b.bias"),),
)

MINIMAX_M2 = ConversionRow("minimax-m2", minimax_metadata, (*FUSED_EXPERTS, BIAS))
