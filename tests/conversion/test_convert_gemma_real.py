"""Configs of Gemma as on the Hub, shapes from torch's meta device, against real GGUF headers."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agreement import plain
from headers import DATA, header
from transformers import AutoConfig, AutoModelForCausalLM

from snugfit.archs.conversion.config import Config
from snugfit.archs.conversion.rows import row_of
from snugfit.archs.conversion.tensors import convert_tensors
from snugfit.archs.table import spec_of
from snugfit.core import TensorInfo
from snugfit.errors import FormatError, UnsupportedError

ROPES = {
    "full_attention": {
        "partial_rotary_factor": 0.25,
        "rope_theta": 1_000_000.0,
        "rope_type": "proportional",
    },
    "sliding_attention": {"rope_theta": 10_000.0, "rope_type": "default"},
}


def pattern(layers: int, period: int) -> list[str]:
    kinds = ["sliding_attention"] * (period - 1) + ["full_attention"]
    return kinds * (layers // period) + kinds[: layers % period]


def gemma4(
    hidden: int, wide: int, heads: tuple[int, int, int | None], **own: Any
) -> dict[str, Any]:
    layers, period = own.pop("layers"), own.pop("period", 6)
    text = {
        "model_type": "gemma4_text",
        "attention_bias": False,
        "attention_k_eq_v": heads[2] is not None,
        "enable_moe_block": False,
        "final_logit_softcapping": 30.0,
        "global_head_dim": 512,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": hidden,
        "hidden_size_per_layer_input": 0,
        "intermediate_size": wide,
        "layer_types": pattern(layers, period),
        "max_position_embeddings": 262144,
        "moe_intermediate_size": None,
        "num_attention_heads": heads[0],
        "num_experts": None,
        "num_global_key_value_heads": heads[2],
        "num_hidden_layers": layers,
        "num_key_value_heads": heads[1],
        "num_kv_shared_layers": 0,
        "rms_norm_eps": 1e-06,
        "rope_parameters": ROPES,
        "sliding_window": 1024,
        "tie_word_embeddings": True,
        "top_k_experts": None,
        "use_bidirectional_attention": "vision",
        "use_double_wide_mlp": False,
        "vocab_size": 262144,
        "vocab_size_per_layer_input": 262144,
    }
    return {"architectures": ["Gemma4ForConditionalGeneration"], "model_type": "gemma4"} | {
        "text_config": text | own
    }


STRETCHED = {"rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024}
CONFIGS = {
    "gemma-4-E2B": gemma4(
        *(1536, 6144, (8, 1, None)),
        layers=35,
        period=5,
        hidden_size_per_layer_input=256,
        max_position_embeddings=131072,
        num_kv_shared_layers=20,
        sliding_window=512,
        use_bidirectional_attention=None,
        use_double_wide_mlp=True,
    ),
    "gemma-4-31B": gemma4(5376, 21504, (32, 16, 4), layers=60),
    "gemma4:26b": gemma4(
        *(2816, 2112, (16, 8, 2)),
        layers=30,
        enable_moe_block=True,
        num_experts=128,
        top_k_experts=8,
        moe_intermediate_size=704,
    ),
    # The publisher's config leaves all else to transformers.
    "gemma3:27b": {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "text_config": {
            "model_type": "gemma3_text",
            "head_dim": 128,
            "hidden_size": 5376,
            "intermediate_size": 21504,
            "num_attention_heads": 32,
            "num_hidden_layers": 62,
            "num_key_value_heads": 16,
            "query_pre_attn_scalar": 168,
        }
        | STRETCHED,
    },
    "gemma3:4b": {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "text_config": {
            "model_type": "gemma3_text",
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "num_hidden_layers": 34,
        }
        | STRETCHED,
    },
    "gemma2:9b": {
        "architectures": ["Gemma2ForCausalLM"],
        "model_type": "gemma2",
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "head_dim": 256,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 3584,
        "intermediate_size": 14336,
        "max_position_embeddings": 8192,
        "num_attention_heads": 16,
        "num_hidden_layers": 42,
        "num_key_value_heads": 8,
        "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-06,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "vocab_size": 256000,
    },
    "gemma3n:e4b": {  # with as many layers as the published shapes have
        "architectures": ["Gemma3nForConditionalGeneration"],
        "model_type": "gemma3n",
        "text_config": {
            "model_type": "gemma3n_text",
            "layer_types": pattern(30, 5),
            "num_hidden_layers": 30,
            "num_kv_shared_layers": 10,
        },
    },
}


@dataclass(frozen=True)
class Declared:
    """A tensor without values."""

    shape: tuple[int, ...]
    dtype: str = "BF16"


def declared(config: dict[str, Any]) -> dict[str, Declared]:
    """Return the tensors of a model, named as its publisher does."""
    text = config.get("text_config", config)
    own = {key: value for key, value in text.items() if key != "model_type"}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(text["model_type"], **own))
    prefix = {"gemma3": "language_model.", "gemma2": ""}.get(config["model_type"])
    found = {}
    for name, tensor in model.state_dict().items():
        named = f"{prefix}{name}" if prefix is not None else name
        if prefix is None:
            named = name.replace("model.", "model.language_model.", 1)
        found[named] = Declared(tuple(tensor.shape))
    return found


@functools.cache
def stored(name: str) -> dict[str, Declared]:
    return declared(CONFIGS[name])


def converted(name: str) -> tuple[dict[str, Any], dict[str, TensorInfo]]:
    config = Config(name, json.loads(json.dumps(CONFIGS[name])))
    row = row_of(config)
    tensors = convert_tensors(config, row, stored(name))  # type: ignore[arg-type]
    return row.metadata(config), {tensor.info.name: tensor.info for tensor in tensors}


def check_keys(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare keys that both have; a file may repeat for each layer what all have in common."""
    compared = found.keys() & expected.keys()
    assert len(compared) > 8
    for key in compared:
        one, other = np.asarray(plain(found[key])), np.asarray(plain(expected[key]))
        if one.ndim and other.ndim:
            one = one[: len(other)]
        assert np.allclose(one, other, rtol=1e-6), key


