"""Command: converted, it says in llama.cpp what it says in torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from agreement import check_agreement, check_record, write_model
from tiny_models import YARN, check_refused, tiny_model

FOUR = {"num_hidden_layers": 4}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "command-r": ("cohere", {"logit_scale": 4.0, "use_qk_norm": False}),
    "command-r-plus": (
        "cohere",
        {
            "logit_scale": 4.0,
            "use_qk_norm": True,
            "num_hidden_layers": 64,
            "hidden_size": 64,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 64,
        },
    ),
    "command-r7b": (
        "cohere2",
        FOUR | {"logit_scale": 4.0, "sliding_window": 24, "rotary_pct": 1.0},
    ),
}


def tiny(kind: str) -> Any:
    return tiny_model(*MODELS[kind])


@pytest.mark.parametrize("kind", MODELS)
def test_llama_cpp_and_torch_agree(tmp_path: Path, kind: str) -> None:
    model = tiny(kind)
    opened = check_agreement(write_model(tmp_path / kind, model), model, mix="F32")
    if kind != "command-r-plus":  # 64 layers, as those of command-r but for their norms
        check_record(opened, "cohere", kind)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "activation": ("command-r", {"hidden_act": "gelu"}, "hidden_act"),
    "norms": ("command-r", {"use_qk_norm": True}, "use_qk_norm"),
    "untied": ("command-r", {"tie_word_embeddings": False}, "tie_word_embeddings"),
    "rope": ("command-r", {"rope_parameters": YARN}, "rope_type"),
    "kinds": ("command-r7b", {"layer_types": ["full_attention"] * 4}, "layer_types"),
    "pattern": (
        "command-r7b",
        {"layer_types": None, "sliding_window_pattern": 2},
        "sliding_window_pattern",
    ),
    "share": ("command-r7b", {"rotary_pct": 0.5}, "rotary_pct"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_llama_cpp_would_run_otherwise_is_refused(tmp_path: Path, reason: str) -> None:
    kind, changes, named = REFUSED[reason]
    check_refused(tmp_path, tiny(kind), changes, named)
