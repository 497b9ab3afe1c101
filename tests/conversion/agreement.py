"""Two-layer models of transformers, converted: torch and llama.cpp must say the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from folders import tiny_tokenizer
from llama_logits import llama_logits
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from snugfit.mixes import types_of_mix
from snugfit.models import Model, open_model
from snugfit.quantize import quantize

POSITIONS = 64
LARGEST_DIVERGENCE = 1e-3  # nats a token, mean


def write_model(folder: Path, model: Any, *, dtype: torch.dtype = torch.float32) -> Path:
    """Save a model the way its publisher would, with a small byte-level tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    model.to(dtype).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer(), eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    ).save_pretrained(folder)
    model.float()
    return folder


def randomized(model: Any, seed: int = 0) -> Any:
    """Give weights that make attention, gates and routing matter, rounded to bfloat16."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                scale = 1.5 * parameter.shape[-1] ** -0.5
                parameter.normal_(0, scale, generator=generator)
            elif "norm" in name:
                parameter.normal_(0.8, 0.3, generator=generator)
            else:
                parameter.normal_(0, 0.3, generator=generator)
            parameter.copy_(parameter.bfloat16().float())
    return model.eval()


def token_ids(vocabulary: int, seed: int = 1) -> list[int]:
    return np.random.default_rng(seed).integers(1, vocabulary, POSITIONS).tolist()


def torch_logits(model: Any, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].float().numpy()


def divergence(reference: np.ndarray, found: np.ndarray) -> float:
    """Return the mean KL divergence of `found` from `reference`, logits [positions, vocabulary]."""
    one, other = (
        torch.log_softmax(torch.tensor(x, dtype=torch.float64), -1) for x in (reference, found)
    )
    return float((one.exp() * (one - other)).sum(-1).mean())


def check_agreement(folder: Path, model: Any, *, mix: str = "F16", vocabulary: int = 320) -> Model:
    """Convert the model in `folder`, run it in llama.cpp, and compare with `model` in torch.

    Returns the opened model for further questions.
    """
    opened = open_model(str(folder))
    path = folder / f"{mix}.gguf"
    written = quantize(opened, path, types_of_mix(opened, mix), mix=mix)
    assert written.file_bytes == path.stat().st_size
    ids = token_ids(vocabulary)
    reference, found = torch_logits(model, ids), llama_logits(path, ids)
    found = found[:, : reference.shape[1]]
    assert divergence(reference, found) < LARGEST_DIVERGENCE
    assert (reference.argmax(-1) == found.argmax(-1)).all()
    return opened


def changed_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewritten_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Store a model's tensors under other names and in other shapes, as other versions do."""
    path = folder / "model.safetensors"
    tensors = {name: values.clone() for name, values in load_file(path).items()}
    save_file(change(tensors), path)


def check_same(one: Model, other: Model) -> None:
    """Check that two folders are the same model in GGUF: metadata, shapes and every byte."""
    keys, expected = (
        {key: plain(value) for key, value in model.metadata.items() if key != "general.name"}
        for model in (one, other)
    )
    assert keys == expected
    assert one.tensors == other.tensors
    for name, tensor in one.tensors.items():
        rows, wanted = (model.read(name, 0, tensor.rows) for model in (one, other))
        assert np.array_equal(rows, wanted), name


RECORDS = Path(__file__).parent.parent / "data" / "converted"


def check_record(opened: Model, family: str, kind: str, apart: Collection[str] = ()) -> None:
    """Compare names, shapes, types and keys with what llama.cpp's own converter made.

    `record_converted.py` made tests/data/converted/FAMILY.json, {kind: record}. Keys `apart`,
    without their prefix, are those in which the two differ on purpose.
    """
    record = json.loads((RECORDS / f"{family}.json").read_text())[kind]
    types = types_of_mix(opened, "BF16")
    found = {name: [without_ones(shape), types[name]] for name, shape in opened.shapes.items()}
    assert found == {n: [without_ones(shape), t] for n, (shape, t) in record["tensors"].items()}
    prefix = opened.metadata["general.architecture"] + "."
    assert prefix == record["keys"]["general.architecture"] + "."
    left_out = {prefix + key for key in apart}
    keys, expected = (
        {k: plain(v) for k, v in given.items() if k.startswith(prefix) and k not in left_out}
        for given in (opened.metadata, record["keys"])
    )
    assert sorted(keys) == sorted(expected)
    for key, value in expected.items():
        alike = np.allclose(keys[key], value, rtol=1e-6) if is_number(value) else keys[key] == value
        assert alike, key


def without_ones(shape: Sequence[int]) -> list[int]:
    """ggml drops outer dimensions of one: a matrix of one row is a vector."""
    first = next((place for place, size in enumerate(shape[:-1]) if size != 1), len(shape) - 1)
    return list(shape[first:])


def is_number(value: Any) -> bool:
    return not isinstance(value, str) and np.asarray(value).dtype.kind in "biuf"


def plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
