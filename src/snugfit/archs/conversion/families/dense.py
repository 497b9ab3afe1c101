"""Families of one or two dense models: Seed-OSS, EXAONE 4, ERNIE 4.5, Hunyuan and their like."""

from __future__ import annotations

from typing import Any

import numpy as np

from snugfit.archs.conversion.config import Config
from snugfit.archs.conversion.families.llama import INTERLEAVED
from snugfit.archs.conversion.metadata import (
    attention_metadata,
    gated_metadata,
    require,
    rope_divisors,
    without,
)
from snugfit.archs.conversion.rules import Array, ConversionRow, Part, Rule
from snugfit.errors import UnsupportedError

EXAONE4_LAYERS_WITH_WINDOWS = 64  # llama.cpp has them in the 32B model only
HUNYUAN_CONTEXT = 262144  # what alpha = 1000 reaches; its configs name an eighth of it
HEAD_LENGTHS = ("attention.key_length", "attention.value_length")


def plain_metadata(config: Config) -> dict[str, Any]:
    return without(gated_metadata(config), "vocab_size", "rope.dimension_count")


def ernie_metadata(config: Config) -> dict[str, Any]:
    require(config, "use_bias", False)
    return plain_metadata(config)


def exaone4_metadata(config: Config) -> dict[str, Any]:
    """Keys of EXAONE 4: no windows, or three layers of them, rotated, and then a full one."""
    keys = without(gated_metadata(config), "rope.dimension_count")
    if config.raw.get("sliding_window") is None:
        return keys
    if config.layers != EXAONE4_LAYERS_WITH_WINDOWS:
        raise UnsupportedError(
            f"{config.folder}/config.json: sliding_window is set in a model of {config.layers} "
            f"layers; llama.cpp runs this architecture with windows in "
            f"{EXAONE4_LAYERS_WITH_WINDOWS} layers only."
        )
    windowed = [(layer + 1) % 4 != 0 for layer in range(config.layers)]
    kinds = ["sliding_attention" if one else "full_attention" for one in windowed]
    require(config, "layer_types", kinds)
    require(config, "sliding_window_pattern", "LLLG", 4)
    return keys | {
        "attention.sliding_window": int(config.number("sliding_window")),
        "attention.sliding_window_pattern": np.array(windowed),
    }


def hunyuan_metadata(config: Config) -> dict[str, Any]:
    """Keys of Hunyuan, whose rotation is slowed by a fixed alpha, which configs call dynamic."""
    keys = plain_metadata(config)
    if config.rope["rope_type"] != "dynamic" or not config.rope.get("alpha"):
        require(Config(config.folder, config.rope), "rope_type", "default")
        return keys
    rope, size = config.rope_numbers, config.head_size
    slowed = float(rope.number("alpha")) ** (size / max(size - 2, 1))
    context = max(keys["context_length"], HUNYUAN_CONTEXT)
    return keys | {
        "context_length": context,
        "rope.freq_base": float(rope.number("rope_theta")) * slowed,
        "rope.scaling.type": "none",
        "rope.scaling.factor": 1.0,
        "rope.scaling.original_context_length": context,
    }


def arcee_metadata(config: Config) -> dict[str, Any]:
    require(config, "hidden_act", "relu2")
    keys = attention_metadata(config)
    return keys if config.raw.get("head_dim") is not None else without(keys, *HEAD_LENGTHS)


def layer_norm_metadata(config: Config, epsilon: str) -> dict[str, Any]:
    keys = without(attention_metadata(config), "attention.layer_norm_rms_epsilon")
    if config.raw.get("head_dim") is None:
        keys = without(keys, *HEAD_LENGTHS)
    return keys | {"attention.layer_norm_epsilon": float(config.number(epsilon, 1e-5))}


def starcoder2_metadata(config: Config) -> dict[str, Any]:
    """Keys of StarCoder 2; its context ends where windows would begin, which llama.cpp ignores."""
    require(config, "hidden_act", "gelu_pytorch_tanh")
    require(config, "use_bias", True)
    require(config, "head_dim", config.hidden_size // config.heads)
    keys = layer_norm_metadata(config, "norm_epsilon")
    window = int(config.number("sliding_window", 0)) or 2**40
    keys["context_length"] = min(keys["context_length"], window)
    return without(keys, "vocab_size", "rope.dimension_count")


def nemotron_metadata(config: Config) -> dict[str, Any]:
    require(config, "hidden_act", "relu2")
    require(config, "head_dim", config.hidden_size // config.heads)
    require(Config(config.folder, config.rope), "rope_type", "default")
    share = config.rope_numbers.number(
        "partial_rotary_factor",
        config.number("partial_rotary_factor", config.number("rope_percent", 0.5)),
    )
    return layer_norm_metadata(config, "norm_eps") | {
        "rope.dimension_count": int(share * config.head_size),
        "rope.scaling.type": "none",
    }


def plus_one(values: Array) -> Array:
    """Nemotron stores norms as their difference from one."""
    return values + np.float32(1)


NORMS = (Rule(r".+norm\.weight", (Part(compute=plus_one),)),)

SEED_OSS = ConversionRow("seed_oss", plain_metadata)
ERNIE4_5 = ConversionRow("ernie4_5", ernie_metadata, tied_by_default=True)
EXAONE4 = ConversionRow("exaone4", exaone4_metadata, constants=rope_divisors)
HUNYUAN = ConversionRow("hunyuan-dense", hunyuan_metadata)
ARCEE = ConversionRow("arcee", arcee_metadata, INTERLEAVED, rope_divisors)
STARCODER2 = ConversionRow("starcoder2", starcoder2_metadata, tied_by_default=True)
NEMOTRON = ConversionRow("nemotron", nemotron_metadata, NORMS)
