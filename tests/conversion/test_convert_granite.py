"""Granite: converted, it says in llama.cpp what it says in torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from agreement import changed_config, check_agreement, check_record, write_model
from tiny_models import YARN, check_refused, tiny_model

FACTORS = {
    "attention_multiplier": 0.125,
    "embedding_multiplier": 2.0,
    "residual_multiplier": 0.75,
    "logits_scaling": 0.5,
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
MAMBA = {
    "layer_types": ["linear_attention", "full_attention"],
    "mamba_n_heads": 16,
    "mamba_d_head": 32,
    "mamba_d_state": 16,
    "mamba_n_groups": 2,
}
DENSE = {"num_local_experts": 0, "num_experts_per_tok": 0, "shared_intermediate_size": 288}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "granite": ("granite", FACTORS | {"tie_word_embeddings": True, "attention_bias": True}),
    "granite-untied": ("granite", FACTORS | {"rope_parameters": YARN}),
    "granitemoe": ("granitemoe", FACTORS | EXPERTS | {"tie_word_embeddings": True}),
    "granitemoe-shared": (
        "granitemoeshared",
        FACTORS | EXPERTS | {"shared_intermediate_size": 96},
    ),
    "granite4-tiny": (
        "granitemoehybrid",
        FACTORS | EXPERTS | MAMBA | {"shared_intermediate_size": 96},
    ),
    "granite4-h": ("granitemoehybrid", FACTORS | DENSE | MAMBA | {"tie_word_embeddings": True}),
    "granite4-micro": (
        "granitemoehybrid",
        FACTORS
        | DENSE
        | {"layer_types": ["full_attention"] * 2, "position_embedding_type": "rope"},
    ),
}
# llama.cpp's converter also writes keys of parts that the model does not have.
NO_EXPERTS = ("expert_count", "expert_used_count", "expert_shared_feed_forward_length")
NO_STATE = ("conv_kernel", "group_count", "inner_size", "state_size", "time_step_rank")
APART = {
    "granite4-h": NO_EXPERTS,
    "granite4-micro": (
        *NO_EXPERTS,
        "attention.head_count_kv",  # a list of the same number
        *(f"ssm.{key}" for key in NO_STATE),
    ),
}
HUB_KINDS = {"linear_attention": "mamba", "full_attention": "attention"}


def write(folder: Path, model: Any) -> Path:
    """Write a model with the names of layers that published configs have."""
    write_model(folder, model)
    if kinds := getattr(model.config, "layer_types", None):
        changed_config(folder, layer_types=[HUB_KINDS[kind] for kind in kinds])
    return folder


def tiny(kind: str) -> Any:
    return tiny_model(*MODELS[kind])


@pytest.mark.parametrize("kind", MODELS)
def test_llama_cpp_and_torch_agree(tmp_path: Path, kind: str) -> None:
    model = tiny(kind)
    opened = check_agreement(write(tmp_path / kind, model), model, mix="F32")
    check_record(opened, "granite", kind, APART.get(kind, ()))


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "activation": ("granite", {"hidden_act": "gelu"}, "hidden_act"),
    "factor": ("granite", {"embedding_multiplier": "12"}, "embedding_multiplier"),
    "heads": ("granite", {"num_attention_heads": 4}, "contradicts"),
    "kinds": ("granite4-h", {"layer_types": ["mamba"]}, "layer_types"),
    "expansion": ("granite4-h", {"mamba_expand": 4}, "mamba_expand"),
    "steps": ("granite4-h", {"time_step_limit": [0.0, 1.0]}, "time_step_limit"),
    "experts used": ("granitemoe", {"num_experts_per_tok": 5}, "experts"),
    "experts": ("granitemoe", {"num_local_experts": 5}, "experts"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_llama_cpp_would_run_otherwise_is_refused(tmp_path: Path, reason: str) -> None:
    kind, changes, named = REFUSED[reason]
    check_refused(tmp_path, tiny(kind), changes, named)
