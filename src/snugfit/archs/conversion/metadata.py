"""Keys of a model's metadata that many architectures share, from its config."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from snugfit.archs.conversion.config import Config
from snugfit.archs.conversion.rules import Array
from snugfit.errors import FormatError, UnsupportedError


def attention_metadata(config: Config) -> dict[str, Any]:
    """Keys that every decoder has, without the architecture's prefix."""
    rope = config.rope
    keys = {
        "vocab_size": config.vocabulary,
        "context_length": int(config.number("max_position_embeddings")),
        "embedding_length": config.hidden_size,
        "block_count": config.layers,
        "feed_forward_length": int(config.number("intermediate_size")),
        "attention.head_count": config.heads,
        "attention.head_count_kv": config.key_value_heads,
        "attention.key_length": config.head_size,
        "attention.value_length": config.head_size,
        "attention.layer_norm_rms_epsilon": float(config.number("rms_norm_eps", 1e-6)),
        "rope.freq_base": float(rope["rope_theta"]),
        "rope.dimension_count": config.head_size,
    }
    return keys | rope_scaling(config)


def rope_scaling(config: Config) -> dict[str, Any]:
    rope = config.rope
    match rope["rope_type"]:
        case "default" | "llama3":  # llama3's factors become a tensor, see rope_divisors
            return {}
        case "linear":
            return {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}
        case "yarn":
            original = rope.get("original_max_position_embeddings") or config.number(
                "max_position_embeddings"
            )
            return {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": float(rope["factor"]),
                "rope.scaling.original_context_length": int(original),
            } | {
                f"rope.scaling.yarn_{key}": float(rope[key])
                for key in ("beta_fast", "beta_slow")
                if rope.get(key) is not None
            }
    raise UnsupportedError(
        f"{config.folder}/config.json: rope type {rope['rope_type']!r} cannot be converted yet; "
        "default, linear, llama3 and yarn can."
    )


def without(keys: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return keys but for those that llama.cpp's converter leaves out for an architecture."""
    return {key: value for key, value in keys.items() if key not in names}


def check_fixed(config: Config, fixed: Mapping[str, Any]) -> None:
    """Raise UnsupportedError where the config asks for another value than llama.cpp has built in.

    `fixed` maps keys of the config to the values that it may have, where it has them.
    """
    for key, value in fixed.items():
        found = config.raw.get(key)
        if found is not None and found != value:
            raise UnsupportedError(
                f"{config.folder}/config.json: {key} is {found!r}; llama.cpp runs this "
                f"architecture with {value!r} only."
            )


def full_attention_metadata(config: Config) -> dict[str, Any]:
    """Keys of a decoder whose layers all see the whole context; else UnsupportedError."""
    if config.raw.get("use_sliding_window"):
        raise UnsupportedError(
            f"{config.folder}/config.json: use_sliding_window is on; llama.cpp runs this "
            "architecture with full attention only."
        )
    return attention_metadata(config)


def expert_metadata(config: Config) -> dict[str, Any]:
    return (
        full_attention_metadata(config)
        | expert_counts(config)
        | {"expert_feed_forward_length": int(config.number("moe_intermediate_size"))}
    )


def expert_counts(config: Config) -> dict[str, int]:
    """Return how many experts there are, and how many a token uses. Raises FormatError."""
    used = int(config.number("num_experts_per_tok"))
    if not 0 < used <= config.experts:
        raise FormatError(
            f"{config.folder}/config.json: {used} of {config.experts} experts used cannot be right."
        )
    return {"expert_count": config.experts, "expert_used_count": used}


def rope_divisors(config: Config) -> dict[str, Array]:
    """Frequency divisors of Llama 3.1's long context (transformers' `llama3` rope type)."""
    rope = config.rope
    if rope["rope_type"] != "llama3":
        return {}
    factor, low, high = (
        float(rope[key]) for key in ("factor", "low_freq_factor", "high_freq_factor")
    )
    original = float(rope["original_max_position_embeddings"])
    size = config.head_size
    exponents = np.arange(0, size, 2, dtype=np.float32) / size
    wavelength = 2 * math.pi * float(rope["rope_theta"]) ** exponents
    smooth = (original / wavelength - low) / (high - low)
    blended = 1 / ((1 - smooth) / factor + smooth)
    divisors = np.where(wavelength < original / high, 1.0, blended)
    divisors = np.where(wavelength > original / low, factor, divisors)
    return {"rope_freqs.weight": divisors.astype(np.float32)}
