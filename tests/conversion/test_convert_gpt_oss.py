"""gpt-oss says in llama.cpp what it says in torch; its MXFP4 experts stay as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agreement import changed_config, check_agreement, check_record, randomized, write_model
from declared import Declared, check_header, converted, declared
from headers import header
from transformers import AutoConfig, AutoModelForCausalLM

from snugfit.archs.conversion.reading import read_rows
from snugfit.errors import SnugfitError
from snugfit.models import open_model

SIZES = {
    "vocab_size": 320,
    "hidden_size": 128,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 512,
    "sliding_window": 16,
}
# gpt-oss asks for `truncate: false`; llama.cpp rounds the bounds of YaRN's ramp all the same.
YARN = {
    "rope_type": "yarn",
    "rope_theta": 150000.0,
    "factor": 8.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": True,
    "original_max_position_embeddings": 64,
}
# config.json of openai/gpt-oss-120b, but for what conversion does not read.
PUBLISHED = {
    "attention_bias": True,
    "experts_per_token": 4,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2880,
    "initial_context_length": 4096,
    "intermediate_size": 2880,
    "layer_types": ["sliding_attention", "full_attention"] * 18,
    "max_position_embeddings": 131072,
    "num_attention_heads": 64,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "num_local_experts": 128,
    "quantization_config": {"quant_method": "mxfp4"},
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "yarn",
        "truncate": False,
    },
    "rope_theta": 150000,
    "sliding_window": 128,
    "swiglu_limit": 7.0,
    "tie_word_embeddings": False,
    "vocab_size": 201088,
}
EXPERTS = "model.layers.0.mlp.experts"


def tiny(**own: Any) -> Any:
    config = AutoConfig.for_model("gpt_oss", **{**SIZES, "rope_parameters": YARN, **own})
    return randomized(AutoModelForCausalLM.from_config(config))


KINDS = ("gpt-oss",)


def write(_kind: str, folder: Path) -> Any:
    """Write the model that tests/data/converted/gpt_oss.json describes, and return it."""
    model = tiny()
    write_model(folder, model)
    return model


def test_llama_cpp_and_torch_agree(tmp_path: Path) -> None:
    folder = tmp_path / "gpt-oss"
    model = write("gpt-oss", folder)
    opened = check_agreement(folder, model, mix="F32")
    assert opened.spec().architecture == "gpt-oss" and opened.spec().cache_basis == "exact"
    check_record(opened, "gpt_oss", "gpt-oss")


def test_keys_of_an_older_config_are_the_same(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "gpt-oss", tiny())
    old = {key: value for key, value in YARN.items() if key != "rope_theta"}
    changed_config(folder, rope_parameters=None, rope_scaling=old, rope_theta=150000)
    check_record(open_model(str(folder)), "gpt_oss", "gpt-oss")


def test_blocks_of_experts_stay_as_they_are() -> None:
    """MXFP4 is moved by whole rows: gate and up, which take turns, are parted."""
    config = PUBLISHED | SIZES | {"num_hidden_layers": 1, "layer_types": None}
    stored = declared("gpt_oss", SIZES | {"num_hidden_layers": 1})
    random = np.random.default_rng(0)
    for name, rows, columns in (("gate_up_proj", 192, 128), ("down_proj", 128, 96)):
        blocks = random.integers(0, 256, (8, rows, columns // 32 * 17), np.uint8)
        stored[f"{EXPERTS}.{name}"] = Declared((8, rows, columns), "MXFP4", blocks)
    _, tensors = converted("GptOssForCausalLM", config, stored)
    fused = stored[f"{EXPERTS}.gate_up_proj"].values
    for name, expected in (
        ("gate", fused[:, ::2]),
        ("up", fused[:, 1::2]),
        ("down", stored[f"{EXPERTS}.down_proj"].values),
    ):
        tensor = tensors[f"blk.0.ffn_{name}_exps.weight"]
        assert tensor.info.type_name == "MXFP4"
        found = read_rows(tensor, stored, 0, tensor.info.rows)
        assert (found == expected.reshape(found.shape)).all()
        across = read_rows(tensor, stored, expected.shape[1] - 3, 7)  # of two experts
        assert (across == found[expected.shape[1] - 3 :][:7]).all()


def test_published_model_has_the_tensors_and_keys_of_its_file() -> None:
    stored = declared("gpt_oss", PUBLISHED)
    for name, tensor in stored.items():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            experts, inputs, outputs = tensor.shape
            stored[name] = Declared((experts, outputs, inputs), "MXFP4")
    keys, tensors = converted("GptOssForCausalLM", PUBLISHED, stored)
    of_file = header("gpt-oss-120b")
    check_header(keys, tensors, of_file, beyond=("vocab_size", "rope.dimension_count"))
    assert keys["rope.scaling.factor"] == 32 and keys["rope.freq_base"] == 150000
    blocks = {n for n, t in tensors.items() if t.info.type_name == "MXFP4"}
    assert blocks == {n for n, t in of_file.tensors.items() if t.type_name == "MXFP4"}


HOSTILE = {
    "layer_types": ["full_attention", "sliding_attention"],
    "swiglu_limit": 5.0,
    "attention_bias": False,
    "hidden_act": "gelu",
    "num_experts_per_tok": 9,
    "sliding_window": None,
    "num_local_experts": "many",
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "longrope"},
}


@pytest.mark.parametrize("key", HOSTILE)
def test_what_llama_cpp_has_not_is_refused_in_one_line(key: str) -> None:
    config = {**SIZES, "rope_parameters": YARN, key: HOSTILE[key]}
    with pytest.raises(SnugfitError) as caught:
        converted("GptOssForCausalLM", config, declared("gpt_oss", SIZES))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
