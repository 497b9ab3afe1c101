"""general.* of a converted model, against gguf's own reading of the same folder."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter, Metadata, size_label
from hypothesis import given, settings
from hypothesis import strategies as st

from snugfit.archs.conversion.general import (
    front_matter,
    general_metadata,
    parameter_counts,
    sampling_metadata,
)
from snugfit.core import TensorInfo

TENSORS = [
    TensorInfo("token_embd.weight", (151_936, 2048), "F16"),
    TensorInfo("blk.0.ffn_up_exps.weight", (128, 768, 2048), "F16"),
    TensorInfo("blk.0.ffn_down_exps.bias", (128, 2048), "F16"),
    TensorInfo("blk.0.attn_q.weight", (4096, 2048), "F16"),
]
PLAIN = """---
license: apache-2.0
license_link: https://example.org/LICENSE
tags:
- chat
- no
language:
- en
- no
pipeline_tag: text-generation
base_model: Qwen/Qwen3-30B-A3B-Base
datasets:
- HuggingFaceTB/smol-v2
- https://huggingface.co/datasets/x
library_name: transformers
---
# A model
"""
MERGED = """---
license: [mit, apache-2.0]
license_name: two
language: en
base_model:
\t- a/b-7B-v0.1
\t- https://huggingface.co/c/d-13B
\t- name: Third
\t  organization: Org
model_name: My Merge
model_creator: Somebody
tags: merge
model-index:
- name: &broken [
---
"""
CARDS = {"plain": PLAIN, "merged": MERGED.replace("model-index:\n- name: &broken [\n", "")}
CARDS |= {"none": "", "no header": "# Text\n---\nlicense: mit\n---\n", "empty": "---\n---\n"}
NAMES = ["Qwen3-30B-A3B-Instruct-2507", "llama-3.1-8b-instruct", "Phi-4", "my folder", "v2", "x"]


def expected(folder: Path, name: str) -> dict[str, Any]:
    """What llama.cpp's converter writes: gguf's Metadata, then its size label."""
    counts = parameter_counts(TENSORS)
    found = Metadata.load(None, folder, None, counts[0])
    found.name = found.name or name
    found.size_label = found.size_label or size_label(*counts)
    writer = GGUFWriter(path=None, arch="llama")
    found.set_gguf_meta_model(writer)
    return {
        key: value.value
        for key, value in writer.kv_data[0].items()
        if key != "general.architecture"
    }


def same(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return found.keys() == wanted.keys() and all(
        np.isclose(value, wanted[key]) if isinstance(value, np.floating) else value == wanted[key]
        for key, value in found.items()
    )


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("name", NAMES)
def test_keys_are_those_of_gguf(tmp_path: Path, name: str, card: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    generation = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0, "do_sample": True}
    config = {"_name_or_path": "acme/Base-7B-chat" if name == "x" else "/home/me/models/q"}
    (folder / "README.md").write_text(CARDS[card])
    (folder / "generation_config.json").write_text(json.dumps(generation))
    (folder / "config.json").write_text(json.dumps(config))
    found = general_metadata(
        name, card=CARDS[card], config=config, generation=generation, tensors=TENSORS
    )
    wanted = expected(folder, name)
    assert same(found, wanted), (found, wanted)


def test_experts_count_once_in_a_size_label() -> None:
    total, shared, of_one, experts = parameter_counts(TENSORS)
    assert experts == 128
    assert of_one == 768 * 2048
    assert shared == (151_936 + 4096 + 128) * 2048  # biases of experts are matrices
    assert total == shared + 128 * of_one


def test_results_in_a_card_do_not_matter() -> None:
    assert front_matter(MERGED)["license"] == ["mit", "apache-2.0"]
    assert front_matter(PLAIN)["language"] == ["en", "no"]


def test_sampling_is_numbers_only() -> None:
    odd = {"top_k": "20", "top_p": None, "temperature": float("nan"), "min_p": True}
    assert sampling_metadata(odd | {"mirostat": 10**12}) == {}
    penalty = sampling_metadata({"repetition_penalty": 1.05})
    assert penalty == {"general.sampling.penalty_repeat": np.float32(1.05)}


LAUGHS = "tags: &a [x,x]\n" + "".join(
    f"name: &{chr(98 + level)} [*{chr(97 + level)},*{chr(97 + level)}]\n" for level in range(20)
)


@pytest.mark.parametrize(
    "header",
    [
        LAUGHS,
        "tags: " + "[" * 5000,
        "license: " + "x" * 10**6,
        "license: !!python/object/apply:os.system [ls]",
        "base_model: {a: b}",
        "base_model: [1, {1: 2}, [3], null]",
        "tags: [[a], {b: c}, 1.5, true]",
        "license: 2024-01-01",
        "name: \ud800",
        "name: ''",
        "- a\n- b",
        "version: 1e400",
        "size_label: [7B]",
    ],
)
def test_strange_headers_are_quick_and_never_fail(header: str) -> None:
    start = time.monotonic()
    keys = general_metadata("Model-7B", card=f"---\n{header}\n---\n", tensors=TENSORS)
    assert keys["general.name"]
    for value in keys.values():
        assert not isinstance(value, list) or all(isinstance(item, str) for item in value)
    assert time.monotonic() - start < 2


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40), st.text(max_size=60), st.integers(0, 10**13))
def test_any_name_is_a_name(name: str, value: str, rows: int) -> None:
    card = f"---\nbase_model: {json.dumps(value)}\nversion: {value}\n---\n"
    tensors = [TensorInfo("a", (rows, 1), "F16")] if rows else []
    keys = general_metadata(name, card=card, config={"_name_or_path": value}, tensors=tensors)
    assert isinstance(keys["general.name"], str)
