"""Gemma 1, 2 and 3."""

from __future__ import annotations

from typing import Any

import numpy as np

from snugfit.archs.conversion.config import Config
from snugfit.archs.conversion.rules import Array, ConversionRow, Part, Rule
from snugfit.errors import FormatError, UnsupportedError

TANH = "gelu_pytorch_tanh"
SLIDING, FULL = "sliding_attention", "full_attention"
# Models of these depths have queries scaled by hidden size over heads: llama.cpp goes by depth.
DEPTH_SCALED_BY_WIDTH = {"gemma2": 46, "gemma3": 62}
# So many layers, all but the last with windows, repeat where a file has no pattern of its own.
PERIODS = {"gemma2": 2, "gemma3": 6, "gemma3n": 5, "gemma4": 6}


def plus_one(values: Array) -> Array:
    """Gemma's norms multiply by one more than their weight."""
    return values + np.float32(1)


SHIFTED_NORMS = Rule(r".+norm\.weight", (Part(compute=plus_one),))
# Towers for pictures and sound become a file of their own, see projectors.py.
TOWERS = Rule(
    r"(model\.)?(vision_tower|vision_embedder|audio_tower|multi_modal_projector"
    r"|embed_vision|embed_audio)\..+"
)


def vocabulary(config: Config) -> int:
    return config.vocabulary


def shape_metadata(config: Config) -> dict[str, Any]:
    """Keys that every Gemma has, without the architecture's prefix."""
    config.require(attention_bias=(False, None))
    return {
        "context_length": int(config.number("max_position_embeddings")),
        "embedding_length": config.hidden_size,
        "block_count": config.layers,
        "attention.head_count": config.heads,
        "attention.head_count_kv": config.key_value_heads,
        "attention.layer_norm_rms_epsilon": float(config.number("rms_norm_eps")),
        "attention.key_length": config.head_size,
        "attention.value_length": config.head_size,
    }


def dense_metadata(config: Config) -> dict[str, Any]:
    return shape_metadata(config) | {"feed_forward_length": int(config.number("intermediate_size"))}


def gemma_metadata(config: Config) -> dict[str, Any]:
    # Releases say gelu and mean its approximation by tanh, which is what everybody computes.
    config.require(hidden_act=("gelu", TANH), hidden_activation=(None, TANH))
    _require_tied(config)
    return dense_metadata(config) | _plain_rope(config)


def gemma2_metadata(config: Config) -> dict[str, Any]:
    config.require(hidden_activation=(TANH,), use_bidirectional_attention=(None, False))
    _require_tied(config)
    _require_scale(config, "gemma2")
    keys = dense_metadata(config) | _plain_rope(config) | window_metadata(config, "gemma2")
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        if not config.raw.get(key):
            raise UnsupportedError(
                f"{config.folder}/config.json: {key} is off; llama.cpp runs gemma2 with it only."
            )
        keys[key] = float(config.number(key))
    return keys


def gemma3_metadata(config: Config) -> dict[str, Any]:
    config.require(
        hidden_activation=(TANH,),
        use_bidirectional_attention=(None, False),
        attn_logit_softcapping=(None,),
    )
    _require_scale(config, "gemma3")
    keys = dense_metadata(config) | rope_metadata(config) | window_metadata(config, "gemma3")
    if config.raw.get("final_logit_softcapping"):
        keys["final_logit_softcapping"] = float(config.number("final_logit_softcapping"))
    return keys


def _require_tied(config: Config) -> None:
    if not config.flag("tie_word_embeddings", True):
        raise UnsupportedError(
            f"{config.folder}/config.json: tie_word_embeddings is off; llama.cpp runs this "
            "architecture with one matrix for embedding and head only."
        )


def _require_scale(config: Config, architecture: str) -> None:
    """Refuse queries scaled otherwise than llama.cpp does it, which reads no key."""
    scale = config.number("query_pre_attn_scalar", config.head_size)
    expected = config.head_size
    if config.layers == DEPTH_SCALED_BY_WIDTH[architecture]:
        expected = config.hidden_size // config.heads
    if scale != expected:
        raise UnsupportedError(
            f"{config.folder}/config.json: query_pre_attn_scalar is {scale}; llama.cpp runs "
            f"{architecture} of {config.layers} layers with {expected} only."
        )


def _plain_rope(config: Config) -> dict[str, Any]:
    rope = Config(config.folder, config.rope)
    rope.require(rope_type=("default",))
    theta = float(rope.number("rope_theta"))
    return {} if theta == 10_000 else {"rope.freq_base": theta}


def rope_metadata(config: Config) -> dict[str, Any]:
    """Keys of layers that see everything, which may be stretched, and of those with windows."""
    full = Config(config.folder, config.rope_of(FULL))
    sliding = sliding_rope(config)
    full.require(rope_type=("default", "linear"))
    sliding.require(rope_type=("default",))
    keys: dict[str, Any] = {
        "rope.freq_base": float(full.number("rope_theta")),
        "rope.freq_base_swa": float(sliding.number("rope_theta")),
    }
    if full.raw["rope_type"] == "linear":
        keys["rope.scaling.type"] = "linear"
        keys["rope.scaling.factor"] = float(full.number("factor"))
    return keys


def sliding_rope(config: Config) -> Config:
    """Return the rope of layers with windows, which older configs have in a key of its own."""
    found = config.raw.get("rope_parameters")
    given = found.get(SLIDING) if isinstance(found, dict) else None
    theta = config.raw.get("rope_local_base_freq", 10_000.0)
    own = given if isinstance(given, dict) else {}
    return Config(config.folder, {"rope_type": "default", "rope_theta": theta} | own)


def window_metadata(config: Config, architecture: str) -> dict[str, Any]:
    """Keys of the windows, with their pattern where it is not the one that llama.cpp assumes."""
    flags = windows(config, architecture)
    if not any(flags):
        return {"attention.sliding_window": 0}
    keys: dict[str, Any] = {"attention.sliding_window": int(config.number("sliding_window"))}
    if flags != _repeated(PERIODS[architecture], config.layers):
        keys["attention.sliding_window_pattern"] = flags
    return keys


def windows(config: Config, architecture: str) -> list[bool]:
    """Return whether each layer has a window. Raises FormatError on unknown kinds of layers."""
    kinds = config.names("layer_types")
    if not kinds:
        period = config.number("sliding_window_pattern", PERIODS[architecture])
        return _repeated(int(period), config.layers)
    if len(kinds) != config.layers or not {*kinds} <= {SLIDING, FULL}:
        raise FormatError(
            f"{config.folder}/config.json: layer_types does not say of each of {config.layers} "
            f"layers whether it is {SLIDING} or {FULL}. Download it again."
        )
    return [kind == SLIDING for kind in kinds]


def _repeated(period: int, layers: int) -> list[bool]:
    return [bool((layer + 1) % max(period, 1)) for layer in range(layers)]


GEMMA = ConversionRow("gemma", gemma_metadata, (SHIFTED_NORMS,), tied_by_default=True)
GEMMA2 = ConversionRow("gemma2", gemma2_metadata, (SHIFTED_NORMS,), tied_by_default=True)
GEMMA3 = ConversionRow("gemma3", gemma3_metadata, (TOWERS, SHIFTED_NORMS), tied_by_default=True)
