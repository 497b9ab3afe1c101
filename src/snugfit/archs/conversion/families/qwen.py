"""Qwen 2 and 3, dense and with experts, and the language models of Qwen-VL."""

from __future__ import annotations

from typing import Any

from snugfit.archs.conversion.arrange import first_half_of_rows, first_row, second_half_of_rows
from snugfit.archs.conversion.config import Config
from snugfit.archs.conversion.metadata import (
    check_fixed,
    gated_metadata,
    require,
    rope_sections,
    routed_metadata,
    without,
)
from snugfit.archs.conversion.rules import (
    Arrangement,
    Array,
    ConversionRow,
    Part,
    Rule,
    unchanged,
)
from snugfit.errors import FormatError, UnsupportedError

# What llama.cpp computes with; a config that says otherwise is refused.
FIXED = {"attention_bias": False}
EXPERTS_EVERYWHERE = {"decoder_sparse_step": 1, "mlp_only_layers": []}
EXPERTS = r"(model\.layers\.\d+\.mlp\.experts)"
SHARED_EXPERT = (Rule(r".+\.shared_expert_gate\.weight", (Part(arrange=first_row),)),)
VISION_TOWER = (Rule(r"(?:model\.)?visual\..+"),)


def qwen_metadata(config: Config) -> dict[str, Any]:
    """Keys of a decoder whose layers all see the whole context; else UnsupportedError."""
    check_fixed(config, FIXED | {"partial_rotary_factor": 1})
    if has_windows(config):
        raise UnsupportedError(
            f"{config.folder}/config.json: use_sliding_window is on; llama.cpp runs this "
            "architecture with full attention only."
        )
    if config.head_size * config.heads != config.hidden_size and config.raw.get("head_dim") is None:
        raise FormatError(
            f"{config.folder}/config.json: {config.heads} heads do not divide the hidden size "
            f"{config.hidden_size}. Download it again."
        )
    return decoder_metadata(config)


def decoder_metadata(config: Config) -> dict[str, Any]:
    """Keys of any Qwen; the vocabulary and what is rotated follow from others."""
    require(config.rope_numbers, "truncate", True)  # llama.cpp rounds the bounds of yarn
    require(config.rope_numbers, "mscale", 0)
    return without(gated_metadata(config), "vocab_size", "rope.dimension_count")


def has_windows(config: Config) -> bool:
    """transformers cuts layers from `max_window_layers` on, or those that `layer_types` names."""
    if not config.flag("use_sliding_window") or not config.raw.get("sliding_window"):
        return False
    types = config.names("layer_types")
    if types:
        return "sliding_attention" in types
    return config.layers > int(config.number("max_window_layers", 28))


def qwen2_metadata(config: Config) -> dict[str, Any]:
    if config.head_size * config.heads != config.hidden_size:
        raise UnsupportedError(
            f"{config.folder}/config.json: {config.heads} heads of {config.head_size} are not the "
            f"hidden size {config.hidden_size}; llama.cpp's Qwen 2 needs them to be."
        )
    return qwen_metadata(config)


def qwen2_expert_metadata(config: Config) -> dict[str, Any]:
    check_fixed(config, EXPERTS_EVERYWHERE | {"norm_topk_prob": False})
    return qwen2_metadata(config) | expert_keys(config)


def qwen3_expert_metadata(config: Config) -> dict[str, Any]:
    # Without the key, transformers does not make the weights of the chosen experts sum to one.
    if not config.flag("norm_topk_prob"):
        raise UnsupportedError(
            f"{config.folder}/config.json: norm_topk_prob is off; llama.cpp runs this "
            "architecture with True only."
        )
    check_fixed(config, EXPERTS_EVERYWHERE)
    return qwen_metadata(config) | expert_keys(config)


def expert_keys(config: Config) -> dict[str, Any]:
    """Keys of routed experts, and of the one that all tokens share."""
    keys = routed_metadata(config)
    keys["expert_feed_forward_length"] = int(config.number("moe_intermediate_size"))
    if config.raw.get("shared_expert_intermediate_size") is not None:
        shared = int(config.number("shared_expert_intermediate_size"))
        keys["expert_shared_feed_forward_length"] = shared
    return keys


def qwen2_vision_metadata(config: Config) -> dict[str, Any]:
    return qwen2_metadata(config) | rope_sections(config)


def deepstack(config: Config) -> dict[str, Any]:
    """So many first layers take in features of the vision tower's middle."""
    found = config.part("vision_config").raw.get("deepstack_visual_indexes")
    if found is not None and (not isinstance(found, list) or len(found) > config.layers):
        raise FormatError(
            f"{config.folder}/config.json: deepstack_visual_indexes are no list of at most "
            f"{config.layers} layers. Download it again."
        )
    return rope_sections(config) | {"n_deepstack_layers": len(found or ())}


def qwen3_vision_metadata(config: Config) -> dict[str, Any]:
    return qwen_metadata(config) | deepstack(config)


def qwen3_vision_expert_metadata(config: Config) -> dict[str, Any]:
    check_fixed(config, EXPERTS_EVERYWHERE)
    return qwen_metadata(config) | expert_keys(config) | deepstack(config)


def upright(values: Array, rows: int, columns: int) -> Array:
    """Qwen3-VL's experts are published as [columns, rows]; some tools save them as they are used.

    transformers tells the two apart in the same way, square ones included.
    """
    return values if values.shape == (rows, columns) else values.T


def vision_gate_and_up(values: Array, config: Config) -> Array:
    rows = 2 * int(config.number("moe_intermediate_size"))
    return upright(values, rows, config.hidden_size)


def vision_gate(values: Array, config: Config) -> Array:
    return first_half_of_rows(vision_gate_and_up(values, config), config)


def vision_up(values: Array, config: Config) -> Array:
    return second_half_of_rows(vision_gate_and_up(values, config), config)


def vision_down(values: Array, config: Config) -> Array:
    return upright(values, config.hidden_size, int(config.number("moe_intermediate_size")))


def fused_experts(
    gate: Arrangement = first_half_of_rows,
    up: Arrangement = second_half_of_rows,
    down: Arrangement = unchanged,
) -> tuple[Rule, ...]:
    """Rules of experts in one tensor, [experts, 2 x rows, columns]: gate, then up."""
    parts = Part(r"\1.gate_proj.weight", gate), Part(r"\1.up_proj.weight", up)
    return (
        Rule(EXPERTS + r"\.gate_up_proj", parts),
        Rule(EXPERTS + r"\.down_proj", (Part(r"\1.down_proj.weight", down),)),
    )


FUSED_EXPERTS = fused_experts()
QWEN2 = ConversionRow("qwen2", qwen2_metadata)
QWEN2_MOE = ConversionRow("qwen2moe", qwen2_expert_metadata, (*FUSED_EXPERTS, *SHARED_EXPERT))
QWEN2_VL = ConversionRow("qwen2vl", qwen2_vision_metadata, VISION_TOWER)
QWEN3 = ConversionRow("qwen3", qwen_metadata)
QWEN3_MOE = ConversionRow("qwen3moe", qwen3_expert_metadata, FUSED_EXPERTS)
QWEN3_VL = ConversionRow("qwen3vl", qwen3_vision_metadata, VISION_TOWER)
QWEN3_VL_MOE = ConversionRow(
    "qwen3vlmoe",
    qwen3_vision_expert_metadata,
    (*fused_experts(vision_gate, vision_up, vision_down), *VISION_TOWER),
)
