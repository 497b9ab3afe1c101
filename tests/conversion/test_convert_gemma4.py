"""Gemma 4: converted, it says in llama.cpp what it says in torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from agreement import check_agreement, check_record, write_model
from test_convert_gemma import VOCABULARY, randomized
from transformers import AutoConfig, AutoModelForCausalLM

SIZES = {
    "vocab_size": VOCABULARY,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size": 64,
    "hidden_size_per_layer_input": 0,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "global_head_dim": 32,
    "max_position_embeddings": 512,
    "sliding_window": 16,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_hidden_layers": 4,
    "final_logit_softcapping": 5.0,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "per-layer": (
        "gemma4_text",
        {"hidden_size_per_layer_input": 16, "num_kv_shared_layers": 2, "use_double_wide_mlp": True}
        | {"num_key_value_heads": 1},
    ),
    "keys-as-values": (
        "gemma4_text",
        {"attention_k_eq_v": True, "num_global_key_value_heads": 1},
    ),
    "experts": (
        "gemma4_text",
        {"attention_k_eq_v": True, "num_global_key_value_heads": 1, "enable_moe_block": True}
        | {"num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 32},
    ),
    "no-cap": ("gemma4_text", {"final_logit_softcapping": None, "tie_word_embeddings": False}),
    "unified": ("gemma4_unified_text", {"attention_k_eq_v": True, "num_global_key_value_heads": 1}),
}


def written(folder: Path, kind: str) -> tuple[Path, Any]:
    model_type, own = MODELS[kind]
    config = AutoConfig.for_model(model_type, **{**SIZES, **own})
    model = randomized(AutoModelForCausalLM.from_config(config))
    with torch.no_grad():
        for number, layer in enumerate(model.model.layers):
            layer.layer_scalar.fill_(0.75 + 0.125 * number)
            if kind == "experts":  # which otherwise would get nearly equal shares
                layer.router.scale.mul_(32)
    return write_model(folder, model), model


@pytest.mark.parametrize("kind", MODELS)
def test_llama_cpp_and_torch_agree(tmp_path: Path, kind: str) -> None:
    opened = check_agreement(*written(tmp_path / kind, kind), vocabulary=VOCABULARY)
    if kind == "no-cap":  # llama.cpp's converter leaves the key out, and its loader caps at 30
        assert opened.metadata.pop("gemma4.final_logit_softcapping") == 0
    if kind != "unified":  # its text model alone is no class of llama.cpp's converter
        check_record(opened, "gemma4", kind)
