"""gpt-oss: experts in stacks, gate and up in turns; attention with sinks and windows."""

from __future__ import annotations

from typing import Any

from snugfit.archs.conversion.arrange import transposed
from snugfit.archs.conversion.config import Config
from snugfit.archs.conversion.metadata import (
    attention_metadata,
    check_fixed,
    routed_metadata,
    without,
)
from snugfit.archs.conversion.rules import Array, ConversionRow, Part, Rule
from snugfit.errors import UnsupportedError

WINDOWS = ("sliding_attention", "full_attention")
# What llama.cpp has built in (src/models/openai-moe.cpp and the activation SWIGLU_OAI).
FIXED = {
    "swiglu_alpha": 1.702,
    "swiglu_limit": 7.0,
    "hidden_act": "silu",
    "attention_bias": True,
    "tie_word_embeddings": False,
}


def _metadata(config: Config) -> dict[str, Any]:
    check_fixed(config, FIXED)
    _check_windows(config)
    keys = without(attention_metadata(config), "vocab_size", "rope.dimension_count")
    return (
        keys
        | routed_metadata(config)
        | {
            "expert_feed_forward_length": keys["feed_forward_length"],
            "attention.sliding_window": int(config.number("sliding_window")),
        }
    )


def _check_windows(config: Config) -> None:
    """Windows and whole attention take turns in llama.cpp, whatever the config says."""
    types = config.names("layer_types")
    if any(kind != WINDOWS[layer % 2] for layer, kind in enumerate(types)):
        raise UnsupportedError(
            f"{config.folder}/config.json: layer_types do not alternate between windows and full "
            "attention; llama.cpp runs this architecture with alternating ones only."
        )


def _even_rows(values: Array, _config: Config) -> Array:
    return values[::2]


def _odd_rows(values: Array, _config: Config) -> Array:
    return values[1::2]


def _even_columns(values: Array, _config: Config) -> Array:
    return values[:, ::2]


def _odd_columns(values: Array, _config: Config) -> Array:
    return values[:, 1::2]


def _even_columns_as_rows(values: Array, _config: Config) -> Array:
    return values.T[::2]


def _odd_columns_as_rows(values: Array, _config: Config) -> Array:
    return values.T[1::2]


EXPERTS = r"(model\.layers\.\d+\.mlp\.experts)"
GATE, UP, DOWN = r"\1.gate_proj", r"\1.up_proj", r"\1.down_proj"
RULES = (
    # As published: blocks of rows.
    Rule(
        EXPERTS + r"\.gate_up_proj",
        (Part(GATE + ".weight", _even_rows), Part(UP + ".weight", _odd_rows)),
        dtypes=("MXFP4",),
    ),
    Rule(EXPERTS + r"\.down_proj", (Part(DOWN + ".weight"),), dtypes=("MXFP4",)),
    # As transformers saves them: [experts, inputs, outputs].
    Rule(
        EXPERTS + r"\.gate_up_proj",
        (
            Part(GATE + ".weight", _even_columns_as_rows),
            Part(UP + ".weight", _odd_columns_as_rows),
        ),
    ),
    Rule(EXPERTS + r"\.down_proj", (Part(DOWN + ".weight", transposed),)),
    Rule(
        EXPERTS + r"\.gate_up_proj_bias",
        (Part(GATE + ".bias", _even_columns), Part(UP + ".bias", _odd_columns)),
    ),
    Rule(EXPERTS + r"\.down_proj_bias", (Part(DOWN + ".bias"),)),
    Rule(r"(.+\.self_attn\.sinks)", (Part(r"\1.weight"),)),
)

GPT_OSS = ConversionRow("gpt-oss", _metadata, RULES)
