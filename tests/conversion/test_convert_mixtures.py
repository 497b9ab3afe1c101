"""dots.1 and ERNIE 4.5 with experts, in torch and in llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from agreement import changed_config, check_agreement, check_record, randomized, write_model
from declared import converted, declared
from transformers import AutoConfig, AutoModelForCausalLM

from snugfit.errors import SnugfitError

SIZES = {
    "vocab_size": 320,
    "hidden_size": 128,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}
DOTS = {
    "num_key_value_heads": 4,
    "intermediate_size": 160,
    "moe_intermediate_size": 64,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
    "sliding_window": None,
}
ERNIE = {
    "num_key_value_heads": 2,
    "intermediate_size": 256,  # llama.cpp's converter divides it by key heads for shared experts
    "moe_intermediate_size": 64,
    "moe_num_experts": 8,
    "moe_k": 2,
    "moe_num_shared_experts": 2,
}
# Kind -> model type, GGUF's architecture, its own numbers, what the Hub's config.json has besides.
MODELS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "dots1": ("dots1", "dots1", DOTS, {"scoring_func": "sigmoid"}),
    "ernie": ("ernie4_5_moe", "ernie4_5-moe", ERNIE, {}),
    "ernie-untied": ("ernie4_5_moe", "ernie4_5-moe", {**ERNIE, "tie_word_embeddings": False}, {}),
}
KINDS = tuple(MODELS)


def write(kind: str, folder: Path) -> Any:
    """Write a model that tests/data/converted/mixtures.json describes, and return it."""
    model_type, _, own, besides = MODELS[kind]
    config = AutoConfig.for_model(model_type, **{**SIZES, **own})
    model = randomized(AutoModelForCausalLM.from_config(config))
    for name, values in (*model.named_buffers(), *model.named_parameters()):
        if name.endswith("e_score_correction_bias"):
            spread = torch.linspace(-0.1, 0.1, values.numel()).bfloat16().float()
            values.data.copy_(spread.reshape(values.shape))
    write_model(folder, model)
    changed_config(folder, **besides)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_and_torch_agree(tmp_path: Path, kind: str) -> None:
    model = write(kind, tmp_path / kind)
    opened = check_agreement(tmp_path / kind, model, mix="F32")
    assert opened.spec().architecture == MODELS[kind][1] and opened.spec().cache_basis == "exact"
    check_record(opened, "mixtures", kind)


HOSTILE: dict[str, tuple[str, dict[str, Any]]] = {
    "few key heads": ("dots1", {"num_key_value_heads": 2}),
    "windows": ("dots1", {"layer_types": ["full_attention", "sliding_attention"]}),
    "scores": ("dots1", {"scoring_func": "softmax"}),
    "every other layer": ("ernie", {"moe_layer_interval": 2}),
    "last layers dense": ("ernie", {"moe_layer_end_index": 0}),
    "biases": ("ernie", {"use_bias": True}),
    "no experts used": ("ernie", {"moe_k": 0}),
    "sizes of experts": ("ernie", {"moe_intermediate_size": [64, 64]}),
}
CLASSES = {
    "dots1": "Dots1ForCausalLM",
    "ernie": "Ernie4_5_MoeForCausalLM",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_cannot_be_is_refused_in_one_line(case: str) -> None:
    kind, changes = HOSTILE[case]
    model_type, _, own, besides = MODELS[kind]
    stored = declared(model_type, {**SIZES, **own})
    with pytest.raises(SnugfitError) as caught:
        converted(CLASSES[kind], {**SIZES, **own, **besides, **changes}, stored)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
