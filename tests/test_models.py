"""Opening models: a Hugging Face directory as GGUF, against a second writing of the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import TEXT, tiny_tokenizer, write_folder
from tiny import KINDS, tiny_model

from snugfit.archs.tokenizer import tokenizer_of
from snugfit.errors import FormatError, SnugfitError, UnsupportedError
from snugfit.mixes import types_of_mix
from snugfit.models import open_model
from snugfit.quantize import quantize


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, float | np.floating):
        return bool(np.isclose(float(found), float(expected)))
    return bool(np.all(found == expected))


@pytest.mark.parametrize("kind", KINDS)
def test_directory_has_the_tensors_and_keys_of_its_gguf(tmp_path: Path, kind: str) -> None:
    tiny = tiny_model(kind)
    model = open_model(str(write_folder(tmp_path / kind, tiny)))
    assert model.tensors.keys() == tiny.tensors.keys()
    for name, array in tiny.tensors.items():
        assert model.tensors[name].shape == array.shape, name
        assert np.allclose(model.load(name), array, rtol=1e-6, atol=0), name
    for key, value in tiny.metadata.items():
        # A model of experts alone has no dense layers for this length to describe, and the length
        # of a head follows from the width where the config does not say it.
        unused = key == "qwen3moe.feed_forward_length" or (
            kind.startswith("qwen2") and key.endswith(("key_length", "value_length"))
        )
        if not key.startswith("tokenizer.") and not unused:
            assert same(model.metadata[key], value), key


def test_shards_are_one_model(tmp_path: Path) -> None:
    tiny = tiny_model("qwen3moe")
    folder = write_folder(tmp_path / "sharded", tiny, shard_bytes="1MB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    model = open_model(str(folder))
    for name, array in tiny.tensors.items():
        assert (model.load(name) == array).all(), name


def test_tokenizer_survives_conversion(tmp_path: Path) -> None:
    model = open_model(str(write_folder(tmp_path / "m", tiny_model("qwen3"))))
    assert model.metadata["tokenizer.ggml.pre"] == "qwen2"
    assert model.metadata["tokenizer.ggml.eos_token_id"] == 0
    assert len(model.metadata["tokenizer.ggml.tokens"]) == 320
    assert tokenizer_of(model.metadata).encode(TEXT) == tiny_tokenizer().encode(TEXT).ids


def test_gguf_of_a_directory_is_the_same_model(tmp_path: Path) -> None:
    model = open_model(str(write_folder(tmp_path / "m", tiny_model("llama"))))
    written = quantize(model, tmp_path / "m.gguf", types_of_mix(model, "F32"), mix="F32")
    again = open_model(str(tmp_path / "m.gguf"))
    assert written.file_bytes == (tmp_path / "m.gguf").stat().st_size
    for name in model.tensors:
        assert (again.load(name) == model.load(name)).all()
    for key, value in model.metadata.items():
        assert same(again.metadata[key], value), key


def broken_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"architectures": ["RwkvForCausalLM"]}, "architecture RwkvForCausalLM is unknown"),
        ({"architectures": None}, "no 'architectures'"),
        ({"num_hidden_layers": 3}, "of layer 2"),
        ({"num_hidden_layers": 2**60}, "not a sensible number"),
        ({"num_hidden_layers": "two"}, "not a sensible number"),
        ({"hidden_size": 128}, "embedding has shape"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rope type 'longrope'"),
    ],
)
def test_config_that_lies_gives_one_line(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    folder = write_folder(tmp_path / "m", tiny_model("llama"))
    broken_config(folder, **changes)
    with pytest.raises(SnugfitError, match=says) as caught:
        open_model(str(folder)).spec()
    assert str(folder) in str(caught.value)


def test_missing_parts_of_a_directory(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"no config\.json"):
        open_model(str(tmp_path))
    folder = write_folder(tmp_path / "m", tiny_model("qwen2"))
    (folder / "tokenizer.json").rename(folder / "elsewhere")
    with pytest.raises(FormatError, match=r"no tokenizer\.json"):
        open_model(str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(FormatError, match=r"no \.safetensors"):
        open_model(str(folder))


def test_names_that_are_nothing() -> None:
    with pytest.raises(FormatError, match="no such file or directory"):
        open_model("nowhere.gguf")


def test_quantized_source_is_not_quantized_again_unasked(tmp_path: Path) -> None:
    model = open_model(str(write_folder(tmp_path / "m", tiny_model("qwen3"))))
    quantize(model, tmp_path / "q8.gguf", types_of_mix(model, "Q8_0"))
    q8 = open_model(str(tmp_path / "q8.gguf"))
    with pytest.raises(UnsupportedError, match="--allow-requantize"):
        quantize(q8, tmp_path / "q4.gguf", types_of_mix(q8, "Q4_0"))
    assert not (tmp_path / "q4.gguf").exists()
    quantize(q8, tmp_path / "q4.gguf", types_of_mix(q8, "Q4_0"), allow_requantize=True)
    with pytest.raises(UnsupportedError, match="is the model itself"):
        quantize(q8, tmp_path / "q8.gguf", types_of_mix(q8, "Q8_0"))
