"""GLM-4 and GLM-4.5 to 4.7: converted, they say in llama.cpp what they say in torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from agreement import changed_config, check_agreement, check_record, randomized, write_model
from declared import Declared, converted, declared
from drafts import add_draft_layer
from published import check_published
from transformers import AutoConfig, AutoModelForCausalLM

from snugfit.errors import SnugfitError

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
    "air-drafting": ("glm4_moe", "glm4moe", EXPERTS, {}),
    "flash-drafting": (
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
    sizes = {k: v for k, v in SIZES.items() if k != "head_dim" or "flash" not in kind}
    config = AutoConfig.for_model(model_type, **{**sizes, **own})
    model = randomized(AutoModelForCausalLM.from_config(config))
    for name, values in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            values.copy_(torch.linspace(-0.2, 0.2, len(values)).bfloat16().float())
    write_model(folder, model)
    changed_config(folder, **besides)
    if kind.endswith("drafting"):
        add_draft_layer(folder)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_and_torch_agree(tmp_path: Path, kind: str) -> None:
    model = write(kind, tmp_path / kind)
    opened = check_agreement(tmp_path / kind, model, mix="F32")
    assert opened.spec().architecture == MODELS[kind][1] and opened.spec().cache_basis == "exact"
    check_record(opened, "glm", kind)


# config.json of zai-org/GLM-4.5-Air and GLM-4.7-Flash, but for what conversion does not read.
AIR = {
    "attention_bias": True,
    "first_k_dense_replace": 1,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 10944,
    "max_position_embeddings": 131072,
    "moe_intermediate_size": 1408,
    "n_group": 1,
    "n_routed_experts": 128,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 96,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 46,
    "num_key_value_heads": 8,
    "num_nextn_predict_layers": 1,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "routed_scaling_factor": 1.0,
    "tie_word_embeddings": False,
    "topk_group": 1,
    "use_qk_norm": False,
    "vocab_size": 151552,
}
FLASH = {
    "attention_bias": False,
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 10240,
    "kv_lora_rank": 512,
    "max_position_embeddings": 202752,
    "moe_intermediate_size": 1536,
    "n_group": 1,
    "n_routed_experts": 64,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 20,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 47,
    "num_key_value_heads": 20,
    "num_nextn_predict_layers": 1,
    "partial_rotary_factor": 1.0,
    "q_lora_rank": 768,
    "qk_nope_head_dim": 192,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "routed_scaling_factor": 1.8,
    "tie_word_embeddings": False,
    "topk_group": 1,
    "topk_method": "noaux_tc",
    "v_head_dim": 256,
    "vocab_size": 154880,
}


def test_published_models_have_the_shapes_that_llama_cpp_wants() -> None:
    stored = declared("glm4_moe", AIR)
    keys, tensors = converted("Glm4MoeForCausalLM", AIR, stored)
    check_published("glm4moe:air", keys, tensors)
    assert keys["block_count"] == 47 and keys["nextn_predict_layers"] == 1
    unsaid = {key: value for key, value in AIR.items() if key != "partial_rotary_factor"}
    assert converted("Glm4MoeForCausalLM", unsaid, stored)[0] == keys
    assert keys["rope.dimension_count"] == 64
    keys, tensors = converted("Glm4MoeLiteForCausalLM", FLASH, declared("glm4_moe_lite", FLASH))
    check_published("deepseek2:glm47flash", keys, tensors)
    assert keys["expert_gating_func"] == 2 and keys["expert_weights_scale"] == 1.8


def test_experts_one_by_one_and_stacked_are_the_same_tensors() -> None:
    stored = declared("glm4_moe", {**SIZES, **EXPERTS})
    by_expert = {}
    for name, tensor in stored.items():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            by_expert[name] = tensor
            continue
        parts = ("gate_proj", "up_proj") if "gate_up" in name else ("down_proj",)
        count, rows, columns = tensor.shape
        for number in range(count):
            for part in parts:
                path = f"{name.rpartition('.')[0]}.{number}.{part}.weight"
                by_expert[path] = Declared((rows // len(parts), columns))
    of_stacks, of_experts = (
        {n: t.info for n, t in converted("Glm4MoeForCausalLM", {**SIZES, **EXPERTS}, s)[1].items()}
        for s in (stored, by_expert)
    )
    assert of_stacks == of_experts


HOSTILE: dict[str, tuple[str, dict[str, Any]]] = {
    "groups": ("glm4_moe", {"n_group": 3, "topk_group": 1}),
    "more groups than there are": ("glm4_moe", {"n_group": 2, "topk_group": 3}),
    "rotary part": ("glm4_moe", {"partial_rotary_factor": "half"}),
    "rotary part beyond": ("glm4", {"partial_rotary_factor": 7}),
    "positions of images": ("glm4", {"rope_parameters": {"mrope_section": [8, 4, 4]}}),
    "activation": ("glm4", {"hidden_act": "gelu"}),
    "scores": ("glm4_moe", {"scoring_func": "tanh"}),
    "theta": ("glm4", {"rope_theta": "large"}),
    "dense layers between": ("glm4_moe_lite", {"mlp_layer_types": ["sparse", "dense"]}),
    "latent sizes": ("glm4_moe_lite", {"v_head_dim": 41}),
    "latent without sizes": ("glm4_moe_lite", {"qk_nope_head_dim": None}),
    "another rope": ("glm4_moe_lite", {"rope_interleave": False}),
    "expert missing": ("glm4_moe", {"n_routed_experts": 9}),
}
CLASSES = {
    "glm4": "Glm4ForCausalLM",
    "glm4_moe": "Glm4MoeForCausalLM",
    "glm4_moe_lite": "Glm4MoeLiteForCausalLM",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_cannot_be_is_refused_in_one_line(case: str) -> None:
    model_type, changes = HOSTILE[case]
    sizes = {**SIZES, **EXPERTS} | (LATENT if model_type == "glm4_moe_lite" else {})
    if model_type == "glm4_moe_lite":
        del sizes["head_dim"]
    with pytest.raises(SnugfitError) as caught:
        converted(CLASSES[model_type], {**sizes, **changes}, declared(model_type, sizes))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
