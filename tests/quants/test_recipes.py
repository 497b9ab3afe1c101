"""Named mixes against the types that llama-quantize itself gives, recorded in tests/data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from snugfit.errors import UnsupportedError
from snugfit.quants.recipes import RECIPES, assign_types, fitting_type, recipe_named

RECORD = json.loads((Path(__file__).parent.parent / "data/llama_quantize_types.json").read_text())
MODELS: dict[str, Any] = RECORD["models"]


def shapes_of(model: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every layer has the shapes that were recorded for the first."""
    shapes = {}
    for name, shape in model["shapes"].items():
        layers = range(model["layers"]) if name.startswith("blk.0.") else (0,)
        for layer in layers:
            shapes[name.replace("blk.0.", f"blk.{layer}.")] = tuple(shape)
    return shapes


def by_role(types: dict[str, str], layers: int) -> dict[str, Any]:
    """The form of the record: one type where all layers agree, else one a layer."""
    found: dict[str, list[str]] = {}
    for name, type_name in types.items():
        role = name.split(".", 2)[2] if name.startswith("blk.") else name
        found.setdefault(role, []).append(type_name)
    return {role: names[0] if len(set(names)) == 1 else names for role, names in found.items()}


@pytest.mark.parametrize("mix", sorted(set(RECIPES) - {"F32"}))
@pytest.mark.parametrize("name", MODELS)
def test_types_are_llama_quantize_s(name: str, mix: str) -> None:
    model = MODELS[name]
    types = assign_types(
        mix,
        shapes_of(model),
        layers=model["layers"],
        experts=model["experts"],
        shared_heads=model["shared_heads"],
    )
    found, expected = by_role(types, model["layers"]), model["mixes"][mix]
    if expected is None:  # llama-quantize gives up on these rows; we do not
        assert set(found.values()) <= {"F16", "F32", "Q8_0"}
        return
    assert found == expected


def test_a_row_that_blocks_do_not_fill_takes_the_next_type() -> None:
    assert fitting_type("Q4_K", 512) == "Q4_K"
    assert fitting_type("Q4_K", 96) == "Q5_0"
    assert fitting_type("Q4_K", 100) == "F16"


def test_unknown_mix_names_the_known() -> None:
    with pytest.raises(UnsupportedError, match="Q4_K_M"):
        recipe_named("Q4_K_XL")
