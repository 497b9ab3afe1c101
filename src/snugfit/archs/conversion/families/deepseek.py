"""DeepSeek V2, V3 and R1, and what is built like them: latent attention, many small experts."""

from __future__ import annotations

from typing import Any

from snugfit.archs.conversion.config import Config
from snugfit.archs.conversion.families.qwen import FUSED_EXPERTS
from snugfit.archs.conversion.metadata import attention_metadata, check_fixed, routed_metadata
from snugfit.archs.conversion.rules import Array, ConversionRow, Part, Rule
from snugfit.errors import FormatError, UnsupportedError

# llama.cpp's numbers for what turns a router's outputs into scores.
GATING = {"softmax": 1, "sigmoid": 2, "sqrtsoftplus": 4}
# What llama.cpp has built in (src/models/deepseek2.cpp).
FIXED = {"hidden_act": "silu", "attention_bias": False, "rope_interleave": True}
# Layers and vocabularies of models that llama.cpp takes to have no low-rank queries, key or not.
WITHOUT_QUERY_RANK = ({26, 27}, (48, 128256))

BIAS_OF_CHOICE = Rule(r"(.+)\.e_score_correction_bias", (Part(r"\1.e_score_correction.bias"),))


def latent_keys(values: Array, config: Config) -> Array:
    """Return what queries are multiplied by to meet latent keys: [heads, rank, size], a view."""
    return _by_head(values, config)[:, : int(config.number("qk_nope_head_dim"))].swapaxes(1, 2)


def latent_values(values: Array, config: Config) -> Array:
    return _by_head(values, config)[:, int(config.number("qk_nope_head_dim")) :]


def _by_head(values: Array, config: Config) -> Array:
    size = int(config.number("qk_nope_head_dim")) + int(config.number("v_head_dim"))
    return values.reshape(config.heads, size, values.shape[-1])


LATENT = (
    Rule(
        r"(.+\.self_attn)\.kv_b_proj\.weight",
        (
            Part(r"\1.k_b_proj.weight", latent_keys, dimensions=3),
            Part(r"\1.v_b_proj.weight", latent_values, dimensions=3),
        ),
    ),
    BIAS_OF_CHOICE,
    *FUSED_EXPERTS,
)


def latent_metadata(config: Config) -> dict[str, Any]:
    """Keys of latent attention: keys of one head, shared by all, that values are read out of."""
    check_fixed(config, FIXED)
    rank, rotated = int(config.number("kv_lora_rank")), int(config.number("qk_rope_head_dim"))
    keys = attention_metadata(config) | {
        "attention.head_count_kv": 1,
        "attention.kv_lora_rank": rank,
        "attention.key_length": rank + rotated,
        "attention.value_length": rank,
        "attention.key_length_mla": int(config.number("qk_nope_head_dim")) + rotated,
        "attention.value_length_mla": int(config.number("v_head_dim")),
        "rope.dimension_count": rotated,
    }
    return keys | _query_rank(config) | _yarn(config)


def _query_rank(config: Config) -> dict[str, int]:
    rank = int(config.number("q_lora_rank", 0))
    few, (layers, vocabulary) = WITHOUT_QUERY_RANK
    has_none = config.layers in few or (config.layers, config.vocabulary) == (layers, vocabulary)
    if has_none and rank:
        raise UnsupportedError(
            f"{config.folder}/config.json: q_lora_rank is {rank}; llama.cpp takes models of "
            f"{config.layers} layers for DeepSeek V2 Lite, which has none."
        )
    # Where llama.cpp expects a rank, 0 says that there is none.
    return {} if has_none else {"attention.q_lora_rank": rank}


def _yarn(config: Config) -> dict[str, float]:
    """llama.cpp scales attention by the square of what `mscale_all_dim` says, and nothing else.

    The factor 0.1 is llama.cpp's, for files older than its own use of the key.
    """
    rope, numbers = config.rope, config.rope_numbers
    every = rope.get("mscale_all_dim")
    agree = every and rope.get("mscale", every) == every and not rope.get("attention_factor")
    if rope["rope_type"] == "yarn" and not agree:
        raise UnsupportedError(
            f"{config.folder}/config.json: YaRN with mscale {rope.get('mscale')!r} and "
            f"mscale_all_dim {every!r}; llama.cpp runs latent attention only where they agree."
        )
    return (
        {"rope.scaling.yarn_log_multiplier": 0.1 * numbers.number("mscale_all_dim")}
        if every
        else {}
    )


def routing_metadata(config: Config, scores: str) -> dict[str, Any]:
    """Keys of experts, some shared by all tokens; `scores` where the config does not say."""
    check_fixed(config, {"moe_layer_freq": 1})
    scores = config.raw.get("scoring_func") or scores
    if not isinstance(scores, str) or scores not in GATING:
        raise UnsupportedError(
            f"{config.folder}/config.json: scoring_func is {scores!r}; llama.cpp has "
            f"{', '.join(GATING)}."
        )
    keys: dict[str, Any] = routed_metadata(config) | {
        "expert_feed_forward_length": int(config.number("moe_intermediate_size")),
        "expert_shared_count": int(config.number("n_shared_experts", 0)),
        "expert_weights_scale": float(config.number("routed_scaling_factor", 1.0)),
        "expert_gating_func": GATING[scores],
    }
    if config.flag("norm_topk_prob"):
        keys["expert_weights_norm"] = True
    return keys | _groups(config)


def _groups(config: Config) -> dict[str, int]:
    groups, used = int(config.number("n_group", 0)), int(config.number("topk_group", 0))
    if not groups:
        return {}
    if config.experts % groups or not 0 < used <= groups:
        raise FormatError(
            f"{config.folder}/config.json: {used} of {groups} groups of {config.experts} experts "
            "cannot be right. Download the model again."
        )
    return {"expert_group_count": groups, "expert_group_used_count": used}


def leading_dense(config: Config) -> dict[str, int]:
    """How many first layers have no experts: a number, or transformers 5's list of kinds."""
    kinds = config.names("mlp_layer_types")
    if not kinds:
        return {"leading_dense_block_count": int(config.number("first_k_dense_replace", 0))}
    dense = kinds.index("sparse") if "sparse" in kinds else len(kinds)
    if "dense" in kinds[dense:]:
        raise UnsupportedError(
            f"{config.folder}/config.json: layers with and without experts alternate; llama.cpp "
            "runs this architecture with dense layers first."
        )
    return {"leading_dense_block_count": dense}


def kind_of_layer(config: Config, layer: int) -> bool:
    return layer < leading_dense(config)["leading_dense_block_count"]


def _deepseek2(config: Config) -> dict[str, Any]:
    if config.number("n_group", 1) > 1 and config.raw.get("topk_method") != "greedy":
        raise UnsupportedError(
            f"{config.folder}/config.json: experts are chosen by groups, and by the best of each; "
            "llama.cpp goes by the two best of each, as DeepSeek V3 does."
        )
    routing = routing_metadata(config, "softmax")
    return latent_metadata(config) | routing | leading_dense(config)


def _deepseek3(config: Config) -> dict[str, Any]:
    check_fixed(config, {"topk_method": "noaux_tc"})
    return latent_metadata(config) | routing_metadata(config, "sigmoid") | leading_dense(config)


DEEPSEEK_V2 = ConversionRow("deepseek2", _deepseek2, LATENT, layer_kind=kind_of_layer)
DEEPSEEK_V3 = ConversionRow("deepseek2", _deepseek3, LATENT, layer_kind=kind_of_layer)
