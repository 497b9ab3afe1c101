"""OLMo 2 and OLMo 3, which looks back at windows in three layers of four."""

from __future__ import annotations

from typing import Any

import numpy as np

from snugfit.archs.conversion.config import Config
from snugfit.archs.conversion.metadata import gated_metadata, without
from snugfit.archs.conversion.rules import ConversionRow
from snugfit.errors import FormatError, UnsupportedError

WINDOWED = "sliding_attention"


def olmo2_metadata(config: Config) -> dict[str, Any]:
    return without(gated_metadata(config), "vocab_size", "rope.dimension_count")


def olmo3_metadata(config: Config) -> dict[str, Any]:
    """Keys of OLMo 3: only layers of full attention scale their rotation, in llama.cpp too."""
    keys = olmo2_metadata(flat(config))
    kinds = config.names("layer_types") or [
        "full_attention" if (layer + 1) % 4 == 0 else WINDOWED for layer in range(config.layers)
    ]
    if len(kinds) != config.layers:
        raise FormatError(
            f"{config.folder}/config.json: {len(kinds)} layer_types for {config.layers} layers. "
            "Download it again."
        )
    return keys | {
        "rope.freq_base_swa": keys["rope.freq_base"],
        "attention.sliding_window": int(config.number("sliding_window", 4096)),
        "attention.sliding_window_pattern": np.array([kind == WINDOWED for kind in kinds]),
    }


def flat(config: Config) -> Config:
    """Return the config with one rope for all layers; theta must be the same in all of them."""
    full, windowed = config.rope_of("full_attention"), config.rope_of(WINDOWED)
    if full["rope_theta"] != windowed["rope_theta"]:
        raise UnsupportedError(
            f"{config.folder}/config.json: rope_theta differs between layers; llama.cpp runs this "
            "architecture with one."
        )
    return Config(config.folder, {**config.raw, "rope_parameters": full})


OLMO2 = ConversionRow("olmo2", olmo2_metadata)
OLMO3 = ConversionRow("olmo2", olmo3_metadata)
