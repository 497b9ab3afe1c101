"""The type of every tensor of a file to write: a mix, what a user asks for, what importance has."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from snugfit.core import TensorInfo
from snugfit.errors import FormatError
from snugfit.formats.imatrix import ColumnSums, Importance
from snugfit.models import Model
from snugfit.planning.reasons import budget_error
from snugfit.quants.assignment import assign_types, needs_importance, type_without_importance
from snugfit.quants.overrides import NONE, Overrides
from snugfit.quants.positions import EMBEDDINGS, LAYER, Layout, is_kept_in_full, placed
from snugfit.quants.recipes import COPY, is_mix, mix_named, recipe_named
from snugfit.quants.types import TYPES

CONVERTED = ("F32", "BF16", "F16")
LONGEST_TEXT = 127  # that llama-quantize keeps of a name


@dataclass(frozen=True)
class Chosen:
    """The types of a file, and where they are not what the mix says."""

    mix: str  # its own name, or COPY
    types: dict[str, str]
    file_type: int
    # Tensors whose type needs importance that they have not -> (that type, the one they get).
    replaced: dict[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Coverage:
    """What an importance matrix lacks for a file: the tensors, and experts by count."""

    missed: tuple[str, ...]  # quantized, without importance: their columns count alike
    unreached: dict[str, tuple[int, int]]  # tensor -> (experts that no token reached, experts)


def canonical(name: str) -> str:
    """Return a mix's own name, or COPY. Raises UnsupportedError with the known names."""
    return COPY if name.upper() == COPY else mix_named(name)


def types_of_mix(
    model: Model,
    mix: str,
    *,
    has_importance: bool = False,
    overrides: Overrides = NONE,
    layout: Layout | None = None,
) -> dict[str, str]:
    """Return the type that a mix gives each tensor of `model`, as llama-quantize does.

    Of a folder, experts that are stored as MXFP4 stay so, unless a pattern names them.
    `layout` is that of the model before layers were pruned, whose layers llama-quantize counts.
    """
    if mix.upper() == COPY:
        return {tensor.name: tensor.type_name for tensor in model.tensors.values()}
    tensors = [(t.name, t.shape, t.type_name) for t in model.tensors.values()]
    uncounted: Collection[str] = ()
    if TYPES[recipe_named(mix).base].is_quantized and overrides.patterns:
        uncounted = [name for name, _, _ in tensors if overrides.pattern_type(name)]
    at = placed(tensors, layout or model.spec().layout, frozenset(uncounted))
    types = assign_types(mix, at, has_importance=has_importance, overrides=overrides)
    if model.is_original:  # of which llama.cpp's converter keeps what is packed in ggml's blocks
        types |= {
            tensor.name: tensor.stored
            for tensor in at
            if TYPES[tensor.stored].is_quantized and not overrides.pattern_type(tensor.name)
        }
    base = recipe_named(mix).base
    if not model.is_gguf and not TYPES[base].is_quantized:
        # No mix is asked about these, but converting is: all that is not F32 for good.
        types |= {
            tensor.name: base
            for tensor in at
            if tensor.is_left
            and tensor.stored in CONVERTED
            and not is_kept_in_full(tensor.name, model.tensors[tensor.name].shape)
        }
    return types


def chosen_types(
    model: Model,
    mix: str,
    *,
    importance: Importance | None = None,
    overrides: Overrides = NONE,
    layout: Layout | None = None,
) -> Chosen:
    """Return the types of a file in which nothing is garbage.

    Where a type needs importance that a tensor has not, llama-quantize gives up; here the tensor
    gets the smallest larger type that needs none.
    """
    mix = canonical(mix)
    types = types_of_mix(
        model, mix, has_importance=importance is not None, overrides=overrides, layout=layout
    )
    if mix == COPY:
        return Chosen(mix, types, _file_type(model))
    measured = measured_in(importance)
    replaced = {}
    for name, wanted in types.items():
        tensor = model.tensors[name]
        is_new = tensor.type_name != wanted
        if is_new and name not in measured and needs_importance(name, wanted, mix):
            replaced[name] = wanted, type_without_importance(wanted, mix, tensor.columns)
    types |= {name: given for name, (_, given) in replaced.items()}
    return Chosen(mix, types, recipe_named(mix).file_type, replaced)


