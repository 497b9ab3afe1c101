"""Models without some layers, which llama.cpp still loads, and importance that follows them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from shapes import metadata_of, tensors_of

from snugfit.core import Configuration
from snugfit.edits import (
    importance_without_layers,
    layers_from,
    metadata_from,
    with_metadata,
    without_layers,
)
from snugfit.errors import UnsupportedError, UsageError
from snugfit.formats.imatrix import ColumnSums, Importance
from snugfit.models import Blocks, Model
from snugfit.runtimes.llama_cpp_probe import probe_header

SMALL = Configuration(ctx=256, kv_type="F16")


def read_nothing(name: str, first: int, count: int) -> Blocks:
    return np.frombuffer(name.encode(), np.uint8)[first : first + count]


def model_of(name: str) -> Model:
    tensors = {tensor.name: tensor for tensor in tensors_of(name)}
    return Model(name, Path(name), metadata_of(name), tensors, 0, read_nothing)


@pytest.mark.parametrize(
    ("name", "pruned"),
    [
        ("llama", (1, 3)),
        ("deci:mixed-heads", (1,)),  # heads of each layer
        ("qwen35:every-third", (0, 4)),  # a recurrent layer is known by its number
        ("qwen35moe:drafting", (1,)),
        ("deepseek4", (0,)),  # whose experts are chosen by the token
        ("deepseek4:drafting", (2,)),
        ("deepseek", (0,)),  # the dense one
    ],
)
def test_a_pruned_model_loads_in_llama_cpp(name: str, pruned: tuple[int, ...]) -> None:
    """llama-quantize leaves numbers of each layer as they were; such files do not load."""
    left = without_layers(model_of(name), pruned)
    spec = left.spec()
    assert spec.layers == model_of(name).spec().layers - len(pruned)
    assert probe_header(name, left.metadata, tuple(left.tensors.values()), SMALL)


def test_layers_are_renumbered_and_read_where_they_were() -> None:
    left = without_layers(model_of("llama"), (0, 2))
    assert {name.split(".")[1] for name in left.tensors if name.startswith("blk.")} == {"0", "1"}
    assert left.read("blk.1.ffn_up.weight", 0, 99).tobytes() == b"blk.3.ffn_up.weight"
    assert left.read("token_embd.weight", 0, 99).tobytes() == b"token_embd.weight"
    assert left.tensors["blk.1.ffn_up.weight"].name == "blk.1.ffn_up.weight"


def test_importance_follows_its_layers() -> None:
    weights = {
        f"blk.{layer}.ffn_up.weight": ColumnSums(
            np.full((1, 2), layer, np.float32), np.ones(1, np.float32)
        )
        for layer in range(4)
    }
    left = importance_without_layers(Importance(weights, (), 1, 1), model_of("llama"), (0, 2))
    assert {name: sums.squares[0, 0] for name, sums in left.weights.items()} == {
        "blk.0.ffn_up.weight": 1,
        "blk.1.ffn_up.weight": 3,
    }


def test_layers_that_cannot_go() -> None:
    with pytest.raises(UnsupportedError, match="per_layer_token_embd"):
        without_layers(model_of("gemma3n"), (1,))
    with pytest.raises(UsageError, match="no layer"):
        without_layers(model_of("llama"), (0, 1, 2, 3))
    assert layers_from("3,1, 1") == (1, 3)


def test_metadata_of_another_kind_is_refused() -> None:
    model = model_of("deci:mixed-heads")
    with pytest.raises(UsageError, match="an array there, not an int"):
        with_metadata(model, metadata_from(["deci.attention.head_count_kv=int:2"]))
    with pytest.raises(UsageError, match="an int there, not a bool"):
        with_metadata(model, metadata_from(["deci.block_count=bool:true"]))
    changed = with_metadata(model, metadata_from(["deci.x=float:1.5", "deci.context_length=int:7"]))
    assert (changed.metadata["deci.x"], changed.spec().context_length) == (1.5, 7)
