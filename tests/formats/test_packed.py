"""Packed weights against the packages that pack them: equal in float32, bit for bit.

data/packed/ was made by make_packed.py; torch and transformers stand in where they define a format.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from snugfit.formats.packed import LogicalTensors, logical_tensors
from snugfit.formats.safetensors import StoredTensor, read_safetensors

DATA = Path(__file__).parents[1] / "data" / "packed"
CASES = {
    "awq": 2,
    "gptq": 8,
    "compressed": 16,
    "bitsandbytes": 6,
    "modelopt": 2,
}
NAME = "model.layers.0.mlp.up_proj"
AS_FLOATS = {"dtype": "float32"}


@cache
def golden(method: str) -> dict[str, tuple[dict[str, Any], dict[str, torch.Tensor], torch.Tensor]]:
    """Return each case's settings, its parts by what follows the name, and the weight."""
    from safetensors.torch import load

    content = gzip.decompress((DATA / f"{method}.safetensors.gz").read_bytes())
    length = int.from_bytes(content[:8], "little")
    settings = json.loads(content[8 : 8 + length])["__metadata__"]
    tensors = load(content)
    return {
        case: (
            json.loads(said),
            {
                name.removeprefix(f"{case}/linear"): value
                for name, value in tensors.items()
                if name.startswith(f"{case}/linear")
            },
            tensors[f"{case}/reference"],
        )
        for case, said in settings.items()
    }


def every_case() -> list[tuple[str, str]]:
    return [(method, case) for method in CASES for case in golden(method)]


def opened(
    folder: Path,
    parts: Mapping[str, torch.Tensor],
    settings: Mapping[str, Any],
    config: Mapping[str, Any] = AS_FLOATS,
    name: str = NAME,
) -> LogicalTensors:
    path = folder / "model.safetensors"
    save_file({name + part: value for part, value in parts.items()}, path)
    return logical_tensors(str(folder), read_safetensors(path), config, settings)


def bits(values: Any) -> np.ndarray[Any, Any]:
    """Return float32 as bits; packers differ in the sign of a zero, which is no difference."""
    return (np.ascontiguousarray(np.asarray(values), np.float32) + np.float32(0)).view(np.uint32)


def test_the_golden_files_are_whole() -> None:
    assert {method: len(golden(method)) for method in CASES} == CASES


@pytest.mark.parametrize(("method", "case"), every_case())
def test_equals_the_packer(method: str, case: str, tmp_path: Path) -> None:
    settings, parts, reference = golden(method)[case]
    found = opened(tmp_path, parts, settings)
    assert list(found) == [f"{NAME}.weight"]
    weight = found[f"{NAME}.weight"]
    assert weight.shape == tuple(reference.shape)
    assert weight.dtype == "F32"
    values = weight.whole()
    assert values.shape == weight.shape
    assert np.array_equal(bits(values), bits(reference))
