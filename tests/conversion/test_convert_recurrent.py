"""Mamba 2 and Falcon-H1: converted, they say in llama.cpp what they say in torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from agreement import changed_config, check_agreement, check_record, randomized, write_model
from transformers import AutoConfig, AutoModelForCausalLM

from snugfit.errors import SnugfitError
from snugfit.models import open_model

MAMBA2 = {
    "vocab_size": 320,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_heads": 8,
    "head_dim": 32,
    "state_size": 32,
    "n_groups": 2,
    "chunk_size": 32,
    "layer_norm_epsilon": 1e-5,
}
FALCON_H1 = {
    "vocab_size": 320,
    "hidden_size": 128,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "mamba_d_ssm": 192,
    "mamba_n_heads": 6,
    "mamba_d_head": 32,
    "mamba_n_groups": 2,
    "mamba_d_state": 32,
    "mamba_chunk_size": 32,
    "mamba_norm_before_gate": False,
    "rope_theta": 1e6,
}
MULTIPLIERS = {
    "attention_in_multiplier": 0.9,
    "attention_out_multiplier": 0.7,
    "embedding_multiplier": 2.5,
    "key_multiplier": 0.4,
    "lm_head_multiplier": 0.2,
    "mlp_multipliers": [0.8, 0.3],
    "ssm_in_multiplier": 1.25,
    "ssm_multipliers": [0.35, 0.25, 0.4, 0.5, 0.3],
    "ssm_out_multiplier": 0.6,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "mamba2": ("mamba2", MAMBA2),
    "mamba2-tied": ("mamba2", MAMBA2 | {"tie_word_embeddings": True}),
    "falcon-h1": ("falcon_h1", FALCON_H1 | MULTIPLIERS),
    "falcon-h1-norm": ("falcon_h1", FALCON_H1 | {"mamba_rms_norm": True}),
}


def model_of(kind: str) -> Any:
    model_type, fields = MODELS[kind]
    config = AutoConfig.for_model(model_type, **fields)
    model = randomized(AutoModelForCausalLM.from_config(config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("A_log"):  # decays of every pace
                parameter.copy_(torch.linspace(-2, 2, len(parameter)).bfloat16())
    return model


@pytest.mark.parametrize("kind", MODELS)
def test_llama_cpp_and_torch_agree(tmp_path: Path, kind: str) -> None:
    model = model_of(kind)
    opened = check_agreement(write_model(tmp_path / kind, model), model, mix="F32")
    check_record(opened, "recurrent", kind)
    assert opened.spec().cache_basis == "exact"


@pytest.mark.parametrize(
    ("kind", "changes", "says"),
    [
        ("mamba2", {"head_dim": 33}, "do not fill"),
        ("mamba2", {"n_groups": 0}, "groups cannot share"),
        ("mamba2", {"hidden_act": "gelu"}, "silu only"),
        ("mamba2", {"use_conv_bias": False}, "wants one"),
        ("falcon-h1", {"mamba_conv_bias": False}, "wants one"),
        ("mamba2", {"time_step_limit": [0.1, 1.0]}, "time_step_limit"),
        ("falcon-h1", {"mamba_d_ssm": 100}, "cannot share"),
        ("falcon-h1", {"mamba_d_state": 2**20}, "in_proj has"),
        ("falcon-h1", {"key_multiplier": "many"}, "no multiplier"),
        ("falcon-h1", {"tie_word_embeddings": True}, "one matrix serves"),
        ("falcon-h1-norm", {"mamba_norm_before_gate": True}, "gates first"),
    ],
)
def test_what_llama_cpp_cannot_run_is_refused(
    tmp_path: Path, kind: str, changes: dict[str, Any], says: str
) -> None:
    folder = write_model(tmp_path / kind, model_of(kind))
    changed_config(folder, **changes)
    with pytest.raises(SnugfitError, match=says) as caught:
        open_model(str(folder))
    assert str(folder) in str(caught.value)
