"""Llama 4: converted, it says in llama.cpp what it says in torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from agreement import check_agreement, check_record, randomized, write_model
from tiny_models import LLAMA3_ROPE, SIZES, check_refused
from transformers import Llama4ForCausalLM, Llama4TextConfig

OWN = {
    "num_hidden_layers": 4,  # three with rotation and windows, one without
    "head_dim": 32,
    "intermediate_size": 96,
    "intermediate_size_mlp": 192,
    "num_local_experts": 4,
    "num_experts_per_tok": 1,
}
# llama.cpp writes and reads rope factors where both bands meet, as in the published models.
EQUAL_BANDS = LLAMA3_ROPE | {"high_freq_factor": 1.0, "low_freq_factor": 1.0}
MODELS: dict[str, dict[str, Any]] = {
    "scout": {"rope_parameters": EQUAL_BANDS, "use_qk_norm": True},
    # With 128 experts, llama.cpp leaves out the norm of queries and keys.
    "maverick": {
        "interleave_moe_layer_step": 2,
        "use_qk_norm": False,
        "num_local_experts": 128,
        "hidden_size": 64,
        "intermediate_size": 32,
    },
}


def tiny(kind: str) -> Any:
    config = Llama4TextConfig(**{**SIZES, **OWN, **MODELS[kind]})
    return randomized(Llama4ForCausalLM(config))


@pytest.mark.parametrize("kind", MODELS)
def test_llama_cpp_and_torch_agree(tmp_path: Path, kind: str) -> None:
    model = tiny(kind)
    opened = check_agreement(write_model(tmp_path / kind, model), model, mix="F32")
    check_record(opened, "llama4", kind)


REFUSED: dict[str, dict[str, Any]] = {
    "attention_chunk_size": {"attention_chunk_size": 4096},
    "attn_temperature_tuning": {"attn_temperature_tuning": False},
    "floor_scale": {"floor_scale": 1024},
    "use_qk_norm": {"use_qk_norm": False},
    "no_rope_layers": {"no_rope_layers": [1, 1, 1, 1]},
    "layer_types": {"layer_types": ["full_attention"] * 4},
    "moe_layers": {"moe_layers": [3]},
    "experts": {"num_local_experts": 0},
}


@pytest.mark.parametrize("named", REFUSED)
def test_what_llama_cpp_would_run_otherwise_is_refused(tmp_path: Path, named: str) -> None:
    check_refused(tmp_path, tiny("scout"), REFUSED[named], named)
