"""Types of whole models: overrides and pruning as llama-quantize has them, gaps in importance."""

from __future__ import annotations

import functools
import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headers import header
from make_quantize_types import OVERRIDES, RECORD

from snugfit.edits import layers_from, metadata_from, with_metadata, without_layers
from snugfit.errors import FormatError, UnsupportedError
from snugfit.formats.imatrix import ColumnSums, Importance
from snugfit.mixes import (
    Chosen,
    canonical,
    chosen_types,
    coverage,
    importance_for,
    types_of_mix,
)
from snugfit.models import Model, model_metadata
from snugfit.quants.overrides import Overrides, overrides_from

RECORDED: dict[str, Any] = json.loads(gzip.decompress(RECORD.read_bytes()))
NAMES = sorted(RECORDED["models"])


@functools.cache
def model_of_header(name: str) -> Model:
    file = header(name)

    def read(tensor: str, first: int, count: int) -> Any:
        raise AssertionError("types follow from headers")

    return Model(name, Path(name), model_metadata(file), file.tensors, file.file_bytes, read)


def overrides_of(options: tuple[str, ...]) -> tuple[Overrides, list[str], tuple[int, ...]]:
    """Read llama-quantize's options as ours: overrides, metadata, layers to prune."""
    patterns, metadata, pruned, given = [], [], (), {}
    words = iter(options)
    for word in words:
        if word == "--tensor-type":
            patterns.append(next(words))
        elif word == "--override-kv":
            metadata.append(next(words))
        elif word == "--prune-layers":
            pruned = layers_from(next(words))
        elif word in ("--pure", "--leave-output-tensor"):
            given[{"--pure": "pure"}.get(word, "leave_head")] = True
        else:
            given[{"--output-tensor-type": "head"}.get(word, "embedding")] = next(words)
    return overrides_from(patterns, **given), metadata, pruned


@pytest.mark.parametrize("case", OVERRIDES)
@pytest.mark.parametrize("name", NAMES)
def test_overrides_are_llama_quantize_s(name: str, case: str) -> None:
    mix, options = OVERRIDES[case]
    recorded = RECORDED["models"][name]["overrides"][case]
    if recorded is None:  # llama.cpp stops at a dense model that shall have experts
        assert case == "eight experts"
        return
    overrides, texts, pruned = overrides_of(options)
    model = model_of_header(name)
    architecture = model.metadata["general.architecture"]
    model = with_metadata(
        model, metadata_from(text.replace("{architecture}", architecture) for text in texts)
    )
    layout = model.spec().layout
    tensors = list(model.tensors)
    if pruned and "per_layer_token_embd.weight" in tensors:  # llama.cpp would not load the file
        with pytest.raises(UnsupportedError):
            without_layers(model, pruned)
        return
    if pruned:  # what is left is recorded by name
        model = without_layers(model, pruned)
        tensors, recorded = recorded
    types = types_of_mix(model, mix, overrides=overrides, layout=layout)
    letters = RECORDED["types"]
    theirs = {tensor: letters[letter] for tensor, letter in zip(tensors, recorded, strict=True)}
    assert types == theirs


def test_a_copy_keeps_every_type() -> None:
    model = model_of_header("gpt-oss-120b")
    chosen = chosen_types(model, "copy", overrides=Overrides(pure=True, head="Q4_0"))
    assert chosen.types == {name: tensor.type_name for name, tensor in model.tensors.items()}
    assert (chosen.mix, chosen.file_type) == ("COPY", model.metadata["general.file_type"])
    with pytest.raises(UnsupportedError, match="Q4_K_M"):
        canonical("COPYING")


# Importance


def importance_of(model: Model, **counts: float) -> Importance:
    """Return importance of every matrix, its experts reached by one token or as `counts` says."""
    weights = {}
    for name, tensor in model.tensors.items():
        if tensor.rows > 1:
            matrices = tensor.shape[-3] if len(tensor.shape) > 2 else 1
            squares = np.ones((matrices, 1), np.float32) * np.ones(tensor.columns, np.float32)
            weights[name] = ColumnSums(squares, np.ones(matrices, np.float32))
    return Importance(weights, ("text",), 1, 512)


def test_what_importance_misses_takes_a_type_that_needs_none() -> None:
    model = model_of_header("Llama-3.3-70B")
    whole = importance_of(model)
    full = chosen_types(model, "IQ2_XXS", importance=whole)
    assert full.replaced == {}
    missed = ("blk.79.ffn_up.weight", "blk.79.attn_v.weight", "output.weight", "token_embd.weight")
    rest = {name: sums for name, sums in whole.weights.items() if name not in missed}
    rest["blk.3.ffn_up.weight"] = replace(
        whole.weights["blk.3.ffn_up.weight"], counts=np.zeros(1, np.float32)
    )
    partly = chosen_types(model, "IQ2_XXS", importance=replace(whole, weights=rest))
    wanted = ("IQ2_XXS", "Q2_K")
    assert partly.replaced == {"blk.79.ffn_up.weight": wanted, "blk.3.ffn_up.weight": wanted}
    others = {n: t for n, t in partly.types.items() if n not in partly.replaced}
    assert others == {n: full.types[n] for n in others}
    found = coverage(partly.types, model, replace(whole, weights=rest))
    assert set(found.missed) == {*missed, "blk.3.ffn_up.weight"}


def test_experts_without_tokens_are_counted() -> None:
    model = model_of_header("Qwen3-30B-A3B")
    whole = importance_of(model)
    name = "blk.4.ffn_down_exps.weight"
    counts = np.ones(128, np.float32)
    counts[[3, 90]] = 0
    whole.weights[name] = replace(whole.weights[name], counts=counts)
    chosen = chosen_types(model, "IQ1_S", importance=whole)
    assert chosen.replaced == {}
    assert coverage(chosen.types, model, whole).unreached == {name: (2, 128)}


def test_importance_is_chosen_by_parts_of_names() -> None:
    model = model_of_header("Phi-4")
    whole = importance_of(model)
    few = importance_for(model, whole, include=("ffn_down", "blk.1."))
    assert all("ffn_down" in name or "blk.1." in name for name in few.weights)
    assert len(few.weights) == 40 + 3
    most = importance_for(model, whole, exclude=("attn", "ffn_up"))
    assert len(most.weights) == len(whole.weights) - 40 * 3
    assert isinstance(chosen_types(model, "Q4_K_M", importance=most), Chosen)


def test_importance_of_another_model_is_refused() -> None:
    model = model_of_header("Phi-4")
    wrong = ColumnSums(np.ones((1, 7), np.float32), np.ones(1, np.float32))
    importance = Importance({"blk.0.ffn_up.weight": wrong}, (), 1, 512)
    with pytest.raises(FormatError, match="7 numbers"):
        importance_for(model, importance)
    embedding = Importance({"token_embd.weight": wrong, "mtp.0": wrong}, (), 1, 512)
    assert importance_for(model, embedding).weights == {}


def test_old_files_of_stacked_experts_are_split_into_matrices() -> None:
    model = model_of_header("Qwen3-30B-A3B")
    name, columns = "blk.0.ffn_down_exps.weight", 768
    sums = np.arange(128 * columns, dtype=np.float32)[None]
    old = Importance({name: ColumnSums(sums, np.array([4], np.float32))}, (), 1, 0)
    means = importance_for(model, old).mean_squares(name)
    assert means is not None
    assert means.shape == (128, columns)
    assert means[5, 7] == (5 * columns + 7) / 4
