"""Llama, Mistral and their like, dense and with experts."""

from __future__ import annotations

from typing import Any

from snugfit.archs.conversion.arrange import interleaved_keys, interleaved_queries
from snugfit.archs.conversion.config import Config
from snugfit.archs.conversion.families.qwen import FUSED_EXPERTS
from snugfit.archs.conversion.metadata import (
    gated_metadata,
    require,
    rope_divisors,
    routed_metadata,
    windowed_as_full,
)
from snugfit.archs.conversion.rules import ConversionRow, Part, Rule
from snugfit.errors import UnsupportedError

# llama.cpp rotates neighbouring pairs of a llama head; Hugging Face rotates its two halves.
INTERLEAVED = (
    Rule(r".+\.q_proj\.(weight|bias)", (Part(arrange=interleaved_queries),)),
    Rule(r".+\.k_proj\.(weight|bias)", (Part(arrange=interleaved_keys),)),
)
# What sees images, beside the language model.
TOWERS = Rule(r"(model\.)?(vision_tower|vision_model|multi_modal_projector)\..+")


def mixtral_metadata(config: Config) -> dict[str, Any]:
    return windowed_as_full(config) | routed_metadata(config)


def mistral3_metadata(config: Config) -> dict[str, Any]:
    """Keys of Mistral Small 3.1 and later, and of Ministral 3, whose queries grow with position."""
    kind = config.raw.get("model_type")
    if kind == "mistral":
        return windowed_as_full(config)
    if kind != "ministral3" or config.rope["rope_type"] != "yarn":
        raise UnsupportedError(
            f"{config.folder}/config.json: a text model of type {kind!r} with rope type "
            f"{config.rope['rope_type']!r} cannot be converted; mistral can, and ministral3 "
            "with yarn."
        )
    rope = config.rope_numbers
    require(rope, "mscale", 1)  # llama.cpp assumes it
    return windowed_as_full(config) | {
        "rope.scaling.yarn_log_multiplier": float(rope.number("mscale_all_dim", 0)),
        "attention.temperature_scale": float(rope.number("llama_4_scaling_beta", 0)),
    }


def smollm3_metadata(config: Config) -> dict[str, Any]:
    require(config, "use_sliding_window", False)
    every_fourth_without = [int((layer + 1) % 4 != 0) for layer in range(config.layers)]
    require(config, "no_rope_layers", every_fourth_without)
    if "no_rope_layers" not in config.raw:
        require(config, "no_rope_layer_interval", 4)
    return gated_metadata(config)


LLAMA = ConversionRow("llama", gated_metadata, INTERLEAVED, rope_divisors)
MISTRAL = ConversionRow("llama", windowed_as_full, INTERLEAVED, rope_divisors)
MIXTRAL = ConversionRow("llama", mixtral_metadata, INTERLEAVED + FUSED_EXPERTS)
MISTRAL3 = ConversionRow("mistral3", mistral3_metadata, (*INTERLEAVED, TOWERS))
SMOLLM3 = ConversionRow(
    "smollm3", smollm3_metadata, INTERLEAVED, rope_divisors, tied_by_default=True
)
