"""DeepSeek V2 and V3, and what is built like them, in torch and in llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from agreement import changed_config, check_agreement, check_record, randomized, write_model
from declared import converted, declared
from drafts import add_draft_layer
from published import check_published
from transformers import AutoConfig, AutoModelForCausalLM

from snugfit.errors import SnugfitError
from snugfit.models import open_model

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
    "v3-drafting": ("deepseek_v3", {"n_group": 1, "topk_group": 1}, {"topk_method": "noaux_tc"}),
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
    if kind.endswith("drafting"):
        add_draft_layer(folder)
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


# config.json of deepseek-ai/DeepSeek-V3, but for what conversion does not read.
PUBLISHED = {
    "attention_bias": False,
    "first_k_dense_replace": 3,
    "hidden_act": "silu",
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "moe_intermediate_size": 2048,
    "moe_layer_freq": 1,
    "n_group": 8,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "num_nextn_predict_layers": 1,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    },
    "rope_theta": 10000,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "tie_word_embeddings": False,
    "topk_group": 4,
    "topk_method": "noaux_tc",
    "v_head_dim": 128,
    "vocab_size": 129280,
}


def test_published_model_has_the_shapes_that_llama_cpp_wants() -> None:
    stored = declared("deepseek_v3", PUBLISHED)
    keys, tensors = converted("DeepseekV3ForCausalLM", PUBLISHED, stored)
    check_published("deepseek2:v3", keys, tensors)
    assert keys["block_count"] == 61 and "nextn_predict_layers" not in keys
    assert keys["rope.scaling.yarn_log_multiplier"] == pytest.approx(0.1)


def test_scores_do_not_depend_on_how_the_config_was_saved(tmp_path: Path) -> None:
    """transformers does not save `scoring_func`; without the key llama.cpp takes softmax."""
    write("v3", tmp_path / "v3")
    changed_config(tmp_path / "v3", scoring_func=None)
    check_record(open_model(str(tmp_path / "v3")), "deepseek", "v3")


HOSTILE: dict[str, tuple[str, dict[str, Any]]] = {
    "groups of V2": ("deepseek_v2", {"topk_method": "group_limited_greedy", **GROUPS}),
    "another choice": ("deepseek_v3", {"topk_method": "greedy"}),
    "unequal mscales": ("deepseek_v3", {"rope_scaling": {**YARN, "mscale": 0.707}}),
    "no mscale": ("deepseek_v3", {"rope_scaling": {**YARN, "mscale_all_dim": 0}}),
    "another ramp": ("deepseek_v3", {"rope_scaling": {**YARN, "beta_fast": 1}}),
    "factor of a stranger": ("deepseek_v3", {"rope_scaling": {**YARN, "factor": "many"}}),
    "mscale of a stranger": ("deepseek_v3", {"rope_scaling": {**YARN, "mscale_all_dim": "one"}}),
    "scores": ("deepseek_v3", {"scoring_func": ["sigmoid"]}),
    "taken for V2 Lite": ("deepseek_v3", {"num_hidden_layers": 27}),
    "experts in every other layer": ("deepseek_v3", {"moe_layer_freq": 2}),
    "biases": ("deepseek_v3", {"attention_bias": True}),
    "heads": ("deepseek_v3", {"num_attention_heads": 3}),
    "no experts": ("deepseek_v3", {"n_routed_experts": 0}),
    "rank": ("deepseek_v3", {"kv_lora_rank": -4}),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_cannot_be_is_refused_in_one_line(case: str) -> None:
    model_type, changes = HOSTILE[case]
    classes = {"deepseek_v2": "DeepseekV2ForCausalLM", "deepseek_v3": "DeepseekV3ForCausalLM"}
    stored = declared(model_type, SIZES)
    with pytest.raises(SnugfitError) as caught:
        converted(classes[model_type], {**SIZES, **changes}, stored)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