def _file_type(model: Model) -> int:
    """Return the number that a model's file has, or that of the type of most weights."""
    stored = model.metadata.get("general.file_type")
    if isinstance(stored, int | np.integer) and 0 <= int(stored) < 2**32:
        return int(stored)
    weights: dict[str, int] = {}
    for tensor in model.tensors.values():
        weights[tensor.type_name] = weights.get(tensor.type_name, 0) + tensor.parameters
    most = max(weights, key=lambda name: weights[name])
    return recipe_named(most).file_type if is_mix(most) else 0


def measured_in(importance: Importance | None) -> set[str]:
    """Return the tensors that tokens reached, at least one expert of each."""
    if importance is None:
        return set()
    return {name for name, sums in importance.weights.items() if (sums.counts > 0).any()}


def coverage(types: Mapping[str, str], model: Model, importance: Importance | None) -> Coverage:
    """Return what of the tensors that `types` quantizes has no importance."""
    measured = measured_in(importance)
    quantized = [
        name
        for name, type_name in types.items()
        if TYPES[type_name].is_quantized and type_name != model.tensors[name].type_name
    ]
    unreached = {}
    for name in quantized:
        if importance is not None and name in measured:
            counts = importance.weights[name].counts
            if (counts == 0).any():
                unreached[name] = int((counts == 0).sum()), len(counts)
    return Coverage(tuple(name for name in quantized if name not in measured), unreached)


def importance_for(
    model: Model,
    importance: Importance,
    *,
    include: Collection[str] = (),
    exclude: Collection[str] = (),
) -> Importance:
    """Return the importance that a model's tensors have, in their shapes.

    `include` and `exclude` are parts of names, as of llama-quantize's --include-weights and
    --exclude-weights. Raises FormatError for importance of another model.
    """
    weights = {}
    for name, sums in importance.weights.items():
        is_wanted = not include or any(part in name for part in include)
        if not is_wanted or any(part in name for part in exclude):
            continue
        shaped = _shaped(model, name, sums)
        if shaped is not None:
            weights[name] = shaped
    return replace(importance, weights=weights)


def _shaped(model: Model, name: str, sums: ColumnSums) -> ColumnSums | None:
    """Return sums of [matrices, columns], or None where the model has no use for them.

    A file of the old form does not say how many matrices its numbers are of.
    """
    tensor = model.tensors.get(name)
    if tensor is None:
        return None
    matrices = _matrices(tensor)
    if sums.squares.size == matrices * tensor.columns:
        counts = sums.counts if len(sums.counts) == matrices else np.resize(sums.counts, matrices)
        return ColumnSums(sums.squares.reshape(matrices, tensor.columns), counts)
    if name in EMBEDDINGS:  # which llama.cpp's collector measures as what it is not
        return None
    raise FormatError(
        f"importance of {name} has {sums.squares.size} numbers, the tensor {matrices} x "
        f"{tensor.columns}. Collect it again from this model."
    )


def _matrices(tensor: TensorInfo) -> int:
    return math.prod(tensor.shape[:-2])


def largest(choices: Mapping[str, int], allowed_bytes: int, name: str) -> str:
    """Return the mix of most bytes within `allowed_bytes`; `choices` are the bytes of their files.

    Raises BudgetError with the smallest, where none is that small.
    """
    fitting = {mix: size for mix, size in choices.items() if size <= allowed_bytes}
    if not fitting:
        smallest = min((size, mix) for mix, size in choices.items())
        raise budget_error(name, [], smallest, allowed_bytes)
    return max(fitting, key=lambda mix: fitting[mix])


def expected_importance(model: Model, layout: Layout) -> Importance:
    """Return importance that calibrating will measure, without numbers: not of drafting layers."""
    found = {}
    for name, tensor in model.tensors.items():
        match = LAYER.match(name)
        if match and int(match[1]) < layout.layers - layout.drafting:
            matrices = _matrices(tensor)
            ones = np.broadcast_to(np.float32(1), (matrices, tensor.columns))
            found[name] = ColumnSums(ones, np.ones(matrices, np.float32))
    return Importance(found, (), 0, 0)


def described(importance: Importance, path: Path) -> dict[str, Any]:
    """Return the keys by which llama-quantize says what importance a file was made with."""
    keys: dict[str, Any] = {"quantize.imatrix.file": str(path)[:LONGEST_TEXT]}
    if importance.datasets:
        keys["quantize.imatrix.dataset"] = importance.datasets[0][:LONGEST_TEXT]
    keys["quantize.imatrix.entries_count"] = np.uint32(len(importance.weights))
    if importance.chunk_count > 0:
        keys["quantize.imatrix.chunks_count"] = np.uint32(importance.chunk_count)
    return keys
