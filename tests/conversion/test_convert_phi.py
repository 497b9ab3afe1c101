"""Phi-3, 3.5 and 4: converted, they say in llama.cpp what they say in torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from agreement import changed_config, check_agreement, check_record, write_model
from tiny_models import check_refused, tiny_model


def long_rope(original: int, pairs: int = 16) -> dict[str, Any]:
    return {
        "original_max_position_embeddings": original,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1 + 0.05 * pair for pair in range(pairs)],
            "long_factor": [1 + 0.9 * pair for pair in range(pairs)],
        },
    }


# Short factors hold for texts up to the original context; llama.cpp runs with 512 tokens here.
MODELS: dict[str, dict[str, Any]] = {
    "phi-4": {},
    "short-factors": long_rope(2048) | {"max_position_embeddings": 8192, "sliding_window": 262144},
    "long-factors": long_rope(32) | {"max_position_embeddings": 512, "sliding_window": 262144},
    "part-rotated": long_rope(32, pairs=12) | {"tie_word_embeddings": True},
}
MODELS["part-rotated"]["rope_parameters"]["partial_rotary_factor"] = 0.75


def tiny(kind: str) -> Any:
    return tiny_model("phi3", MODELS[kind])


@pytest.mark.parametrize("kind", MODELS)
def test_llama_cpp_and_torch_agree(tmp_path: Path, kind: str) -> None:
    model = tiny(kind)
    opened = check_agreement(write_model(tmp_path / kind, model), model, mix="F32")
    check_record(opened, "phi", kind)


def test_config_as_on_the_hub(tmp_path: Path) -> None:
    """Published configs call the scaling `su`, and keep theta and the rotated part beside it."""
    model = tiny("part-rotated")
    folder = write_model(tmp_path, model)
    rope = json.loads((folder / "config.json").read_text())["rope_parameters"]
    changed_config(
        folder,
        rope_parameters=None,
        rope_theta=rope["rope_theta"],
        partial_rotary_factor=0.75,
        rope_scaling={
            "type": "su",
            "short_factor": rope["short_factor"],
            "long_factor": rope["long_factor"],
        },
    )
    opened = check_agreement(folder, model, mix="F32")
    check_record(opened, "phi", "part-rotated")


LONG = long_rope(32)["rope_parameters"]
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "activation": ({"hidden_act": "gelu"}, "hidden_act"),
    "rope": ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope_type"),
    "few factors": ({"rope_parameters": LONG | {"long_factor": [1.0]}}, "long_factor"),
    "no factors": ({"rope_parameters": LONG | {"short_factor": None}}, "short_factor"),
    "zero": ({"rope_parameters": LONG | {"short_factor": [0.0] * 16}}, "short_factor"),
    "text": ({"rope_parameters": LONG | {"short_factor": ["1"] * 16}}, "short_factor"),
    "heads": ({"num_key_value_heads": 2}, "contradicts"),
    "share": ({"partial_rotary_factor": "half"}, "partial_rotary_factor"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_llama_cpp_would_run_otherwise_is_refused(tmp_path: Path, reason: str) -> None:
    changes, named = REFUSED[reason]
    check_refused(tmp_path, tiny("phi-4"), {"rope_parameters": {}} | changes, named)