@pytest.mark.parametrize("name", ["gemma-4-E2B", "gemma-4-31B"])
def test_conversion_of_real_shapes_is_the_real_header(name: str) -> None:
    metadata, tensors = converted(name)
    file = header(name)
    keys = {key.removeprefix("gemma4."): value for key, value in file.metadata.items()}
    check_keys(metadata, keys)
    missing = keys.keys() - metadata.keys() - {"vocab_size"}
    assert all(key.startswith(("general.", "tokenizer.")) for key in missing)
    assert {one.name: one.shape for one in tensors.values()} == {
        one.name: one.shape for one in file.tensors.values()
    }


@pytest.mark.parametrize("name", ["gemma4:26b", "gemma3:27b", "gemma2:9b", "gemma3n:e4b"])
def test_conversion_of_real_shapes_has_the_published_ones(name: str) -> None:
    published = json.loads((DATA / "published_shapes.json").read_text())[name]
    metadata, tensors = converted(name)
    check_keys(metadata, published["metadata"] | {"block_count": metadata["block_count"]})
    for where, shape in published["tensors"].items():
        layers, _, role = where.rpartition(" ")
        for layer in layers.split(",") if layers else [""]:
            full = f"blk.{layer}.{role}" if layer else role
            if role not in ("token_embd.weight", "output.weight"):
                assert list(tensors[full].shape) == shape, full
    assert math.prod(tensors["token_embd.weight"].shape) > 0


