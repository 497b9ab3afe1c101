"""DeepSeek V2 and V3, and what is built like them, in torch and in llama.cpp."""

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
    "moe_intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 64,
    "kv_lora_rank": 96,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 24,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 2.5,
    "max_position_embeddings": 512,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 64,
}
LITE = {"q_lora_rank": None, "routed_scaling_factor": 1.0, "n_shared_experts": 2}
GROUPS = {"n_group": 4, "topk_group": 2, "num_experts_per_tok": 3}
# Kind -> model type, its own numbers, and what the Hub's config.json has besides.
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "v3": ("deepseek_v3", {**GROUPS, "rope_parameters": YARN}, {"topk_method": "noaux_tc"}),
    "v3-plain": ("deepseek_v3", {"n_group": 1, "topk_group": 1, "norm_topk_prob": False}, {}),
    "v2-lite": (
        "deepseek_v2",
        {
            **LITE,
            "num_hidden_layers": 27,
            "n_group": 1,
            "topk_group": 1,
            "rope_parameters": {**YARN, "mscale": 0.707, "mscale_all_dim": 0.707},
        },
        {"scoring_func": "softmax", "topk_method": "greedy"},
    ),
    "v2-shallow": ("deepseek_v2", LITE, {"scoring_func": "softmax"}),
}
# llama.cpp's loader misses the key of queries without low rank, unless there are 26 or 27 layers
# as in the models that it knows: we write 0, which its converter does not.
KINDS = tuple(kind for kind in MODELS if kind != "v2-shallow")


def write(kind: str, folder: Path) -> Any:
    """Write a model that tests/data/converted/deepseek.json describes, and return it."""
    model_type, own, besides = MODELS[kind]
    config = AutoConfig.for_model(model_type, **{**SIZES, **own})
    model = randomized(AutoModelForCausalLM.from_config(config))
    for name, values in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            values.copy_(torch.linspace(-0.2, 0.2, len(values)).bfloat16().float())
    write_model(folder, model)
    sigmoid = {"scoring_func": "sigmoid"} if model_type == "deepseek_v3" else {}
    changed_config(folder, **(sigmoid | besides))
    return model


@pytest.mark.parametrize("kind", MODELS)
def test_llama_cpp_and_torch_agree(tmp_path: Path, kind: str) -> None:
    model = write(kind, tmp_path / kind)
    opened = check_agreement(tmp_path / kind, model, mix="F32")
    assert opened.spec().architecture == "deepseek2" and opened.spec().cache_basis == "exact"
    if kind in KINDS:
        check_record(opened, "deepseek", kind)
    else:
        assert opened.metadata["deepseek2.attention.q_lora_rank"] == 0
