"""Command R, R7B and A, and Aya."""

from __future__ import annotations

from typing import Any

from snugfit.archs.conversion.config import Config
from snugfit.archs.conversion.metadata import gated_metadata, require, without
from snugfit.archs.conversion.rules import ConversionRow
from snugfit.errors import UnsupportedError

# Layers from which on llama.cpp looks for norms of queries and keys, as Command R+ has them.
LAYERS_WITH_NORMS = 64


def cohere_metadata(config: Config) -> dict[str, Any]:
    require(Config(config.folder, config.rope), "rope_type", "default", "dynamic")
    if not config.flag("tie_word_embeddings", True):
        raise UnsupportedError(
            f"{config.folder}/config.json: tie_word_embeddings is off; llama.cpp takes the "
            "embedding as the head of this architecture."
        )
    keys = without(gated_metadata(config), "attention.layer_norm_rms_epsilon")
    return keys | {
        "attention.layer_norm_epsilon": float(config.number("layer_norm_eps", 1e-5)),
        "logit_scale": float(config.number("logit_scale", 0.0625)),
        "rope.scaling.type": "none",
    }


def command_r_metadata(config: Config) -> dict[str, Any]:
    """Keys of Command R. Its real context is said beside the size it was first trained with."""
    require(config, "use_qk_norm", config.layers >= LAYERS_WITH_NORMS)
    context = config.number("model_max_length", config.number("max_position_embeddings"))
    keys = without(cohere_metadata(config), "vocab_size", "rope.dimension_count")
    return keys | {"context_length": int(context)}


def cohere2_metadata(config: Config) -> dict[str, Any]:
    """Keys of Command R7B and A: three layers of windows, then one of all without rotation."""
    full = [(layer + 1) % 4 == 0 for layer in range(config.layers)]
    kinds = ["full_attention" if one else "sliding_attention" for one in full]
    require(config, "layer_types", kinds)
    if not config.names("layer_types"):
        require(config, "sliding_window_pattern", 4)
        require(config, "layer_switch", 4)
    require(config, "rotary_pct", 1)
    return cohere_metadata(config) | {
        "attention.sliding_window": int(config.number("sliding_window", 4096)),
    }


COMMAND_R = ConversionRow("command-r", command_r_metadata, tied_by_default=True)
COHERE2 = ConversionRow("cohere2", cohere2_metadata, tied_by_default=True)