@pytest.mark.parametrize("name", CONFIGS)
def test_the_table_of_architectures_reads_what_is_written(name: str, tmp_path: Path) -> None:
    metadata, tensors = converted(name)
    architecture = row_of(Config(name, CONFIGS[name])).architecture
    keys = {f"{architecture}.{key}": value for key, value in metadata.items()}
    spec = spec_of(
        name,
        {"general.architecture": architecture} | keys,
        tuple(tensors.values()),
        file_bytes=0,
        header_bytes=0,
    )
    assert (spec.architecture, spec.cache_basis) == (architecture, "exact")


WRONG = {  # what a config says wrongly, or what llama.cpp does not run -> what the error names
    "gemma-4-E2B": [
        ({"num_kv_shared_layers": 21}, "num_kv_shared_layers is 21"),
        ({"num_kv_shared_layers": 400}, "num_kv_shared_layers"),
        ({"layer_types": ["sliding_attention"] * 34}, "layer_types"),
        ({"layer_types": ["chunked_attention"] * 35}, "layer_types"),
        ({"hidden_activation": "silu"}, "hidden_activation is 'silu'"),
        ({"attention_bias": True}, "attention_bias"),
        ({"use_bidirectional_attention": "all"}, "use_bidirectional_attention"),
        ({"global_head_dim": -4}, "global_head_dim is -4"),
        ({"global_head_dim": 2**60}, "global_head_dim"),
        ({"sliding_window": "wide"}, "sliding_window is 'wide'"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "rope_type is 'yarn'"),
        ({"rope_parameters": {"full_attention": ROPES["sliding_attention"]}}, "rope_type"),
        ({"per_layer_config": {"4": {"head_dim": 512}}}, "per_layer_config"),
        ({"per_layer_config": {"4": 512}}, "per_layer_config"),
        ({"final_logit_softcapping": [30]}, "final_logit_softcapping"),
        ({"vocab_size": 1000}, "embedding has shape"),
        ({"num_hidden_layers": 40, "layer_types": pattern(40, 5)}, "missing"),
    ],
    "gemma4:26b": [
        ({"top_k_experts": 129}, "129 of 128 experts"),
        ({"top_k_experts": None}, "top_k_experts"),
    ],
    "gemma3:27b": [
        ({"query_pre_attn_scalar": 128}, "query_pre_attn_scalar is 128"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ({"rope_scaling": {"factor": 8.0, "rope_type": "yarn"}}, "rope_type is 'yarn'"),
        ({"rope_scaling": {"factor": None, "rope_type": "linear"}}, "factor is None"),
        ({"rope_scaling": 8}, "rope parameters are no object"),
        ({"sliding_window_pattern": "x"}, "sliding_window_pattern"),
    ],
    "gemma2:9b": [
        ({"query_pre_attn_scalar": 224}, "query_pre_attn_scalar is 224"),
        ({"attn_logit_softcapping": None}, "attn_logit_softcapping is off"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is off"),
        ({"rope_scaling": {"factor": 8.0, "rope_type": "linear"}}, "rope_type is 'linear'"),
    ],
    "gemma3n:e4b": [
        ({"num_kv_shared_layers": 11}, "caches"),
        ({"altup_num_inputs": 3}, "altup_num_inputs is 3"),
        ({"activation_sparsity_pattern": [0.5] * 30}, "activation_sparsity_pattern"),
        ({"intermediate_size": [1, 2]}, "intermediate_size"),
        ({"intermediate_size": [1.5] * 30}, "intermediate_size"),
    ],
}


@pytest.mark.parametrize(
    ("name", "change", "named"),
    [(name, change, named) for name, cases in WRONG.items() for change, named in cases],
)
def test_what_llama_cpp_would_run_wrongly_is_one_line(
    name: str, change: dict[str, Any], named: str
) -> None:
    outer = json.loads(json.dumps(CONFIGS[name]))
    (outer.get("text_config") or outer).update(change)
    config = Config(name, outer)
    with pytest.raises((FormatError, UnsupportedError), match=named) as caught:
        row = row_of(config)
        row.metadata(config)
        convert_tensors(config, row, stored(name))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
