"""Qwen3-Next and Qwen 3.5 / 3.6, converted: they say in llama.cpp what they say in torch."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agreement import (
    changed_config,
    check_agreement,
    check_record,
    check_same,
    randomized,
    rewritten_tensors,
    write_model,
)
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from snugfit.models import open_model

SIZES = {
    "vocab_size": 320,
    "hidden_size": 256,
    "intermediate_size": 288,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 512,
    # Three value heads a key head: no rearrangement is its own inverse.
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
}
EXPERTS = {
    "moe_intermediate_size": 96,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "shared_expert_intermediate_size": 160,
}
ROPE = {"rope_theta": 1e4, "partial_rotary_factor": 0.25}
SECTIONS = {"mrope_section": [3, 3, 2], "mrope_interleaved": True}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
DEFAULT = {"rope_type": "default", **ROPE}
NESTED = {**SIZES, "rope_parameters": {**DEFAULT, **SECTIONS}}
VISION = {"depth": 1, "hidden_size": 64, "intermediate_size": 64, "num_heads": 2, "patch_size": 4}
VISION |= {"out_hidden_size": 256, "num_position_embeddings": 16}
# Kind -> transformers' type of the model, and what its config says; -mtp: as the Hub has them.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3-next": ("qwen3_next", {**SIZES, **EXPERTS, "rope_parameters": DEFAULT}),
    "qwen3-next-mtp": ("qwen3_next", {**SIZES, **EXPERTS, "rope_parameters": DEFAULT}),
    "qwen3.5": ("qwen3_5_text", {**NESTED, "tie_word_embeddings": True}),
    "qwen3.5-yarn": (
        "qwen3_5_text",
        {**SIZES, "rope_parameters": {**ROPE, **SECTIONS, **YARN}},
    ),
    "qwen3.5-mtp": ("qwen3_5", {"text_config": NESTED, "vision_config": VISION}),
    "qwen3.5-moe": ("qwen3_5_moe_text", {**NESTED, **EXPERTS}),
    "qwen3.5-moe-mtp": (
        "qwen3_5_moe",
        {"text_config": {**NESTED, **EXPERTS}, "vision_config": VISION},
    ),
}
# With weights of 16 bits, llama.cpp rounds activations to as many: enough to choose other experts.
MIXES = {"qwen3.5-moe": "F32", "qwen3.5-moe-mtp": "F32"}


def tiny(kind: str) -> Any:
    model_type, own = MODELS[kind]
    kind_of_model = AutoModelForImageTextToText if "text_config" in own else AutoModelForCausalLM
    return with_states(kind_of_model.from_config(AutoConfig.for_model(model_type, **own)))


def with_states(model: Any) -> Any:
    """Give weights whose states remember for a few tokens, and norms around one."""
    generator = torch.Generator().manual_seed(2)
    randomized(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("A_log", "dt_bias")):
                parameter.uniform_(-1.5, 0.5, generator=generator)
            elif name.endswith("norm.weight") and not name.endswith("linear_attn.norm.weight"):
                parameter.normal_(0, 0.3, generator=generator)  # one is added to these
            elif name.endswith("conv1d.weight"):
                parameter.normal_(0, 0.6, generator=generator)
            parameter.copy_(parameter.bfloat16().float())
    return model


def write(folder: Path, kind: str, model: Any) -> Path:
    """Save a model as the Hub has it, its draft layer included."""
    write_model(folder, model)
    if kind.endswith("-mtp"):
        rewritten_tensors(folder, with_draft_layer)
        config = json.loads((folder / "config.json").read_text())
        if "text_config" in config:
            config["text_config"] |= {"mtp_num_hidden_layers": 1, "full_attention_interval": 4}
            config["text_config"] |= {"attn_output_gate": True, "output_gate_type": "swish"}
            changed_config(folder, text_config=config["text_config"])
    return folder


def with_draft_layer(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Add a layer that drafts, and what stands before and after it: `mtp.*`."""
    last = re.compile(r".+\.layers\.3\.(.+)")
    layer = {m[1]: values for name, values in tensors.items() if (m := last.fullmatch(name))}
    drafts = {f"mtp.layers.0.{name}": values + 1 for name, values in layer.items()}
    for number, name in enumerate(("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden")):
        drafts[f"mtp.{name}.weight"] = torch.full((256,), number / 4)
    drafts["mtp.fc.weight"] = torch.arange(256.0 * 512).reshape(256, 512)
    return {name: values.contiguous() for name, values in (tensors | drafts).items()}


@pytest.mark.parametrize("kind", MODELS)
def test_llama_cpp_and_torch_agree(tmp_path: Path, kind: str) -> None:
    model = tiny(kind)
    folder = write(tmp_path / kind, kind, model)
    opened = check_agreement(folder, model, mix=MIXES.get(kind, "F16"))
    check_record(opened, "delta_net", kind)
    spec = opened.spec()
    assert spec.cache_basis == "exact"
    assert (len(spec.caches), len(spec.states)) == (1, 3)


def test_values_of_a_draft_layer(tmp_path: Path) -> None:
    model = tiny("qwen3.5-mtp")
    opened = open_model(str(write(tmp_path / "model", "qwen3.5-mtp", model)))
    last = model.model.language_model.layers[3]
    for name, expected in (
        ("blk.4.nextn.shared_head_norm.weight", torch.full((256,), 1.0)),
        ("blk.4.nextn.enorm.weight", torch.full((256,), 1.25)),
        ("blk.4.nextn.hnorm.weight", torch.full((256,), 1.5)),
        ("blk.4.nextn.eh_proj.weight", torch.arange(256.0 * 512).reshape(256, 512)),
        ("blk.4.attn_norm.weight", last.input_layernorm.weight + 2),
        ("blk.4.attn_q.weight", last.self_attn.q_proj.weight + 1),
        ("blk.4.ffn_down.weight", last.mlp.down_proj.weight + 1),
    ):
        assert np.array_equal(opened.load(name), expected.detach().numpy()), name


def test_a_draft_layer_that_is_not_stored_is_not_counted(tmp_path: Path) -> None:
    """transformers keeps the config's number but not the tensors; llama.cpp's converter counts."""
    folder = write_model(tmp_path / "model", tiny("qwen3.5"))
    before = open_model(str(folder))
    changed_config(folder, mtp_num_hidden_layers=1)
    check_same(open_model(str(folder)), before)
    assert before.metadata["qwen35.block_count"] == 4
