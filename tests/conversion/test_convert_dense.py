"""Families of one or two models: converted, they say in llama.cpp what they say in torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from agreement import check_agreement, check_record, write_model
from tiny_models import LLAMA3_ROPE, YARN, check_refused, tiny_model

DEEP = {
    "num_hidden_layers": 64,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
}
ALPHA = {"rope_type": "dynamic", "rope_theta": 10000.0, "alpha": 1000.0, "factor": 1.0}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "seed-oss": ("seed_oss", {"head_dim": 48}),
    "ernie4.5": ("ernie4_5", {"head_dim": 48}),
    "exaone4": (
        "exaone4",
        {
            "sliding_window": None,
            "layer_types": ["full_attention"] * 2,
            "rope_parameters": LLAMA3_ROPE,
        },
    ),
    "exaone4-windows": ("exaone4", DEEP | {"sliding_window": 24}),
    "hunyuan": (
        "hunyuan_v1_dense",
        {"rope_parameters": ALPHA, "max_position_embeddings": 32768, "head_dim": 32},
    ),
    "arcee": ("arcee", {"rope_parameters": YARN}),
    "starcoder2": ("starcoder2", {}),
    "nemotron": ("nemotron", {}),
    "lfm2": (
        "lfm2",
        {
            "num_hidden_layers": 4,
            "layer_types": ["conv", "full_attention", "conv", "conv"],
            "block_multiple_of": 32,
        },
    ),
    "minimax-m2": (
        "minimax_m2",
        {
            "head_dim": 32,
            "rotary_dim": 16,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "scoring_func": "sigmoid",
        },
    ),
}

# llama.cpp's converter writes the epsilon under two names, of which it reads one.
APART = {"nemotron": ("attention.layer_norm_rms_epsilon",)}


def tiny(kind: str) -> Any:
    model = tiny_model(*MODELS[kind])
    for name, values in model.named_buffers():
        if name.endswith("e_score_correction_bias"):  # steers the choice of experts
            values.copy_(torch.linspace(-0.5, 0.5, len(values)))
    return model


@pytest.mark.parametrize("kind", MODELS)
def test_llama_cpp_and_torch_agree(tmp_path: Path, kind: str) -> None:
    model = tiny(kind)
    opened = check_agreement(write_model(tmp_path / kind, model), model, mix="F32")
    if kind != "exaone4-windows":  # 64 layers
        check_record(opened, "dense", kind, APART.get(kind, ()))


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "windows": ("exaone4", {"sliding_window": 128}, "sliding_window"),
    "rope": ("hunyuan", {"rope_parameters": YARN}, "rope_type"),
    "alpha": ("hunyuan", {"rope_parameters": ALPHA | {"alpha": "big"}}, "alpha"),
    "biases": ("ernie4.5", {"use_bias": True}, "use_bias"),
    "activation": ("arcee", {"hidden_act": "silu"}, "hidden_act"),
    "activations": ("starcoder2", {"hidden_act": "gelu"}, "hidden_act"),
    "scores": ("minimax-m2", {"scoring_func": "softmax"}, "scoring_func"),
    "kinds": ("lfm2", {"layer_types": ["conv"]}, "layer_types"),
    "width": ("lfm2", {"intermediate_size": "wide"}, "intermediate_size|block_ff_dim"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_llama_cpp_would_run_otherwise_is_refused(tmp_path: Path, reason: str) -> None:
    kind, changes, named = REFUSED[reason]
    check_refused(tmp_path, tiny(kind), changes, named)
