"""LFM2: short convolutions in most layers, attention in the others."""

from __future__ import annotations

from typing import Any

import numpy as np

from snugfit.archs.conversion.config import Config
from snugfit.archs.conversion.families.recurrent import matrix, squeezed
from snugfit.archs.conversion.metadata import attention_metadata, require, without
from snugfit.archs.conversion.rules import ConversionRow, Rule
from snugfit.errors import FormatError


def lfm2_metadata(config: Config) -> dict[str, Any]:
    require(config, "conv_bias", False)
    key_value_heads = [
        config.key_value_heads if has_attention(config, layer) else 0
        for layer in range(config.layers)
    ]
    width = feed_forward_length(config)
    sized = Config(config.folder, {**config.raw, "intermediate_size": width})
    keys = without(
        attention_metadata(sized),
        "rope.dimension_count",
        "attention.key_length",
        "attention.value_length",
    )
    return keys | {
        "attention.head_count_kv": np.array(key_value_heads, np.int32),
        "attention.layer_norm_rms_epsilon": float(config.number("norm_eps", 1e-5)),
        "shortconv.l_cache": int(config.number("conv_L_cache", 3)),
    }


def has_attention(config: Config, layer: int) -> bool:
    kinds = config.names("layer_types")
    if not kinds:
        listed = config.raw.get("full_attn_idxs")
        return layer in listed if isinstance(listed, list) else True
    if len(kinds) != config.layers:
        raise FormatError(
            f"{config.folder}/config.json: {len(kinds)} layer_types for {config.layers} layers. "
            "Download it again."
        )
    return kinds[layer] == "full_attention"


def feed_forward_length(config: Config) -> int:
    """Return the real width: configs name the one of an ungated block of as many weights."""
    width = int(config.number("block_ff_dim", config.raw.get("intermediate_size")))
    if not config.flag("block_auto_adjust_ff_dim", True):
        return width
    width = int(2 * width / 3)
    if config.raw.get("block_ffn_dim_multiplier") is not None:
        width = int(config.number("block_ffn_dim_multiplier") * width)
    multiple = max(1, int(config.number("block_multiple_of", 256)))
    return multiple * -(-width // multiple)


RULES = (
    Rule(
        r"model\.layers\.(\d+)\.conv\.conv\.weight",
        matrix(r"blk.\1.shortconv.conv.weight", squeezed),
    ),
)

LFM2 = ConversionRow("lfm2", lfm2_metadata, RULES, layer_kind=has_attention, tied_by_default=True)
