"""Granite: converted, it says in llama.cpp what it says in torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from agreement import check_agreement, check_record, write_model
from tiny_models import YARN, check_refused, tiny_model

FACTORS = {
    "attention_multiplier": 0.125,
    "embedding_multiplier": 2.0,
    "residual_multiplier": 0.75,
    "logits_scaling": 0.5,
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "granite": ("granite", FACTORS | {"tie_word_embeddings": True, "attention_bias": True}),
    "granite-untied": ("granite", FACTORS | {"rope_parameters": YARN}),
    "granitemoe": ("granitemoe", FACTORS | EXPERTS | {"tie_word_embeddings": True}),
    "granitemoe-shared": (
        "granitemoeshared",
        FACTORS | EXPERTS | {"shared_intermediate_size": 96},
    ),
}


def tiny(kind: str) -> Any:
    return tiny_model(*MODELS[kind])


@pytest.mark.parametrize("kind", MODELS)
def test_llama_cpp_and_torch_agree(tmp_path: Path, kind: str) -> None:
    model = tiny(kind)
    opened = check_agreement(write_model(tmp_path / kind, model), model, mix="F32")
    check_record(opened, "granite", kind)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "activation": ("granite", {"hidden_act": "gelu"}, "hidden_act"),
    "factor": ("granite", {"embedding_multiplier": "12"}, "embedding_multiplier"),
    "heads": ("granite", {"num_attention_heads": 4}, "contradicts"),
    "experts used": ("granitemoe", {"num_experts_per_tok": 5}, "experts"),
    "experts": ("granitemoe", {"num_local_experts": 5}, "experts"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_llama_cpp_would_run_otherwise_is_refused(tmp_path: Path, reason: str) -> None:
    kind, changes, named = REFUSED[reason]
    check_refused(tmp_path, tiny(kind), changes, named)
