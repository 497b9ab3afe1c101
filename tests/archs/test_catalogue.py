"""The catalogue against recorded headers of real shapes, and against published counts."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headers import header

from snugfit.archs.catalogue import CATALOGUE, CatalogueModel
from snugfit.archs.table import spec_of
from snugfit.core import TensorInfo
from snugfit.quants.assignment import assign_types

DATA = Path(__file__).parents[1] / "data"
DIGESTS: dict[str, dict[str, Any]] = json.loads((DATA / "header_digests.json").read_text())
# Billions of parameters of the text model, as llama.cpp prints them for the published files.
BILLIONS = {
    "llama-3.3-70b": 70.554,
    "phi-4": 14.660,
    "qwen3-30b-a3b": 30.532,
    "qwen3.6-27b": 26.896,
    "qwen3.6-35b-a3b": 34.661,
    "gemma-4-e2b": 4.647,
    "gemma-4-e4b": 7.518,
    "gemma-4-12b": 11.907,  # 11.91 B in the logs of users
    "gemma-4-26b-a4b": 25.233,
    "gemma-4-31b": 30.697,
    "gpt-oss-20b": 20.915,
    "gpt-oss-120b": 116.829,
    "glm-4.7-flash": 29.943,
    "llama-4-scout": 107.770,
    "deepseek-v4-flash": 284.335,
    "deepseek-v4-pro": 1573.000,
    # As the publishers' own safetensors count them, the output matrix once.
    "llama-3.1-8b": 8.030,
    "llama-3.2-1b": 1.236,
    "llama-3.2-3b": 3.213,
    "qwen3-0.6b": 0.596,
    "qwen3-1.7b": 1.721,
    "qwen3-4b": 4.022,
    "qwen3-8b": 8.191,
    "qwen3-14b": 14.768,
    "qwen3-32b": 32.762,
    "qwen2.5-0.5b": 0.494,
    "qwen2.5-7b": 7.616,
    "qwen2.5-32b": 32.764,
    "mistral-7b": 7.248,
    "mistral-small-24b": 23.572,
    "codestral-22b": 22.247,
    "yi-1.5-34b": 34.389,
    "falcon3-7b": 7.456,
    "smollm2-1.7b": 1.711,
    "smollm3-3b": 3.075,
    "phi-3.5-mini": 3.821,
    "phi-4-mini": 3.836,
    "gemma-2-9b": 9.242,
    "gemma-2-27b": 27.227,
    "gemma-3-1b": 1.000,
    "gemma-3-27b": 27.009,
    "granite-3.1-8b": 8.171,
    "exaone-3.5-7.8b": 7.818,
    "aya-expanse-8b": 8.028,
    "olmo-2-13b": 13.716,
    "ernie-4.5-21b-a3b": 21.825,
    "lfm2-8b-a1b": 8.340,
    "deepseek-coder-v2-lite": 15.706,
    # As llama-bench prints them: 8.95 B, 79.67 B.
    "qwen3.5-9b": 8.954,
    "qwen3-coder-next": 79.674,
}
# Keys of a recorded header that say how the file was made, not what the model is.
OF_THE_FILE = {"general.type", "general.file_type", "tokenizer.ggml.model"}


def facts(metadata: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> str:
    """Every key with its stored type, every tensor with its shape, as one text."""
    lines = [
        f"{key} {np.asarray(value).dtype} {np.asarray(value).tolist()}"
        for key, value in metadata.items()
        if key not in OF_THE_FILE
    ]
    for tensor in used(metadata, tensors):
        # The recorded headers declare matrices as Q8_0 where the original is BF16.
        type_name = tensor.type_name.replace("BF16", "Q8_0")
        lines.append(f"{tensor.name} {tensor.shape} {type_name}")
    return "\n".join(sorted(lines))


def used(metadata: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> list[TensorInfo]:
    """Leave out what files store and no layer uses: the recorded headers do not have it."""
    architecture = metadata["general.architecture"]
    first = int(metadata[f"{architecture}.block_count"]) - int(
        metadata.get(f"{architecture}.attention.shared_kv_layers", 0)
    )
    unused = re.compile(r"blk\.(\d+)\.attn_(k|k_norm|v)\.weight")
    return [
        tensor
        for name, tensor in tensors.items()
        if not ((match := unused.fullmatch(name)) and int(match[1]) >= first)
    ]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("name", DIGESTS)
def test_catalogue_has_the_keys_and_tensors_of_the_recorded_header(name: str) -> None:
    model = CATALOGUE[name]
    tensors = used(model.metadata, model.tensors)
    assert len(tensors) == DIGESTS[name]["tensors"]
    assert sum(tensor.parameters for tensor in tensors) == DIGESTS[name]["parameters"]
    assert digest(facts(model.metadata, model.tensors)) == DIGESTS[name]["sha256"]


@pytest.mark.parametrize("name", ["Llama-3.3-70B", "Qwen3-30B-A3B"])
def test_digests_are_those_of_the_headers(name: str) -> None:
    recorded = header(name)
    model = CATALOGUE[name.lower()]
    assert facts(model.metadata, model.tensors) == facts(recorded.metadata, recorded.tensors)
    assert digest(facts(recorded.metadata, recorded.tensors)) == DIGESTS[name.lower()]["sha256"]


def test_gemma_4_e2b_has_the_tensors_of_a_published_file() -> None:
    """As llama.cpp counts them for a Q4_K_M file: 601, of which 283 in F32 and one in BF16."""
    model = CATALOGUE["gemma-4-e2b"]
    tensors = tuple(model.tensors.values())
    spec = spec_of("gemma-4-e2b", model.metadata, tensors, file_bytes=0, header_bytes=0)
    counts = Counter(assign_types("Q4_K_M", spec.placed).values())
    assert (counts.total(), counts["F32"], counts["BF16"]) == (601, 283, 1)


@pytest.mark.parametrize("name", BILLIONS)
def test_parameters_are_as_published(name: str) -> None:
    assert round(parameters(CATALOGUE[name]) / 1e9, 3) == BILLIONS[name]


def parameters(model: CatalogueModel) -> int:
    return sum(tensor.parameters for tensor in model.tensors.values())


def test_every_name_is_lower_case_and_has_a_spec() -> None:
    for name, model in CATALOGUE.items():
        assert name == name.lower()
        spec = spec_of(
            name, model.metadata, tuple(model.tensors.values()), file_bytes=0, header_bytes=0
        )
        assert spec.layers == model.keys["block_count"]
        assert spec.vocabulary == model.keys["vocab_size"]
