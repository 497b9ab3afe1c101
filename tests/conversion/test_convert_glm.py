"""GLM-4 and GLM-4.5 to 4.7: converted, they say in llama.cpp what they say in torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from agreement import changed_config, check_agreement, check_record, randomized, write_model
from transformers import AutoConfig, AutoModelForCausalLM

SIZES = {
    "vocab_size": 320,
    "hidden_size": 128,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}
EXPERTS = {
    "moe_intermediate_size": 64,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 64,
    "kv_lora_rank": 96,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 40,
}
# Kind -> model type, GGUF's architecture, its own numbers, what the Hub's config.json has besides.
MODELS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "glm4": ("glm4", "glm4", {"attention_bias": False}, {}),
    "glm4-biased": ("glm4", "glm4", {"attention_bias": True, "tie_word_embeddings": True}, {}),
    "air": ("glm4_moe", "glm4moe", {**EXPERTS, "attention_bias": True}, {}),
    "normed": ("glm4_moe", "glm4moe", {**EXPERTS, "use_qk_norm": True, "n_shared_experts": 2}, {}),
    "flash": (
        "glm4_moe_lite",
        "deepseek2",
        {**EXPERTS, **LATENT},
        {"first_k_dense_replace": 1, "topk_method": "noaux_tc", "scoring_func": "sigmoid"},
    ),
}
KINDS = tuple(MODELS)


def write(kind: str, folder: Path) -> Any:
    """Write a model that tests/data/converted/glm.json describes, and return it."""
    model_type, _, own, besides = MODELS[kind]
    sizes = {k: v for k, v in SIZES.items() if k != "head_dim" or kind != "flash"}
    config = AutoConfig.for_model(model_type, **{**sizes, **own})
    model = randomized(AutoModelForCausalLM.from_config(config))
    for name, values in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            values.copy_(torch.linspace(-0.2, 0.2, len(values)).bfloat16().float())
    write_model(folder, model)
    changed_config(folder, **besides)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_and_torch_agree(tmp_path: Path, kind: str) -> None:
    model = write(kind, tmp_path / kind)
    opened = check_agreement(tmp_path / kind, model, mix="F32")
    assert opened.spec().architecture == MODELS[kind][1] and opened.spec().cache_basis == "exact"
    check_record(opened, "glm", kind)
