"""Llama, Mistral and their like: converted, they say in llama.cpp what they say in torch."""

from __future__ import annotations

from pathlib import Path

import pytest
from agreement import check_agreement, check_record, randomized, write_model
from transformers import AutoConfig, AutoModelForCausalLM

SIZES = {
    "vocab_size": 320,
    "hidden_size": 256,
    "intermediate_size": 288,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
}
MODELS = {
    "llama": ("llama", {}),
    "mistral": ("mistral", {"sliding_window": None}),
}


@pytest.mark.parametrize("kind", MODELS)
def test_llama_cpp_and_torch_agree(tmp_path: Path, kind: str) -> None:
    model_type, own = MODELS[kind]
    config = AutoConfig.for_model(model_type, **{**SIZES, **own})
    model = randomized(AutoModelForCausalLM.from_config(config))
    opened = check_agreement(write_model(tmp_path / kind, model), model)
    check_record(opened, "llama", kind)
