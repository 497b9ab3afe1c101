"""GLM-4 and GLM-4.5 to 4.7, dense, with experts, and with latent attention (Flash)."""

from __future__ import annotations

from typing import Any

from snugfit.archs.conversion.config import Config
from snugfit.archs.conversion.families.deepseek import (
    BIAS_OF_CHOICE,
    LATENT,
    kind_of_layer,
    latent_metadata,
    leading_dense,
    routing_metadata,
)
from snugfit.archs.conversion.families.qwen import FUSED_EXPERTS
from snugfit.archs.conversion.metadata import attention_metadata, check_fixed, without
from snugfit.archs.conversion.rules import ConversionRow, Part, Rule
from snugfit.errors import FormatError, UnsupportedError


def rotated_size(config: Config, default: float) -> int:
    """How much of each head turns; `default` is the part where nothing is said of it."""
    part = config.rope.get("partial_rotary_factor")
    if part is None:
        part = config.number("partial_rotary_factor", default)
    if not isinstance(part, int | float) or not 0 < part <= 1:
        raise FormatError(
            f"{config.folder}/config.json: partial_rotary_factor is {part!r}, not a part. "
            "Download the model again."
        )
    return int(config.head_size * part)


def _partly_rotated(config: Config) -> dict[str, Any]:
    """Keys of attention that turns only the first part of each head."""
    check_fixed(config, {"hidden_act": "silu"})
    if "mrope_section" in config.rope:
        raise UnsupportedError(
            f"{config.folder}/config.json: positions in three dimensions (mrope_section) are of "
            "models with vision, which cannot be converted yet."
        )
    keys = without(attention_metadata(config), "vocab_size")
    return keys | {"rope.dimension_count": rotated_size(config, 0.5)}


def _drafts(config: Config) -> dict[str, int]:
    """Layers that only draft tokens count as layers, present or not."""
    if config.raw.get("num_nextn_predict_layers") is None:
        return {}
    return {
        "block_count": config.layers + config.draft_layers,
        "nextn_predict_layers": config.draft_layers,
    }


def _glm4(config: Config) -> dict[str, Any]:
    return _partly_rotated(config)


def _glm4_moe(config: Config) -> dict[str, Any]:
    keys = _partly_rotated(config) | routing_metadata(config, "sigmoid") | leading_dense(config)
    return keys | _drafts(config)


def _glm4_moe_lite(config: Config) -> dict[str, Any]:
    keys = latent_metadata(config) | routing_metadata(config, "sigmoid") | leading_dense(config)
    return keys | (_drafts(config) if config.draft_layers else {})


# gguf's name map has these for some architectures only.
DRAFTING = (
    Rule(
        r"model\.layers\.(\d+)\.(eh_proj|enorm|hnorm|embed_tokens)\.weight",
        (Part(r"blk.\1.nextn.\2.weight"),),
    ),
    Rule(
        r"model\.layers\.(\d+)\.shared_head\.(norm|head)\.weight",
        (Part(r"blk.\1.nextn.shared_head_\2.weight"),),
    ),
)

GLM4 = ConversionRow("glm4", _glm4)
GLM4_MOE = ConversionRow(
    "glm4moe",
    _glm4_moe,
    (BIAS_OF_CHOICE, *FUSED_EXPERTS),
    layer_kind=kind_of_layer,
    keeps_drafts=True,
)
GLM4_MOE_LITE = ConversionRow(
    "deepseek2", _glm4_moe_lite, (*DRAFTING, *LATENT), layer_kind=kind_of_layer, keeps_drafts=True
)
