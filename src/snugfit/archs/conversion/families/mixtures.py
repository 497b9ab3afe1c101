"""dots.1 and ERNIE 4.5: grouped-query attention and many small experts."""

from __future__ import annotations

from typing import Any

from snugfit.archs.conversion.config import Config
from snugfit.archs.conversion.families.deepseek import (
    BIAS_OF_CHOICE,
    kind_of_layer,
    leading_dense,
    routing_metadata,
)
from snugfit.archs.conversion.families.qwen import FUSED_EXPERTS
from snugfit.archs.conversion.metadata import (
    check_fixed,
    gated_metadata,
    require,
    without,
)
from snugfit.archs.conversion.rules import ConversionRow, Part, Rule
from snugfit.errors import UnsupportedError

NOT_WRITTEN = ("vocab_size", "rope.dimension_count")


def _dots1(config: Config) -> dict[str, Any]:
    """llama.cpp knows this one with as many key heads as query heads, and without windows."""
    fixed = {"attention_bias": False, "num_key_value_heads": config.heads}
    check_fixed(config, fixed | {"tie_word_embeddings": False})
    if "sliding_attention" in config.names("layer_types"):
        raise UnsupportedError(
            f"{config.folder}/config.json: some layers have windows; llama.cpp runs this "
            "architecture with full attention only."
        )
    require(config, "scoring_func", "noaux_tc", "sigmoid")
    keys = without(gated_metadata(config), *NOT_WRITTEN)
    routing = routing_metadata(_without_scores(config), "sigmoid")
    return keys | {"expert_weights_norm": False} | routing | leading_dense(config)


def _without_scores(config: Config) -> Config:
    return Config(config.folder, {**config.raw, "scoring_func": None})


def _ernie(config: Config) -> dict[str, Any]:
    check_fixed(config, {"use_bias": False, "moe_layer_interval": 1})
    require(config, "moe_layer_end_index", -1, config.layers - 1)
    used, shared = int(config.number("moe_k")), int(config.number("moe_num_shared_experts", 0))
    asked = {"num_experts_per_tok": used, "n_shared_experts": shared}
    routing = routing_metadata(Config(config.folder, {**config.raw, **asked}), "softmax")
    beyond = ("expert_weights_scale", "expert_gating_func", "expert_weights_norm")
    keys = {
        "interleave_moe_layer_step": 1,
        "leading_dense_block_count": int(config.number("moe_layer_start_index")),
        "expert_shared_feed_forward_length": shared * routing["expert_feed_forward_length"],
    }
    return without(gated_metadata(config), *NOT_WRITTEN) | without(routing, *beyond) | keys


def _kind_of_ernie(config: Config, layer: int) -> bool:
    return bool(layer < config.number("moe_layer_start_index"))


DOTS1 = ConversionRow("dots1", _dots1, (BIAS_OF_CHOICE, *FUSED_EXPERTS), layer_kind=kind_of_layer)
ERNIE_MOE = ConversionRow(
    "ernie4_5-moe",
    _ernie,
    (
        Rule(
            r"model\.layers\.(\d+)\.mlp\.(?:gate\.)?moe_statics\.e_score_correction_bias",
            (Part(r"blk.\1.exp_probs_b.bias"),),
        ),
        Rule(r"model\.mtp_.+"),  # what only drafts tokens
        *FUSED_EXPERTS,
    ),
    layer_kind=_kind_of_ernie,
    tied_by_default=True,
)
