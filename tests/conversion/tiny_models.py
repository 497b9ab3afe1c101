"""Tiny models of transformers, by model type, and configs that no model may be converted with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from agreement import changed_config, randomized, write_model
from transformers import AutoConfig, AutoModelForCausalLM

from snugfit.errors import FormatError, UnsupportedError
from snugfit.models import open_model

SIZES = {
    "vocab_size": 320,
    "hidden_size": 256,
    "intermediate_size": 288,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": 0,
}
# Bands of unscaled, blended and scaled frequencies, all within 64 positions.
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 64,
}


def tiny_model(model_type: str, own: dict[str, Any]) -> Any:
    config = AutoConfig.for_model(model_type, **{**SIZES, **own})
    return randomized(AutoModelForCausalLM.from_config(config))


def check_refused(folder: Path, model: Any, changes: dict[str, Any], named: str) -> None:
    """Check that a config with `changes` gives one line that says what is wrong with it."""
    write_model(folder, model)
    changed_config(folder, **changes)
    with pytest.raises((FormatError, UnsupportedError), match=named) as caught:
        open_model(str(folder))
    assert "\n" not in str(caught.value)
