"""What a model can be cut to: the mixes of quants.recipes, or the model as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from snugfit.core import ModelSpec
from snugfit.errors import UnsupportedError
from snugfit.planning.axes import Goal
from snugfit.planning.memory import Footprint, cut_footprint, footprint_of, tensor_sizes
from snugfit.planning.speed import Reads, cut_reads, reads_of
from snugfit.quants.assignment import assign_types, needs_importance, type_without_importance
from snugfit.quants.positions import LAYER
from snugfit.quants.recipes import RECIPES, mix_named

AS_IT_IS = "as it is"
CHOICES = tuple(mix for mix, recipe in RECIPES.items() if not recipe.by_name_only)


@dataclass(frozen=True)
class Cut:
    """A mix of a model: its types, and what they make of its bytes."""

    mix: str
    tensor_types: dict[str, str]
    footprint: Footprint
    bits_per_weight: float
    reads: Reads

    @property
    def file_bytes(self) -> int:
        return self.footprint.weights.file_bytes


def cuts_of(spec: ModelSpec, goal: Goal) -> list[Cut]:
    """Return what the model can be cut to: the mix that is asked for, or all that make sense."""
    whole = _whole(spec)
    if spec.is_quantized or goal.mix == AS_IT_IS:
        if goal.mix not in (None, AS_IT_IS):
            raise UnsupportedError(
                f"{spec.name}: is quantized already and is not cut again. "
                "Name the original model (BF16, F16 or F32) to cut it."
            )
        return [whole]
    if goal.mix is not None:
        return [_cut(spec, whole, mix_named(goal.mix))]
    cuts = (_cut(spec, whole, mix) for mix in CHOICES)
    return [cut for cut in cuts if _is_worth_having(cut, whole)]


def _is_worth_having(cut: Cut, whole: Cut) -> bool:
    """A cut is smaller than the original, or keeps its own precision."""
    return cut.bits_per_weight < whole.bits_per_weight or cut.tensor_types == whole.tensor_types


def _whole(spec: ModelSpec) -> Cut:
    types = {tensor.name: tensor.type_name for tensor in spec.tensors}
    sizes = {tensor.name: tensor.size_bytes for tensor in spec.tensors}
    reads, footprint = reads_of(spec, types, sizes), footprint_of(spec)
    if spec.is_original:
        footprint = cut_footprint(footprint, spec, sizes)
    return Cut(AS_IT_IS, types, footprint, spec.bits_per_weight, reads)


def _cut(spec: ModelSpec, whole: Cut, mix: str) -> Cut:
    """Return a mix of the model that is `whole` as it is.

    A model is cut to a plan with importance, since `fit` calibrates. Layers that only draft are not
    run then, so what needs importance there takes a type that does not.
    """
    types = assign_types(mix, spec.placed, has_importance=True)
    if spec.drafting:
        types |= _without_importance(spec, mix, types)
    sizes = tensor_sizes(spec.tensors, types)
    bits_per_weight = 8 * sum(sizes.values()) / spec.parameters
    footprint = cut_footprint(whole.footprint, spec, sizes)
    return Cut(mix, types, footprint, bits_per_weight, cut_reads(whole.reads, spec, types, sizes))


def _without_importance(spec: ModelSpec, mix: str, types: Mapping[str, str]) -> dict[str, str]:
    first = spec.layers - spec.drafting
    return {
        tensor.name: type_without_importance(types[tensor.name], mix, tensor.columns)
        for tensor in spec.tensors
        if (match := LAYER.match(tensor.name)) and int(match[1]) >= first
        if needs_importance(tensor.name, types[tensor.name], mix)
    }
