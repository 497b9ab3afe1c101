"""Gemma 1 to 3n: converted, they say in llama.cpp what they say in torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from agreement import check_agreement, check_record, randomized, write_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

VOCABULARY = 304  # of the tiny tokenizer: llama.cpp's converter cuts off what is beyond
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
}
SOFTCAPS = {"attn_logit_softcapping": 4.0, "final_logit_softcapping": 5.0}
LINEAR = {"rope_type": "linear", "factor": 8.0, "rope_theta": 500_000.0}
MODELS = {
    "gemma": ("gemma", {}),
    "gemma-theta": ("gemma", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
    "gemma2": ("gemma2", {"query_pre_attn_scalar": 32, "sliding_window": 16} | SOFTCAPS),
    "gemma2-27b": (
        "gemma2",
        {"num_hidden_layers": 46, "query_pre_attn_scalar": 16, "sliding_window": 16}
        | {"hidden_size": 64, "intermediate_size": 32},
    ),
    "gemma3": (
        "gemma3_text",
        {"num_hidden_layers": 7, "query_pre_attn_scalar": 32, "sliding_window": 16},
    ),
    "gemma3-linear": (
        "gemma3_text",
        {"num_hidden_layers": 6, "query_pre_attn_scalar": 32, "sliding_window": 16}
        | {"final_logit_softcapping": 5.0, "tie_word_embeddings": False}
        | {
            "rope_parameters": {
                "full_attention": LINEAR,
                "sliding_attention": {"rope_type": "default", "rope_theta": 20_000.0},
            }
        },
    ),
    "gemma3n": (
        "gemma3n_text",
        {"num_hidden_layers": 25, "num_kv_shared_layers": 5, "sliding_window": 16}
        # llama.cpp takes the deviation of a sample, transformers of all: wide enough, they agree.
        | {"hidden_size": 64, "intermediate_size": 2048, "vocab_size_per_layer_input": VOCABULARY},
    ),
    "gemma3-27b": (
        "gemma3_text",
        {"num_hidden_layers": 62, "query_pre_attn_scalar": 16, "sliding_window": 16}
        | {"hidden_size": 64, "intermediate_size": 32},
    ),
}


def calm(model: Any) -> Any:
    """Return a model of random weights whose layers change their input mildly, as trained ones do.

    Otherwise rounding errors grow from layer to layer, and 62 layers say nothing about a converter.
    """
    randomized(model)
    layers = model.config.num_hidden_layers
    offset = 0 if model.config.model_type == "gemma3n_text" else 1
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                after = "post_attention" in name or "post_feedforward" in name
                scale = min(1.0, 4 / layers) if after else 1.0
                parameter.copy_((parameter * scale - offset).bfloat16().float())
    return model


def written(folder: Path, kind: str) -> tuple[Path, Any]:
    model_type, own = MODELS[kind]
    config = AutoConfig.for_model(model_type, **{**SIZES, **own})
    model = calm(AutoModelForCausalLM.from_config(config))
    write_model(folder, model)
    if kind == "gemma3n":
        add_unused_caches(folder, config)
    return folder, model


def add_unused_caches(folder: Path, config: Any) -> None:
    """Add what files on the Hub have and transformers 5 leaves out when it saves."""
    tensors = load_file(folder / "model.safetensors")
    rows = config.num_key_value_heads * config.head_dim
    for layer in range(20, config.num_hidden_layers):
        prefix = f"model.layers.{layer}.self_attn"
        tensors[f"{prefix}.k_norm.weight"] = torch.zeros(config.head_dim)
        for role in ("k", "v"):
            tensors[f"{prefix}.{role}_proj.weight"] = torch.zeros(rows, config.hidden_size)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


ROUNDED = {"gemma3-linear", "gemma3n"}  # F16 turns one top token of 64


@pytest.mark.parametrize("kind", MODELS)
def test_llama_cpp_and_torch_agree(tmp_path: Path, kind: str) -> None:
    mix = "F32" if kind in ROUNDED else "F16"
    opened = check_agreement(*written(tmp_path / kind, kind), mix=mix, vocabulary=VOCABULARY)
    if kind == "gemma-theta":  # llama.cpp's converter forgets it, and the model runs wrongly
        assert opened.metadata.pop("gemma.rope.freq_base") == 500_000
    check_record(opened, "gemma", kind)
