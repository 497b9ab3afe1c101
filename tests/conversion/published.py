"""Shapes of published models, a few of their layers, as llama.cpp wants them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agreement import RECORDS

from snugfit.archs.conversion.tensors import ConvertedTensor

# What tests/data/published_shapes.json has of its own, to stay small or to fill gaps.
OTHERWISE = (
    "attention.layer_norm_rms_epsilon",
    "attention.layer_norm_epsilon",
    "block_count",
    "logit_scale",
    "vocab_size",
)


def check_published(
    name: str, keys: Mapping[str, Any], tensors: Mapping[str, ConvertedTensor]
) -> None:
    """Compare with an entry of tests/data/published_shapes.json: its keys, its layers' tensors."""
    entry = json.loads((RECORDS.parent / "published_shapes.json").read_text())[name]
    expected = {k: v for k, v in entry["metadata"].items() if k not in OTHERWISE}
    assert {key: keys[key] for key in expected} == expected
    for described, shape in entry["tensors"].items():
        layers, _, role = described.rpartition(" ")
        names = [f"blk.{layer}.{role}" for layer in layers.split(",")] if layers else [role]
        for tensor in names:
            assert list(tensors[tensor].info.shape) == shape, tensor
