"""Gemma 1 to 3n: converted, they say in llama.cpp what they say in torch."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from agreement import check_agreement, check_record, randomized, write_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from snugfit.models import open_model

VOCABULARY = 304  # of the tiny tokenizer: llama.cpp's converter cuts off what is beyond
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
}
SOFTCAPS = {"attn_logit_softcapping": 4.0, "final_logit_softcapping": 5.0}
LINEAR = {"rope_type": "linear", "factor": 8.0, "rope_theta": 500_000.0}
MODELS = {
    "gemma": ("gemma", {}),
    "gemma-theta": ("gemma", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
    "gemma2": ("gemma2", {"query_pre_attn_scalar": 32, "sliding_window": 16} | SOFTCAPS),
    "gemma2-27b": (
        "gemma2",
        {"num_hidden_layers": 46, "query_pre_attn_scalar": 16, "sliding_window": 16}
        | {"hidden_size": 64, "intermediate_size": 32},
    ),
    "gemma3": (
        "gemma3_text",
        {"num_hidden_layers": 7, "query_pre_attn_scalar": 32, "sliding_window": 16},
    ),
    "gemma3-linear": (
        "gemma3_text",
        {"num_hidden_layers": 6, "query_pre_attn_scalar": 32, "sliding_window": 16}
        | {"final_logit_softcapping": 5.0, "tie_word_embeddings": False}
        | {
            "rope_parameters": {
                "full_attention": LINEAR,
                "sliding_attention": {"rope_type": "default", "rope_theta": 20_000.0},
            }
        },
    ),
    "gemma3n": (
        "gemma3n_text",
        {"num_hidden_layers": 25, "num_kv_shared_layers": 5, "sliding_window": 16}
        # llama.cpp takes the deviation of a sample, transformers of all: wide enough, they agree.
        | {"hidden_size": 64, "intermediate_size": 2048, "vocab_size_per_layer_input": VOCABULARY},
    ),
    "gemma3-27b": (
        "gemma3_text",
        {"num_hidden_layers": 62, "query_pre_attn_scalar": 16, "sliding_window": 16}
        | {"hidden_size": 64, "intermediate_size": 32},
    ),
}


def calm(model: Any) -> Any:
    """Return a model of random weights whose layers change their input mildly, as trained ones do.

    Otherwise rounding errors grow from layer to layer, and 62 layers say nothing about a converter.
    """
    randomized(model)
    layers = model.config.num_hidden_layers
    offset = 0 if model.config.model_type == "gemma3n_text" else 1
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                after = "post_attention" in name or "post_feedforward" in name
                scale = min(1.0, 4 / layers) if after else 1.0
                parameter.copy_((parameter * scale - offset).bfloat16().float())
    return model


def written(folder: Path, kind: str) -> tuple[Path, Any]:
    model_type, own = MODELS[kind]
    config = AutoConfig.for_model(model_type, **{**SIZES, **own})
    model = calm(AutoModelForCausalLM.from_config(config))
    write_model(folder, model)
    if kind == "gemma3n":
        add_unused_caches(folder, config)
    return folder, model


def add_unused_caches(folder: Path, config: Any) -> None:
    """Add what files on the Hub have and transformers 5 leaves out when it saves."""
    tensors = load_file(folder / "model.safetensors")
    rows = config.num_key_value_heads * config.head_dim
    for layer in range(20, config.num_hidden_layers):
        prefix = f"model.layers.{layer}.self_attn"
        tensors[f"{prefix}.k_norm.weight"] = torch.zeros(config.head_dim)
        for role in ("k", "v"):
            tensors[f"{prefix}.{role}_proj.weight"] = torch.zeros(rows, config.hidden_size)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


ROUNDED = {"gemma3-linear", "gemma3n"}  # F16 turns one top token of 64


@pytest.mark.parametrize("kind", MODELS)
def test_llama_cpp_and_torch_agree(tmp_path: Path, kind: str) -> None:
    mix = "F32" if kind in ROUNDED else "F16"
    opened = check_agreement(*written(tmp_path / kind, kind), mix=mix, vocabulary=VOCABULARY)
    if kind == "gemma-theta":  # llama.cpp's converter forgets it, and the model runs wrongly
        assert opened.metadata.pop("gemma.rope.freq_base") == 500_000
    check_record(opened, "gemma", kind)


def test_gemma3n_as_transformers_saves_it_gets_what_llama_cpp_loads(tmp_path: Path) -> None:
    folder, model = written(tmp_path / "gemma3n", "gemma3n")
    tensors = load_file(folder / "model.safetensors")
    unused = re.compile(r"model\.layers\.2\d\.self_attn\.(k_proj|v_proj|k_norm)\.weight")
    kept = {name: values for name, values in tensors.items() if not unused.fullmatch(name)}
    assert len(kept) == len(tensors) - 15
    # Tokens for pictures and sound have no inputs of layers.
    table = "model.embed_tokens_per_layer.weight"
    kept[table] = kept[table][: VOCABULARY - 16].contiguous()
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with torch.no_grad():
        model.model.embed_tokens_per_layer.weight[VOCABULARY - 16 :] = 0
    opened = check_agreement(folder, model, mix="F32", vocabulary=VOCABULARY)
    check_record(opened, "gemma", "gemma3n")


def test_a_pattern_of_windows_of_its_own_is_written(tmp_path: Path) -> None:
    own = MODELS["gemma3"][1] | {"layer_types": ["full_attention", "sliding_attention"]}
    config = AutoConfig.for_model("gemma3_text", **SIZES | own | {"num_hidden_layers": 2})
    model = calm(AutoModelForCausalLM.from_config(config))
    opened = check_agreement(write_model(tmp_path / "own", model), model, vocabulary=VOCABULARY)
    assert opened.metadata["gemma3.attention.sliding_window_pattern"] == [False, True]


def test_configs_of_transformers_4_say_the_same(tmp_path: Path) -> None:
    folder, _ = written(tmp_path / "gemma3", "gemma3-linear")
    new = open_model(str(folder)).metadata
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["rope_parameters"], config["layer_types"]
    config |= {
        "rope_theta": 500_000,
        "rope_local_base_freq": 20_000,
        "rope_scaling": {"rope_type": "linear", "factor": 8},
        "sliding_window_pattern": 6,
    }
    path.write_text(json.dumps(config))
    assert (
        open_model(str(folder)).metadata.items()
        >= {key: value for key, value in new.items() if key.startswith("gemma3.")}.items()
    )
