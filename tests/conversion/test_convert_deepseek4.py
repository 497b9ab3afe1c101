"""DeepSeek V4 in torch and in llama.cpp, beyond windows and the tokens that an index chooses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import agreement
import numpy as np
import pytest
import torch
from agreement import RECORDS, randomized, write_model
from declared import Declared, alike, check_header, converted, declared
from headers import header
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from snugfit.errors import SnugfitError
from snugfit.formats.safetensors import read_folder

POSITIONS = 160  # more than the longest run of tokens that become one
YARN = {
    "type": "yarn",
    "factor": 4,
    "original_max_position_embeddings": 64,
    "beta_fast": 32,
    "beta_slow": 1,
}
# Many index heads: of few, tokens tie at a score of exactly 0, and engines break ties in their way.
SIZES = {
    "vocab_size": 320,
    "hidden_size": 128,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "head_dim": 128,
    "qk_rope_head_dim": 16,
    "q_lora_rank": 64,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "o_groups": 2,
    "o_lora_rank": 32,
    "index_n_heads": 16,
    "index_head_dim": 64,
    "index_topk": 8,
    "sliding_window": 16,
    "swiglu_limit": 1.5,
    "max_position_embeddings": 512,
    "num_hash_layers": 1,
    "compress_ratios": [0, 4, 128, 4],
    "rope_theta": 10000,
    "compress_rope_theta": 160000,
    "rope_scaling": YARN,
}
# config.json of deepseek-ai/DeepSeek-V4-Flash, but for what conversion does not read.
PUBLISHED = {
    "attention_bias": False,
    "compress_ratios": [0, 0, *(4 if layer % 2 == 0 else 128 for layer in range(2, 43)), 0],
    "compress_rope_theta": 160000,
    "hc_eps": 1e-06,
    "hc_mult": 4,
    "hc_sinkhorn_iters": 20,
    "head_dim": 512,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "index_head_dim": 128,
    "index_n_heads": 64,
    "index_topk": 512,
    "max_position_embeddings": 1048576,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 64,
    "num_experts_per_tok": 6,
    "num_hash_layers": 3,
    "num_hidden_layers": 43,
    "num_key_value_heads": 1,
    "num_nextn_predict_layers": 1,
    "o_groups": 8,
    "o_lora_rank": 1024,
    "q_lora_rank": 1024,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {**YARN, "factor": 16, "original_max_position_embeddings": 65536},
    "rope_theta": 10000,
    "routed_scaling_factor": 1.5,
    "scoring_func": "sqrtsoftplus",
    "sliding_window": 128,
    "swiglu_limit": 10.0,
    "tie_word_embeddings": False,
    "vocab_size": 129280,
}


def tiny() -> Any:
    config = AutoConfig.for_model("deepseek_v4", **SIZES)
    model = randomized(AutoModelForCausalLM.from_config(config))
    random = np.random.default_rng(2)
    for name, values in model.named_buffers():
        if name.endswith("tid2eid"):
            experts = [random.permutation(8)[:2] for _ in range(len(values))]
            values.copy_(torch.tensor(np.array(experts)))
        if name.endswith("e_score_correction_bias"):
            values.copy_(torch.linspace(-0.2, 0.2, len(values)).bfloat16().float())
    return model


# transformers saves other names than those of the Hub.
OF_THE_HUB = (
    (r"^model\.", ""),
    (r"^embed_tokens\.", "embed."),
    (r"^hc_head\.hc_", "hc_head_"),
    (r"\.attn\.norm\.", ".attn.kv_norm."),
)


def as_published(folder: Path, *, packed: bool = False) -> None:
    """Give a folder the Hub's names and config, and a layer that only drafts tokens.

    `packed` makes 4-bit experts of it, as the Hub has them, whose values do not matter.
    """
    path = folder / "model.safetensors"
    found: dict[str, Any] = {"mtp.0.norm.weight": torch.ones(128)}
    for name, tensor in load_file(path).items():
        for pattern, other in OF_THE_HUB:
            name = re.sub(pattern, other, name)
        found[name] = tensor
        if packed and ".experts." in name:
            rows, columns = tensor.shape
            found[name] = torch.zeros(rows, columns // 2, dtype=torch.int8)
            scales = torch.full((rows, columns // 32), 127, dtype=torch.uint8)
            found[name.replace(".weight", ".scale")] = scales.view(torch.float8_e8m0fnu)
    save_file(found, path, {"format": "pt"})
    config = {"architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4"}
    left = {key: PUBLISHED[key] for key in PUBLISHED.keys() - SIZES.keys()}
    (folder / "config.json").write_text(json.dumps(config | left | SIZES))


KINDS = ("v4",)


def write(_kind: str, folder: Path) -> Any:
    """Write the model that tests/data/converted/deepseek4.json describes, and return it."""
    model = tiny()
    write_model(folder, model)
    as_published(folder, packed=True)
    return model


@pytest.mark.parametrize("layout", ["of the Hub", "of transformers"])
def test_llama_cpp_and_torch_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    model = tiny()
    folder = write_model(tmp_path / "v4", model)
    if layout == "of the Hub":
        as_published(folder)
    monkeypatch.setattr(agreement, "POSITIONS", POSITIONS)
    opened = agreement.check_agreement(folder, model, mix="F32")
    assert opened.spec().architecture == "deepseek4" and opened.spec().cache_basis == "exact"
    assert opened.tensors["blk.0.ffn_gate_tid2eid.weight"].type_name == "I32"


def test_tensors_and_keys_are_those_of_llama_cpps_converter(tmp_path: Path) -> None:
    write("v4", tmp_path / "v4")
    stored: dict[str, Any] = {}
    for name, tensor in read_folder(tmp_path / "v4").items():
        if ".experts." in name and not name.endswith(".scale"):
            rows, halves = tensor.shape
            stored[name] = Declared((rows, 2 * halves), "MXFP4")
        elif not name.endswith(".scale"):
            stored[name] = Declared(tensor.shape, "I64" if tensor.dtype == "I64" else "BF16")
    config = json.loads((tmp_path / "v4/config.json").read_text())
    keys, tensors = converted("DeepseekV4ForCausalLM", config, stored)
    record = json.loads((RECORDS / "deepseek4.json").read_text())["v4"]
    of_type = {n: [list(t.info.shape), t.info.type_name] for n, t in tensors.items()}
    # llama.cpp's converter keeps what is stored in float32, here every matrix.
    exact = {n for n, (_, type_name) in record["tensors"].items() if type_name == "F32"}
    assert of_type == {
        name: [shape, "BF16" if name in exact and of_type[name][1] == "BF16" else type_name]
        for name, (shape, type_name) in record["tensors"].items()
    }
    expected = {k: v for k, v in record["keys"].items() if k.startswith("deepseek4.")}
    assert {f"deepseek4.{key}" for key in keys} == expected.keys()
    for key, value in keys.items():
        assert alike(value, expected[f"deepseek4.{key}"]), key


def test_published_model_has_the_tensors_and_keys_of_its_file() -> None:
    keys, tensors = converted(
        "DeepseekV4ForCausalLM", PUBLISHED, declared("deepseek_v4", _for_transformers(PUBLISHED))
    )
    ratios = keys.pop("attention.compress_ratios")
    of_file = header("DeepSeek-V4-Flash")
    beyond = ("vocab_size", "feed_forward_length", "attention.compress_ratios")
    check_header(keys, tensors, of_file, beyond=beyond)
    assert alike(ratios[:43], of_file.metadata["deepseek4.attention.compress_ratios"])
    assert keys["rope.freq_base"] == 10000 and keys["rope.scaling.factor"] == 16
    tables = {n for n, t in tensors.items() if t.info.type_name == "I32"}
    assert tables == {n for n, t in of_file.tensors.items() if t.type_name == "I32"}


def _for_transformers(config: dict[str, Any]) -> dict[str, Any]:
    return config | {"compress_ratios": config["compress_ratios"][: config["num_hidden_layers"]]}


HOSTILE = {
    "compress_ratios": [0, 4],
    "num_key_value_heads": 4,
    "scoring_func": "sigmoid",
    "swiglu_limit": "none",
    "o_groups": None,
    "layer_types": "all",
    "mlp_layer_types": ["moe", "hash_moe", "moe", "moe"],
    "index_topk": -1,
    "rope_parameters": {"main": {}, "compress": {"rope_type": "yarn"}},
    "rope_scaling": 3,
}


@pytest.mark.parametrize("key", HOSTILE)
def test_what_cannot_be_is_refused_in_one_line(key: str) -> None:
    config = {**PUBLISHED, **SIZES, key: HOSTILE[key]}
    if key == "layer_types":
        config["compress_ratios"] = None
    with pytest.raises(SnugfitError) as caught:
        converted("DeepseekV4ForCausalLM", config, declared("deepseek_v4", SIZES))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
