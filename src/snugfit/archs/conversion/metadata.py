"""Keys of a model's metadata that many architectures share, from its config."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from snugfit.archs.conversion.config import Config
from snugfit.archs.conversion.rules import Array
from snugfit.errors import FormatError, UnsupportedError


def attention_metadata(config: Config) -> dict[str, Any]:
    """Keys that every decoder has, without the architecture's prefix."""
    keys = {
        "vocab_size": config.vocabulary,
        "context_length": int(config.number("max_position_embeddings")),
        "embedding_length": config.hidden_size,
        "block_count": config.layers,
        "attention.head_count": config.heads,
        "attention.head_count_kv": config.key_value_heads,
        "attention.key_length": config.head_size,
        "attention.value_length": config.head_size,
        "attention.layer_norm_rms_epsilon": float(config.number("rms_norm_eps", 1e-6)),
        "rope.freq_base": float(config.rope_numbers.number("rope_theta")),
        "rope.dimension_count": config.head_size,
    }
    if config.raw.get("intermediate_size") is not None:  # models of experts alone have none
        keys["feed_forward_length"] = int(config.number("intermediate_size"))
    return keys | rope_scaling(config)


def rope_scaling(config: Config) -> dict[str, Any]:
    rope = config.rope_numbers
    match config.rope["rope_type"]:
        # llama3's factors become a tensor, see rope_divisors; dynamic ones change nothing within
        # the context that the config names; mrope's sections are keys of their own.
        case "default" | "llama3" | "dynamic" | "mrope":
            return {}
        case "linear":
            factor = float(rope.number("factor"))
            return {"rope.scaling.type": "linear", "rope.scaling.factor": factor}
        case "yarn":
            return yarn_scaling(config)
    raise UnsupportedError(
        f"{config.folder}/config.json: rope type {config.rope['rope_type']!r} cannot be converted "
        "for this architecture; default, linear, dynamic, llama3 and yarn can."
    )


def yarn_scaling(config: Config) -> dict[str, Any]:
    rope = config.rope_numbers
    factor = float(rope.number("factor"))
    original = rope.number(
        "original_max_position_embeddings", config.number("max_position_embeddings")
    )
    keys = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": factor,
        "rope.scaling.original_context_length": int(original),
    }
    for key, assumed in (("beta_fast", 32), ("beta_slow", 1)):
        if rope.raw.get(key) is not None:
            require(rope, key, assumed)
            keys[f"rope.scaling.yarn_{key}"] = float(assumed)
    if rope.raw.get("attention_factor") is None:
        return keys
    # llama.cpp derives this factor, but multiplies it by `attn_factor`.
    attention, derived = float(rope.number("attention_factor")), yarn_attention_factor(factor)
    if math.isclose(attention, derived, rel_tol=1e-6):
        return keys
    return keys | {"rope.scaling.attn_factor": attention / derived}


def yarn_attention_factor(factor: float) -> float:
    """Return what YaRN multiplies queries and keys by, unless told otherwise."""
    return 0.1 * math.log(factor) + 1 if factor > 1 else 1.0


def rope_sections(config: Config, default: Sequence[int] | None = None) -> dict[str, Any]:
    """Rotated pairs of a head that follow time, height, width and a fourth position (M-RoPE)."""
    given = config.rope.get("mrope_section", default)
    if (
        not isinstance(given, Sequence)
        or not 0 < len(given) <= 4
        or any(type(one) is not int or not 0 <= one < 2**16 for one in given)
    ):
        raise FormatError(
            f"{config.folder}/config.json: mrope_section is {given!r:.80}, not up to four small "
            "numbers. Download the model again."
        )
    return {"rope.dimension_sections": [*given, 0, 0, 0][:4]}


def require(config: Config, key: str, *accepted: Any) -> None:
    """Raise UnsupportedError where llama.cpp has no other value of `key` for the architecture."""
    value = config.raw.get(key)
    if value is not None and value not in accepted:
        raise UnsupportedError(
            f"{config.folder}/config.json: {key} is {value!r}; llama.cpp runs this architecture "
            f"with {' or '.join(map(repr, accepted))} only."
        )


def check_fixed(config: Config, fixed: Mapping[str, Any]) -> None:
    """Require of keys of the config the one value that llama.cpp has built in."""
    for key, value in fixed.items():
        require(config, key, value)


def without(keys: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Return keys but for some that the architecture's files do not have."""
    return {key: value for key, value in keys.items() if key not in names}


def gated_metadata(config: Config) -> dict[str, Any]:
    """Keys of a decoder whose feed-forward part is gated by SiLU, as Llama's.

    As llama.cpp's converter has it, heads have a length of their own only where the config says so.
    """
    require(config, "hidden_act", "silu", "swish")
    keys = attention_metadata(config)
    if config.raw.get("head_dim") is None:
        return without(keys, "attention.key_length", "attention.value_length")
    return keys


def windowed_as_full(config: Config) -> dict[str, Any]:
    """Keys of a model whose windows llama.cpp ignores: its context ends where they would begin."""
    keys = gated_metadata(config)
    window = int(config.number("sliding_window", 0))
    return keys | {"context_length": min(keys["context_length"], window or 2**40)}


def routed_metadata(config: Config) -> dict[str, Any]:
    """Number of experts, and how many a token uses. Raises FormatError where it cannot be."""
    used = int(config.number("num_experts_per_tok"))
    if not 0 < used <= config.experts:
        raise FormatError(
            f"{config.folder}/config.json: {used} of {config.experts} experts used cannot be right."
        )
    return {"expert_count": config.experts, "expert_used_count": used}


def rope_divisors(config: Config) -> dict[str, Array]:
    """Frequency divisors of Llama 3.1's long context (transformers' `llama3` rope type)."""
    if config.rope["rope_type"] != "llama3":
        return {}
    rope = config.rope_numbers
    factor, low, high, original = (
        float(rope.number(key))
        for key in (
            "factor",
            "low_freq_factor",
            "high_freq_factor",
            "original_max_position_embeddings",
        )
    )
    size = config.head_size
    exponents = np.arange(0, size, 2, dtype=np.float32) / size
    wavelength = 2 * math.pi * float(rope.number("rope_theta")) ** exponents
    with np.errstate(all="ignore"):  # Llama 4's factors are equal: nothing is blended
        smooth = (original / wavelength - low) / (high - low)
        blended = 1 / ((1 - smooth) / factor + smooth)
        divisors = np.where(wavelength * high < original, 1.0, blended)
        divisors = np.where(wavelength * low > original, factor, divisors)
    return {"rope_freqs.weight": divisors.astype(np.float32)}
