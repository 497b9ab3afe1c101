"""Qwen 2 and 3, converted: they say in llama.cpp what they say in torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from agreement import (
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


VISION = {"depth": 2, "hidden_size": 64, "intermediate_size": 64, "num_heads": 2, "patch_size": 4}
VISION_2 = {**VISION, "out_hidden_size": 256, "fullatt_block_indexes": [1]}
VISION_3 = {**VISION, "out_hidden_size": 256, "num_position_embeddings": 16}
ROPE_2 = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]}
ROPE_3 = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [11, 11, 10]}
TEXT_3 = {**SIZES, "head_dim": 64, "rope_parameters": ROPE_3}
# Kind -> transformers' type of the model, its language model, its vision tower.
WITH_VISION: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "qwen2.5-vl": ("qwen2_5_vl", {**SIZES, "rope_parameters": ROPE_2}, VISION_2),
    "qwen3-vl": ("qwen3_vl", TEXT_3, {**VISION_3, "deepstack_visual_indexes": [0, 1]}),
    "qwen3-vl-moe": (
        "qwen3_vl_moe",
        {**TEXT_3, **EXPERTS},
        {**VISION_3, "deepstack_visual_indexes": [0]},
    ),
}
# With weights of 16 bits, llama.cpp rounds activations to as many: enough to swap near ties.
MIXES = {"qwen2": "F32", "qwen2-yarn": "F32"}


def tiny(kind: str) -> Any:
    if kind in WITH_VISION:
        model_type, text, vision = WITH_VISION[kind]
        config = AutoConfig.for_model(model_type, text_config=text, vision_config=vision)
        return randomized(AutoModelForImageTextToText.from_config(config))
    model_type, own = MODELS[kind]
    config = AutoConfig.for_model(model_type, **{**SIZES, **own})
    return randomized(AutoModelForCausalLM.from_config(config))


def write(folder: Path, kind: str, model: Any) -> Path:
    """Save a model as the Hub has it."""
    write_model(folder, model)
    if kind == "qwen3-vl-moe":
        rewritten_tensors(folder, turned)
    return folder


def turned(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Qwen3-VL's experts are published as [experts, columns, rows]."""
    return {
        name: values.mT.contiguous() if ".experts." in name else values
        for name, values in tensors.items()
    }


@pytest.mark.parametrize("kind", [*MODELS, *WITH_VISION])
def test_llama_cpp_and_torch_agree(tmp_path: Path, kind: str) -> None:
    model = tiny(kind)
    folder = write(tmp_path / kind, kind, model)
    opened = check_agreement(folder, model, mix=MIXES.get(kind, "F16"))
    check_record(opened, "qwen", kind)
    assert opened.spec().cache_basis == "exact"


def fused(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Stack experts as transformers 5 has them in memory: gate above up."""
    kept = {name: values for name, values in tensors.items() if ".experts." not in name}
    for layer in range(SIZES["num_hidden_layers"]):
        before = f"model.layers.{layer}.mlp.experts"
        gate, up, down = (
            torch.stack([tensors[f"{before}.{n}.{part}_proj.weight"] for n in range(8)])
            for part in ("gate", "up", "down")
        )
        kept |= {f"{before}.gate_up_proj": torch.cat([gate, up], 1), f"{before}.down_proj": down}
    return kept


@pytest.mark.parametrize("kind", ["qwen2-moe", "qwen3-moe"])
def test_fused_experts_are_the_same(tmp_path: Path, kind: str) -> None:
    model = tiny(kind)
    each, together = (write(tmp_path / name, kind, model) for name in ("each", "together"))
    rewritten_tensors(together, fused)
    check_same(open_model(str(together)), open_model(str(each)))


def test_experts_of_qwen3_vl_either_way_are_the_same(tmp_path: Path) -> None:
    model = tiny("qwen3-vl-moe")
    published = write(tmp_path / "published", "qwen3-vl-moe", model)
    check_same(open_model(str(write_model(tmp_path / "used", model))), open_model(str(published)))


def older_config(folder: Path, **changes: Any) -> None:
    """Rewrite config.json as transformers 4 had it: one level, and two keys for rope."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config |= config.pop("text_config", {})
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    path.write_text(json.dumps(config | {"rope_scaling": rope} | changes))


@pytest.mark.parametrize(
    ("kind", "older"), [("qwen2-yarn", "yarn"), ("qwen2.5-vl", "mrope"), ("qwen3", "default")]
)
def test_older_configs_are_the_same(tmp_path: Path, kind: str, older: str) -> None:
    model = tiny(kind)
    new, old = (write(tmp_path / name, kind, model) for name in ("new", "old"))
    rope = model.config.get_text_config().rope_parameters
    scaling = {k: v for k, v in rope.items() if k not in ("rope_type", "rope_theta")}
    older_config(old, rope_scaling={**scaling, "type": older} if scaling else None)
    check_same(open_model(str(old)), open_model(str(new)))
