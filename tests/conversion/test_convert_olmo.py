"""OLMo: converted, it says in llama.cpp what it says in torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from agreement import check_agreement, check_record, write_model
from tiny_models import YARN, check_refused, tiny_model

FOUR = {"num_hidden_layers": 4}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", FOUR | {"sliding_window": 24}),
    "olmo3-yarn": (
        "olmo3",
        FOUR
        | {
            "sliding_window": 24,
            "rope_parameters": {
                "full_attention": YARN,
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        },
    ),
}


def tiny(kind: str) -> Any:
    return tiny_model(*MODELS[kind])


@pytest.mark.parametrize("kind", MODELS)
def test_llama_cpp_and_torch_agree(tmp_path: Path, kind: str) -> None:
    model = tiny(kind)
    opened = check_agreement(write_model(tmp_path / kind, model), model, mix="F32")
    check_record(opened, "olmo", kind)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "activation": ("olmo2", {"hidden_act": "gelu"}, "hidden_act"),
    "kinds": ("olmo3", {"layer_types": ["full_attention"]}, "layer_types"),
    "bad kinds": ("olmo3", {"layer_types": 4}, "layer_types"),
    "two thetas": (
        "olmo3",
        {"rope_parameters": {"sliding_attention": {"rope_theta": 5.0}}},
        "rope_theta",
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_llama_cpp_would_run_otherwise_is_refused(tmp_path: Path, reason: str) -> None:
    kind, changes, named = REFUSED[reason]
    check_refused(tmp_path, tiny(kind), changes, named)
