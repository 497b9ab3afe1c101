"""Qwen 2 and 3, converted: they say in llama.cpp what they say in torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
EXPERTS = {"moe_intermediate_size": 96, "num_experts": 8, "num_experts_per_tok": 2}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
# Kind -> transformers' type of the model, and what its config says beyond SIZES.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("qwen2", {}),
    "qwen2-tied": ("qwen2", {"tie_word_embeddings": True, "rms_norm_eps": 1e-5}),
    "qwen2-yarn": ("qwen2", {"rope_parameters": {"rope_theta": 1e4, **YARN}}),
    "qwen2-moe": (
        "qwen2_moe",
        {**EXPERTS, "shared_expert_intermediate_size": 160, "norm_topk_prob": False},
    ),
    "qwen3": ("qwen3", {"head_dim": 64}),
    "qwen3-tied": ("qwen3", {"head_dim": 64, "tie_word_embeddings": True}),
    "qwen3-moe": ("qwen3_moe", {**EXPERTS, "head_dim": 64, "norm_topk_prob": True}),
}


# With weights of 16 bits, llama.cpp rounds activations to as many: enough to swap near ties.
MIXES = {"qwen2": "F32", "qwen2-yarn": "F32"}


def tiny(kind: str) -> Any:
    model_type, own = MODELS[kind]
    config = AutoConfig.for_model(model_type, **{**SIZES, **own})
    return randomized(AutoModelForCausalLM.from_config(config))


@pytest.mark.parametrize("kind", MODELS)
def test_llama_cpp_and_torch_agree(tmp_path: Path, kind: str) -> None:
    model = tiny(kind)
    opened = check_agreement(write_model(tmp_path / kind, model), model, mix=MIXES.get(kind, "F16"))
    check_record(opened, "qwen", kind)
    assert opened.spec().cache_basis == "exact"
