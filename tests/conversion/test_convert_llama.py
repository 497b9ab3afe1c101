"""Llama, Mistral and their like: converted, they say in llama.cpp what they say in torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from agreement import (
    changed_config,
    check_agreement,
    check_record,
    rewritten_tensors,
    write_model,
)
from tiny_models import LLAMA3_ROPE, YARN, check_refused, tiny_model

from snugfit.models import open_model

# Queries grow at 16, 32 and 48 positions.
MINISTRAL3_ROPE = YARN | {
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "factor": 16.0,
    "llama_4_scaling_beta": 0.1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 16,
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2, "num_hidden_layers": 2}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama3": ("llama", {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True}),
    "llama-linear": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e6, "factor": 4.0}},
    ),
    "llama-yarn": ("llama", {"rope_parameters": YARN}),
    "llama-yarn-louder": ("llama", {"rope_parameters": YARN | {"attention_factor": 1.5}}),
    "llama-biased": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral-nemo": ("mistral", {"sliding_window": None, "head_dim": 48}),
    "mixtral": ("mixtral", EXPERTS | {"sliding_window": None}),
    "ministral3": ("ministral3", {"rope_parameters": MINISTRAL3_ROPE, "head_dim": 48}),
    "smollm3": ("smollm3", {"num_hidden_layers": 4}),
}
# llama.cpp reads `attn_factor`; its converter writes `yarn_attn_factor`, which llama ignores.
APART = {"llama-yarn-louder": ("rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor")}


def tiny(kind: str) -> Any:
    return tiny_model(*MODELS[kind])


@pytest.mark.parametrize("kind", MODELS)
def test_llama_cpp_and_torch_agree(tmp_path: Path, kind: str) -> None:
    model = tiny(kind)
    opened = check_agreement(write_model(tmp_path / kind, model), model, mix="F32")
    check_record(opened, "llama", kind, APART.get(kind, ()))


def test_experts_of_transformers_5(tmp_path: Path) -> None:
    """It holds a layer's experts in one tensor, but stores them one by one, as Mixtral's are."""
    model = tiny("mixtral")
    folder = write_model(tmp_path, model)
    fused = model.state_dict()
    rewritten_tensors(folder, lambda _: {name: values.clone() for name, values in fused.items()})
    assert "model.layers.0.mlp.experts.gate_up_proj" in fused
    check_agreement(folder, model)


def test_mistral_of_images_gives_its_language_model(tmp_path: Path) -> None:
    """Its tensors have lain under three names, and towers beside them."""
    model = tiny("ministral3")
    folder = write_model(tmp_path, model)
    config = json.loads((folder / "config.json").read_text())
    changed_config(
        folder,
        architectures=["Mistral3ForConditionalGeneration"],
        model_type="mistral3",
        text_config=config,
        vision_config={"model_type": "pixtral", "hidden_size": 1024, "num_hidden_layers": 24},
    )
    image = {"vision_tower.patch_conv.weight": torch.zeros(8, 3, 4, 4)}
    image |= {"multi_modal_projector.linear_1.weight": torch.zeros(8, 8)}
    for before, prefix in (
        ("", "language_model."),
        ("language_model.model.", "model.language_model."),
    ):
        rewritten_tensors(
            folder,
            lambda given, old=before, new=prefix: (
                {renamed(name, old, new): values for name, values in given.items()} | image
            ),
        )
        opened = check_agreement(folder, model, mix="F32")
        check_record(opened, "llama", "ministral3")


def renamed(name: str, before: str, prefix: str) -> str:
    if not name.startswith(before):
        return name
    return prefix + name.removeprefix(before)


# What llama.cpp would run otherwise than the model's authors, or what cannot be right.
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "activation": ("llama", {"hidden_act": "gelu"}, "hidden_act"),
    "rope": ("llama", {"rope_parameters": {"rope_type": "spiral"}}, "spiral"),
    "factor": ("llama", {"rope_parameters": LLAMA3_ROPE | {"factor": "8"}}, "factor"),
    "no factor": ("llama", {"rope_parameters": {"rope_type": "linear"}}, "factor"),
    "not a number": (
        "llama",
        {"rope_parameters": LLAMA3_ROPE | {"factor": float("nan")}},
        "factor",
    ),
    "betas": ("llama", {"rope_parameters": YARN | {"beta_fast": 4}}, "beta_fast"),
    "heads": ("llama", {"head_dim": 2**30}, "heads"),
    "too many heads": ("llama", {"num_attention_heads": 2**30}, "contradicts"),
    "fewer heads": ("llama", {"num_attention_heads": 4}, "contradicts"),
    "odd heads": ("llama", {"num_attention_heads": 7}, "contradicts"),
    "layers": ("llama", {"num_hidden_layers": 3}, "missing"),
    "experts": ("mixtral", {"num_local_experts": 5}, "experts"),
    "experts used": ("mixtral", {"num_experts_per_tok": 9}, "experts"),
    "mscale": ("ministral3", {"rope_parameters": MINISTRAL3_ROPE | {"mscale": 0.5}}, "mscale"),
    "text": ("ministral3", {"model_type": "mistral4"}, "mistral4"),
    "without rope": ("smollm3", {"no_rope_layers": [1, 0, 1, 0]}, "no_rope_layers"),
    "windows": ("smollm3", {"use_sliding_window": True}, "use_sliding_window"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_llama_cpp_would_run_otherwise_is_refused(tmp_path: Path, reason: str) -> None:
    kind, changes, named = REFUSED[reason]
    check_refused(tmp_path, tiny(kind), changes, named)


def test_windows_that_llama_cpp_ignores_end_the_context(tmp_path: Path) -> None:
    """Mistral 7B v0.1 looks back 4096 tokens of 32768; until then full attention is the same."""
    folder = write_model(tmp_path, tiny("mistral"))
    changed_config(folder, sliding_window=128)
    assert open_model(str(folder)).metadata["llama.context_length"] == 128
