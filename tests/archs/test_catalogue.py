"""The catalogue against recorded headers of real shapes, and against published counts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headers import header

from snugfit.archs.catalogue import CATALOGUE, CatalogueModel
from snugfit.archs.table import spec_of
from snugfit.core import TensorInfo

DATA = Path(__file__).parents[1] / "data"
DIGESTS: dict[str, dict[str, Any]] = json.loads((DATA / "header_digests.json").read_text())
# Billions of parameters of the text model, as llama.cpp prints them for the published files.
BILLIONS = {
    "llama-3.3-70b": 70.554,
    "phi-4": 14.660,
    "qwen3-30b-a3b": 30.532,
    "qwen3.5-9b": 8.954,
    "qwen3.6-27b": 26.896,
    "qwen3.6-35b-a3b": 34.661,
    "gemma-4-e2b": 4.629,
    "gemma-4-e4b": 7.463,
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
    for tensor in tensors.values():
        # The recorded headers declare matrices as Q8_0 where the original is BF16.
        type_name = tensor.type_name.replace("BF16", "Q8_0")
        lines.append(f"{tensor.name} {tensor.shape} {type_name}")
    return "\n".join(sorted(lines))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("name", DIGESTS)
def test_catalogue_has_the_keys_and_tensors_of_the_recorded_header(name: str) -> None:
    model = CATALOGUE[name]
    assert len(model.tensors) == DIGESTS[name]["tensors"]
    assert parameters(model) == DIGESTS[name]["parameters"]
    assert digest(facts(model.metadata, model.tensors)) == DIGESTS[name]["sha256"]


@pytest.mark.parametrize("name", ["Llama-3.3-70B", "Qwen3-30B-A3B"])
def test_digests_are_those_of_the_headers(name: str) -> None:
    recorded = header(name)
    model = CATALOGUE[name.lower()]
    assert facts(model.metadata, model.tensors) == facts(recorded.metadata, recorded.tensors)
    assert digest(facts(recorded.metadata, recorded.tensors)) == DIGESTS[name.lower()]["sha256"]


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
