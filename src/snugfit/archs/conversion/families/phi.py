"""Phi-3, 3.5 and 4: queries, keys and values are one matrix, and so are gate and up."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from snugfit.archs.conversion.config import Config
from snugfit.archs.conversion.metadata import require, windowed_as_full, without
from snugfit.archs.conversion.rules import Array, ConversionRow, Part, Rule
from snugfit.errors import FormatError

# What early configs called it, and what it became.
LONG_ROPE = ("longrope", "su", "yarn")


def phi3_metadata(config: Config) -> dict[str, Any]:
    require(config, "head_dim", config.hidden_size // config.heads)
    require(Config(config.folder, config.rope), "rope_type", "default", *LONG_ROPE)
    of_heads = ("attention.key_length", "attention.value_length")
    # Scaled by tensors and a factor; every other kind of scaling was refused above.
    plain = Config(config.folder, {**config.raw, "rope_parameters": None, "rope_scaling": None})
    keys = without(windowed_as_full(plain), "vocab_size", *of_heads) | {
        "rope.freq_base": float(config.rope_numbers.number("rope_theta")),
        "rope.dimension_count": rotated(config),
        "rope.scaling.original_context_length": original_context(config),
        # llama.cpp ignores windows here. Without one the key is 0, by which it knows Phi-4.
        "attention.sliding_window": int(config.number("sliding_window", 0)),
    }
    if config.rope["rope_type"] in LONG_ROPE:
        keys["rope.scaling.attn_factor"] = attention_factor(config)
    return keys


def rotated(config: Config) -> int:
    """Return the rotated part of a head; in Phi-4-mini it is less than the whole."""
    given = config.rope.get("partial_rotary_factor", config.raw.get("partial_rotary_factor"))
    share = float(
        Config(config.folder, {"partial_rotary_factor": given}).number("partial_rotary_factor", 1.0)
    )
    return int(config.head_size * share)


def original_context(config: Config) -> int:
    key, whole = "original_max_position_embeddings", config.number("max_position_embeddings")
    return int(config.number(key, config.rope_numbers.number(key, whole)))


def attention_factor(config: Config) -> float:
    """Return what queries and keys are multiplied by (LongRoPE's paper, section 3.3)."""
    if config.rope.get("attention_factor") is not None:
        return float(config.rope_numbers.number("attention_factor"))
    original = max(original_context(config), 2)
    scale = config.rope_numbers.number(
        "factor", config.number("max_position_embeddings") / original
    )
    return math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0


def long_rope_factors(config: Config) -> dict[str, Array]:
    """Frequency divisors of LongRoPE: short ones up to the original context, long ones past it."""
    if config.rope["rope_type"] not in LONG_ROPE:
        return {}
    return {
        f"rope_factors_{kind}.weight": _factors(config, f"{kind}_factor")
        for kind in ("long", "short")
    }


def _factors(config: Config, key: str) -> Array:
    factors, wanted = config.rope.get(key), rotated(config) // 2
    if (
        not isinstance(factors, list)
        or len(factors) != wanted
        or not all(isinstance(one, int | float) and 0 < one < math.inf for one in factors)
    ):
        raise FormatError(
            f"{config.folder}/config.json: {key} is no list of {wanted} numbers above zero. "
            "Download the model again."
        )
    return np.array(factors, np.float32)


def checked_heads(values: Array, config: Config) -> Array:
    if len(values) != (config.heads + 2 * config.key_value_heads) * config.head_size:
        raise ValueError("the rows are not those of so many heads")
    return values


RULES = (Rule(r".+\.qkv_proj\.weight", (Part(arrange=checked_heads),)),)

PHI3 = ConversionRow("phi3", phi3_metadata, RULES, long_rope_factors)
