"""Named mixes against the types that llama-quantize itself gives, recorded in tests/data."""

from __future__ import annotations

import functools
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headers import header
from make_quantize_types import MADE_RECORD, RECORD, made_models
from shapes import SHAPES

from snugfit.archs.table import spec_of
from snugfit.core import ModelSpec, TensorInfo
from snugfit.errors import UnsupportedError
from snugfit.quants.assignment import (
    WITHOUT_IMPORTANCE,
    assign_types,
    fitting_type,
    needs_importance,
    type_without_importance,
)
from snugfit.quants.overrides import NONE, Overrides
from snugfit.quants.positions import Layout, placed
from snugfit.quants.recipes import RECIPES, is_mix, mix_named, recipe_named
from snugfit.quants.types import TYPES

MADE = made_models()


@functools.cache
def record(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return found


HEADERS = sorted(record(RECORD)["models"])


@functools.cache
def spec_of_header(name: str) -> ModelSpec:
    file = header(name)
    tensors = tuple(file.tensors.values())
    return spec_of(name, file.metadata, tensors, file_bytes=0, header_bytes=0)


def differences(path: Path, name: str, spec: ModelSpec) -> dict[str, list[tuple[str, str, str]]]:
    """Return, by run and mix, the tensors that have another type here: name, theirs, ours."""
    types, recorded, found = record(path)["types"], record(path)["models"][name], {}
    plain = recorded["plain"]
    for run in ("plain", "importance", "pure"):
        mixes = recorded[run] if run != "importance" else plain | recorded[run]
        for mix, letters in mixes.items():
            if letters is None:  # llama-quantize gives up on these rows; we do not
                continue
            ours = assign_types(
                mix,
                spec.placed,
                has_importance=run == "importance",
                overrides=Overrides(pure=True) if run == "pure" else NONE,
            )
            theirs = zip((t.name for t in spec.tensors), letters, strict=True)
            wrong = [
                (tensor, types[letter], ours[tensor])
                for tensor, letter in theirs
                if types[letter] != ours[tensor]
            ]
            if wrong:
                found[f"{run} {mix}"] = wrong
    return found


@pytest.mark.parametrize("name", HEADERS)
def test_types_of_real_shapes_are_llama_quantize_s(name: str) -> None:
    assert differences(RECORD, name, spec_of_header(name)) == {}


@pytest.mark.parametrize("name", MADE)
def test_types_of_every_architecture_are_llama_quantize_s(name: str) -> None:
    metadata, tensors = MADE[name]
    assert set(record(MADE_RECORD)["models"][name]["plain"]) == set(RECIPES)
    spec = (
        spec_of(name, metadata, tensors, file_bytes=0, header_bytes=0)
        if name in SHAPES
        else Stretched(metadata, tensors)
    )
    assert differences(MADE_RECORD, name, spec) == {}


class Stretched:
    """What mixes ask of a spec, for a model that is none: its shapes do not belong together."""

    def __init__(self, metadata: dict[str, Any], tensors: tuple[TensorInfo, ...]) -> None:
        given = {key.partition(".")[2]: np.ravel(value)[0] for key, value in metadata.items()}
        keys = ("attention.head_count", "attention.head_count_kv", "nextn_predict_layers")
        self.layout = Layout(
            metadata["general.architecture"],
            int(given["block_count"]),
            int(given.get("expert_count", 0)),
            *(int(given.get(key, 0)) for key in keys),
        )
        self.tensors = tensors
        self.placed = placed([(t.name, t.shape, t.type_name) for t in tensors], self.layout)


def test_what_is_recorded_is_llama_quantize_s_own_and_of_all_kinds() -> None:
    """A record of nothing would agree with everything."""
    for path in (RECORD, MADE_RECORD):
        for name, runs in record(path)["models"].items():
            given_up = {mix for mix, letters in runs["plain"].items() if letters is None}
            assert given_up <= {"Q1_0"}, name
    met = set("".join(filter(None, record(MADE_RECORD)["models"]["falcon x32"]["plain"].values())))
    assert len(met) > 20


def test_a_row_that_blocks_do_not_fill_takes_the_next_type() -> None:
    assert fitting_type("Q4_K", 512) == "Q4_K"
    assert fitting_type("Q4_K", 96) == "Q5_0"
    assert fitting_type("Q4_K", 100) == "F16"


def test_unknown_mix_names_the_known() -> None:
    with pytest.raises(UnsupportedError, match="Q4_K_M"):
        recipe_named("Q4_K_XL")


def test_mixes_have_llama_quantize_s_other_names() -> None:
    assert [mix_named(name) for name in ("q4_k", "Q3_K", "15", "0", "iq4_xs")] == [
        *("Q4_K_M", "Q3_K_M", "Q4_K_M", "F32", "IQ4_XS")
    ]
    for name in ("copy", "Q5_K", "7"):
        assert is_mix(name)
    for name in ("out.gguf", "5", "-1", "9" * 5000, "", "²"):
        assert not is_mix(name)


def test_what_needs_importance_takes_the_smallest_larger_type_that_does_not() -> None:
    """Types for models trained to hold three values do not count."""
    free = [
        row.bits_per_weight
        for name, row in TYPES.items()
        if (name.startswith("IQ") or name.endswith("_K")) and name not in WITHOUT_IMPORTANCE
    ]
    for name, other in WITHOUT_IMPORTANCE.items():
        larger = [bits for bits in free if bits > TYPES[name].bits_per_weight]
        assert TYPES[other].bits_per_weight == min(larger), name
    assert type_without_importance("Q2_K", "Q2_K_S", 512) == "Q3_K"
    assert type_without_importance("IQ2_XS", "IQ2_XS", 96) == "Q4_0"


def test_llama_quantize_s_rule_of_what_needs_importance() -> None:
    assert needs_importance("blk.0.ffn_up.weight", "IQ2_XXS", "IQ2_XXS")
    assert needs_importance("blk.0.ffn_up.weight", "Q2_K", "Q2_K_S")
    assert not needs_importance("blk.0.ffn_up.weight", "Q2_K", "Q2_K")
    assert not needs_importance("token_embd.weight", "IQ2_XXS", "IQ2_XXS")
    assert not needs_importance("output.weight", "Q2_K", "Q2_K_S")
