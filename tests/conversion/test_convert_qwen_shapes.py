"""Qwen models of their real sizes, converted from headers; and configs that are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from agreement import plain
from declared import Declared
from headers import header as recorded_header
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from snugfit.archs.conversion.config import Config
from snugfit.errors import FormatError, SnugfitError, UnsupportedError
from snugfit.folders import converted_folder

# What these models' config.json say, as published.
QWEN3_30B_A3B = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "decoder_sparse_step": 1,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "max_position_embeddings": 40960,
    "max_window_layers": 48,
    "mlp_only_layers": [],
    "model_type": "qwen3_moe",
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "num_attention_heads": 32,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
TEXT_3_5 = {
    "attention_bias": False,
    "attn_output_gate": True,
    "full_attention_interval": 4,
    "head_dim": 256,
    "hidden_act": "silu",
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_value_head_dim": 128,
    "max_position_embeddings": 262144,
    "mlp_only_layers": [],
    "mtp_num_hidden_layers": 1,
    "mtp_use_dedicated_embeddings": False,
    "rms_norm_eps": 1e-06,
    "rope_parameters": {
        "mrope_interleaved": True,
        "mrope_section": [11, 11, 10],
        "partial_rotary_factor": 0.25,
        "rope_theta": 10000000,
        "rope_type": "default",
    },
    "vocab_size": 248320,
}


def qwen3_5(model_type: str, architecture: str, *, tied: bool, **sizes: Any) -> dict[str, Any]:
    text = {**TEXT_3_5, **sizes, "model_type": f"{model_type}_text", "tie_word_embeddings": tied}
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "text_config": text,
        "tie_word_embeddings": tied,
        "vision_config": {"depth": 2, "out_hidden_size": sizes["hidden_size"]},
    }


PUBLISHED: dict[str, dict[str, Any]] = {
    "Qwen3-30B-A3B": QWEN3_30B_A3B,
    "Qwen3.5-4B": qwen3_5(
        "qwen3_5",
        "Qwen3_5ForConditionalGeneration",
        tied=True,
        hidden_size=2560,
        intermediate_size=9216,
        num_hidden_layers=32,
        num_attention_heads=16,
        num_key_value_heads=4,
        linear_num_value_heads=32,
    ),
    "Qwen3.6-27B": qwen3_5(
        "qwen3_5",
        "Qwen3_5ForConditionalGeneration",
        tied=False,
        hidden_size=5120,
        intermediate_size=17408,
        num_hidden_layers=64,
        num_attention_heads=24,
        num_key_value_heads=4,
        linear_num_value_heads=48,
    ),
    "Qwen3.6-35B-A3B": qwen3_5(
        "qwen3_5_moe",
        "Qwen3_5MoeForConditionalGeneration",
        tied=False,
        hidden_size=2048,
        num_hidden_layers=40,
        num_attention_heads=16,
        num_key_value_heads=2,
        linear_num_value_heads=32,
        moe_intermediate_size=512,
        num_experts=256,
        num_experts_per_tok=8,
        shared_expert_intermediate_size=512,
    ),
}
# Keys of the recorded headers that llama.cpp's converter leaves out, for they follow.
DERIVED = {"vocab_size", "rope.dimension_count", "feed_forward_length", "rope.freq_base"}
# And the one that it adds where the config names the type of each layer.
NAMED = "attention.recurrent_layers"


def declared(config: dict[str, Any]) -> dict[str, Declared]:
    """Return the tensors that transformers makes of a config, as headers alone."""
    fields = {k: v for k, v in config.items() if k not in ("model_type", "architectures")}
    made = AutoConfig.for_model(config["model_type"], **fields)
    kind = AutoModelForImageTextToText if "text_config" in config else AutoModelForCausalLM
    with torch.device("meta"):
        tensors = kind.from_config(made).state_dict()
    if config.get("tie_word_embeddings"):
        del tensors["lm_head.weight"]
    return {name: Declared(tuple(tensor.shape)) for name, tensor in tensors.items()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_real_sizes_make_the_recorded_header(name: str) -> None:
    config = PUBLISHED[name]
    metadata, converted = converted_folder(Config(name, config), declared(config), name)
    header = recorded_header(name)
    assert {t.info.name: t.info.shape for t in converted} == {
        tensor.name: tensor.shape for tensor in header.tensors.values()
    }
    in_full = {t.name for t in header.tensors.values() if t.type_name == "F32"}
    assert in_full == {t.info.name for t in converted if t.info.type_name == "F32"}
    prefix = header.metadata["general.architecture"] + "."
    found, expected = (
        {k.removeprefix(prefix): plain(v) for k, v in keys.items() if k.startswith(prefix)}
        for keys in (metadata, header.metadata)
    )
    for key in found.keys() & expected.keys():
        assert np.allclose(found[key], expected[key], rtol=1e-6), key
    assert (found.keys() ^ expected.keys()) - {NAMED} <= DERIVED


def without_tensors(config: dict[str, Any]) -> None:
    """Convert a config that is refused before its tensors are looked for."""
    converted_folder(Config("folder", config), {}, "model")


def changed(name: str, **changes: Any) -> dict[str, Any]:
    config = PUBLISHED[name]
    if "text_config" in config:
        return config | {"text_config": config["text_config"] | changes}
    return config | changes


UNSUPPORTED: list[tuple[str, dict[str, Any]]] = [
    ("Qwen3-30B-A3B", {"hidden_act": "gelu"}),
    ("Qwen3-30B-A3B", {"attention_bias": True}),
    ("Qwen3-30B-A3B", {"norm_topk_prob": False}),
    ("Qwen3-30B-A3B", {"norm_topk_prob": None}),
    ("Qwen3-30B-A3B", {"decoder_sparse_step": 2}),
    ("Qwen3-30B-A3B", {"mlp_only_layers": [0]}),
    (
        "Qwen3-30B-A3B",
        {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 28},
    ),
    ("Qwen3-30B-A3B", {"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}),
    (
        "Qwen3-30B-A3B",
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "truncate": False}},
    ),
    ("Qwen3-30B-A3B", {"architectures": ["Qwen2MoeForCausalLM"]}),
    ("Qwen3.5-4B", {"attn_output_gate": False}),
    ("Qwen3.5-4B", {"output_gate_type": "sigmoid"}),
    ("Qwen3.5-4B", {"linear_value_head_dim": 64}),
]


@pytest.mark.parametrize(("name", "changes"), UNSUPPORTED)
def test_what_llama_cpp_does_not_compute_is_refused(name: str, changes: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError, match=r"folder/config\.json: ") as caught:
        without_tensors(changed(name, **changes))
    assert "\n" not in str(caught.value)


ABSURD: list[tuple[str, dict[str, Any]]] = [
    ("Qwen3-30B-A3B", {"num_experts_per_tok": 129}),
    ("Qwen3-30B-A3B", {"num_experts": "many"}),
    ("Qwen3-30B-A3B", {"num_hidden_layers": 10**9}),
    ("Qwen3-30B-A3B", {"max_position_embeddings": None}),
    ("Qwen3-30B-A3B", {"rope_theta": [1]}),
    ("Qwen3-30B-A3B", {"rope_scaling": {"type": "yarn", "factor": "four"}}),
    ("Qwen3-30B-A3B", {"rope_scaling": {"type": "linear"}}),
    ("Qwen3.5-4B", {"linear_num_key_heads": 0}),
    ("Qwen3.5-4B", {"linear_num_value_heads": 33}),
    ("Qwen3.5-4B", {"linear_conv_kernel_dim": -4}),
    ("Qwen3.5-4B", {"full_attention_interval": 0}),
    ("Qwen3.5-4B", {"layer_types": ["linear_attention"]}),
    ("Qwen3.5-4B", {"layer_types": ["sliding_attention"] * 32}),
    ("Qwen3.5-4B", {"layer_types": 32}),
    ("Qwen3.5-4B", {"rope_parameters": {"mrope_section": [11, "11"]}}),
    ("Qwen3.5-4B", {"rope_parameters": {"mrope_section": [1] * 9}}),
    ("Qwen3.5-4B", {"rope_parameters": {"partial_rotary_factor": "all"}}),
]


@pytest.mark.parametrize(("name", "changes"), ABSURD)
def test_absurd_configs_fail_cleanly(name: str, changes: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match=r"folder/config\.json: ") as caught:
        without_tensors(changed(name, **changes))
    assert "\n" not in str(caught.value)


WRONG_SHAPES: list[tuple[str, tuple[int, ...]]] = [
    ("linear_attn.in_proj_qkv.weight", (8190, 2560)),
    ("linear_attn.in_proj_z.weight", (4000, 2560)),
    ("linear_attn.out_proj.weight", (2560, 4000)),
    ("linear_attn.conv1d.weight", (8000, 1, 4)),
    ("linear_attn.A_log", (31,)),
    ("linear_attn.dt_bias", (16,)),
]


@pytest.fixture(scope="module")
def tensors_of_4b() -> dict[str, Declared]:
    return declared(PUBLISHED["Qwen3.5-4B"])


@pytest.mark.parametrize(("role", "shape"), WRONG_SHAPES)
def test_shapes_that_contradict_the_config_fail_cleanly(
    tensors_of_4b: dict[str, Declared], role: str, shape: tuple[int, ...]
) -> None:
    stored = tensors_of_4b | {f"model.language_model.layers.0.{role}": Declared(shape)}
    with pytest.raises(FormatError, match=r"which config\.json contradicts"):
        converted_folder(Config("folder", PUBLISHED["Qwen3.5-4B"]), stored, "model")


def test_a_layer_without_a_tensor_fails_cleanly(tensors_of_4b: dict[str, Declared]) -> None:
    stored = dict(tensors_of_4b)
    del stored["model.language_model.layers.5.linear_attn.A_log"]
    with pytest.raises(FormatError, match="ssm_a of layer 5 or 0 is missing"):
        converted_folder(Config("folder", PUBLISHED["Qwen3.5-4B"]), stored, "model")


def test_draft_layers_of_absurd_number_fail_cleanly(tensors_of_4b: dict[str, Declared]) -> None:
    stored = tensors_of_4b | {"mtp.layers.9999.mlp.up_proj.weight": Declared((9216, 2560))}
    with pytest.raises(SnugfitError, match="has no place"):
        converted_folder(Config("folder", PUBLISHED["Qwen3.5-4B"]), stored, "model")
