"""Chooses a mix, a context, a type of cache and a place for every layer that fit a machine.

The order of preference, best first: any mix before those of last resort; a mix whose layers all
sit on GPUs (experts may be in RAM) before one that leaves layers in RAM, which is many times
slower; then bits per weight; then context. A better mix wins over a longer context once there is
room for COMFORTABLE_CONTEXT.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from snugfit.core import Configuration, Device, Machine, MemoryUse, ModelSpec, Plan
from snugfit.errors import UnsupportedError
from snugfit.planning.memory import (
    Footprint,
    cut_footprint,
    footprint_of,
    has_all_layers_on_gpus,
    tensor_sizes,
    use_of,
)
from snugfit.planning.reasons import budget_error, reasons_for
from snugfit.quants.recipes import RECIPES, assign_types, recipe_named

AS_IT_IS = "as it is"
CHOICES = tuple(mix for mix, recipe in RECIPES.items() if not recipe.by_name_only)
CONTEXTS = (32768, 16384, 8192, 4096, 2048, 1024, 512)
COMFORTABLE_CONTEXT = 8192
CACHE_TYPES = ("F16", "Q8_0")  # the second only where the first does not fit


@dataclass(frozen=True)
class Goal:
    """What the user fixes; None leaves the choice to the search."""

    ctx: int | None = None
    size_bytes: int | None = None  # the most that the file may have
    kv_type: str | None = None
    slots: int = 1
    ubatch: int = 512
    flash_attention: bool = True
    gpu_layers: int | None = None
    cpu_expert_layers: int | None = None
    mix: str | None = None


@dataclass(frozen=True)
class Cut:
    """A mix of a model: its types, and what they make of its bytes."""

    mix: str
    tensor_types: dict[str, str]
    footprint: Footprint
    bits_per_weight: float

    @property
    def file_bytes(self) -> int:
        return self.footprint.weights.file_bytes


def choose(spec: ModelSpec, machine: Machine, goal: Goal) -> Plan:
    """Return the best plan that fits. Raises BudgetError if none does, and as `candidates` does."""
    return choose_from(candidates(spec, machine, goal), spec, goal)


def choose_from(plans: Sequence[Plan], spec: ModelSpec, goal: Goal) -> Plan:
    """Return the best of `candidates` that fits, with its reasons. Raises BudgetError."""
    fitting = [plan for plan in plans if plan.memory.fits]
    if not fitting:
        cuts = [(cut.file_bytes, cut.mix) for cut in cuts_of(spec, goal)]
        raise budget_error(spec.name, plans, min(cuts, default=None), goal.size_bytes)
    fitting = [plan for plan in fitting if not _is_last_resort(plan.mix)] or fitting
    whole = [plan for plan in fitting if has_all_layers_on_gpus(plan.memory, spec.layers)]
    chosen = (whole or fitting)[0]
    reasons = reasons_for(
        spec, chosen, plans, size_bytes=goal.size_bytes, is_ctx_given=goal.ctx is not None
    )
    return replace(chosen, reasons=reasons)


def candidates(spec: ModelSpec, machine: Machine, goal: Goal) -> list[Plan]:
    """Return a plan for every mix within the file size, best quality first, fitting or not.

    A model that is quantized already has one, "as it is". Raises UnsupportedError for a mix that
    cannot be had, UsageError for a configuration that llama.cpp refuses.
    """
    cuts = cuts_of(spec, goal)
    plans = [
        Plan(
            model=spec.name,
            mix=cut.mix,
            tensor_types=cut.tensor_types,
            file_bytes=cut.file_bytes,
            bits_per_weight=cut.bits_per_weight,
            memory=_best_use(cut.footprint, spec.context_length, machine.devices, goal),
            reasons=(),
        )
        for cut in cuts
        if goal.size_bytes is None or cut.file_bytes <= goal.size_bytes
    ]
    return sorted(plans, key=_quality, reverse=True)


def candidates_of_files(specs: Mapping[str, ModelSpec], machine: Machine, goal: Goal) -> list[Plan]:
    """Return a plan for every file of one model that exists, by what picks it, as `candidates`.

    Files are taken as they are; a mix that is asked for is one of their names. Raises
    UnsupportedError where none has it.
    """
    wanted = [pick for pick in specs if goal.mix is None or pick.upper() == goal.mix.upper()]
    if not wanted:
        raise UnsupportedError(f"no file is of the mix {goal.mix}. There are: {', '.join(specs)}.")
    as_they_are = replace(goal, mix=AS_IT_IS)
    plans = [
        replace(plan, mix=pick)
        for pick in wanted
        for plan in candidates(specs[pick], machine, as_they_are)
    ]
    return sorted(plans, key=_quality, reverse=True)


def _quality(plan: Plan) -> tuple[float, int]:
    return plan.bits_per_weight, plan.memory.configuration.ctx


def cuts_of(spec: ModelSpec, goal: Goal) -> list[Cut]:
    """Return what the model can be cut to: the mix that is asked for, or all that make sense."""
    original = footprint_of(spec)
    if spec.is_quantized or goal.mix == AS_IT_IS:
        if goal.mix not in (None, AS_IT_IS):
            raise UnsupportedError(
                f"{spec.name}: is quantized already and is not cut again. "
                "Name the original model (BF16, F16 or F32) to cut it."
            )
        types = {tensor.name: tensor.type_name for tensor in spec.tensors}
        return [Cut(AS_IT_IS, types, original, spec.bits_per_weight)]
    if goal.mix is not None:
        recipe_named(goal.mix)
        return [_cut(spec, original, goal.mix.upper())]
    cuts = (_cut(spec, original, mix) for mix in CHOICES)
    return [cut for cut in cuts if _is_worth_having(cut, spec)]


def _is_worth_having(cut: Cut, spec: ModelSpec) -> bool:
    """A cut is smaller than the original, or keeps its own precision."""
    if cut.bits_per_weight < spec.bits_per_weight:
        return True
    types = {tensor.name: tensor.type_name for tensor in spec.tensors}
    return cut.tensor_types == types


def _is_last_resort(mix: str) -> bool:
    return mix in RECIPES and RECIPES[mix].last_resort


def largest_mix(spec: ModelSpec, size_bytes: int, *, has_importance: bool = True) -> str:
    """Return the mix of most bits whose file has at most `size_bytes`. Raises BudgetError.

    Without importance, mixes that need it are left out.
    """
    original = footprint_of(spec)
    mixes = [mix for mix in CHOICES if has_importance or not RECIPES[mix].needs_importance]
    cuts = [_cut(spec, original, mix) for mix in mixes]
    allowed = [cut for cut in cuts if cut.file_bytes <= size_bytes]
    if not allowed:
        smallest = min((cut.file_bytes, cut.mix) for cut in cuts)
        raise budget_error(spec.name, [], smallest, size_bytes)
    return max(allowed, key=lambda cut: cut.bits_per_weight).mix


def _cut(spec: ModelSpec, original: Footprint, mix: str) -> Cut:
    shapes = {tensor.name: tensor.shape for tensor in spec.tensors}
    types = assign_types(
        mix,
        shapes,
        layers=spec.layers,
        experts=spec.experts,
        shared_heads=spec.shared_heads,
    )
    sizes = tensor_sizes(spec.tensors, types)
    bits_per_weight = 8 * sum(sizes.values()) / spec.parameters
    return Cut(mix, types, cut_footprint(original, spec, sizes), bits_per_weight)


def _best_use(
    footprint: Footprint, training_context: int, devices: Sequence[Device], goal: Goal
) -> MemoryUse:
    """Return the use that is liked best of those that fit, or the smallest, which does not."""
    room = sum(device.free_bytes for device in devices)
    fitting = smallest = None
    for wanted, is_comfortable in _configurations(training_context, goal):
        if fitting and not is_comfortable:
            break
        try:
            use = _place(footprint, wanted, devices, goal, may_drop_layers=False)
            kept = use.kv_cache_bytes + use.recurrent_state_bytes
            has_room = use.weights_bytes + kept <= room
            if fitting is None and not use.fits and has_room:
                use = _place(footprint, wanted, devices, goal, may_drop_layers=True)
        except UnsupportedError:
            if goal.kv_type is not None:
                raise
            continue  # a quantized cache that the heads of this model cannot have
        if use.fits and is_comfortable and has_all_layers_on_gpus(use, footprint.layers):
            return use
        if use.fits and fitting is None:
            fitting = use
        if smallest is None or use.total_bytes < smallest.total_bytes:
            smallest = use
    assert smallest is not None  # F16, which fits every head, is always tried
    return fitting or _place(footprint, smallest.configuration, devices, goal, may_drop_layers=True)


def _configurations(training_context: int, goal: Goal) -> Iterator[tuple[Configuration, bool]]:
    """Yield contexts and cache types, best first, and whether the context is comfortable."""
    limit = min(training_context, CONTEXTS[0])
    contexts = [goal.ctx] if goal.ctx is not None else [limit]
    if goal.ctx is None:
        contexts += [ctx for ctx in CONTEXTS if ctx < limit]
    comfortable = [ctx for ctx in contexts if ctx >= COMFORTABLE_CONTEXT or ctx == contexts[0]]
    short = [ctx for ctx in contexts if ctx not in comfortable]
    kv_types = (goal.kv_type,) if goal.kv_type is not None else CACHE_TYPES
    if not goal.flash_attention and goal.kv_type is None:
        kv_types = CACHE_TYPES[:1]  # llama.cpp quantizes the cache with flash attention only
    for group in (comfortable, short):
        for kv_type in kv_types:
            for ctx in group:
                yield (
                    Configuration(ctx, kv_type, goal.slots, goal.ubatch, goal.flash_attention),
                    group is comfortable,
                )


def _place(
    footprint: Footprint,
    wanted: Configuration,
    devices: Sequence[Device],
    goal: Goal,
    *,
    may_drop_layers: bool,
) -> MemoryUse:
    """Return the use with as much on the GPUs as they hold; RAM may be short of its part.

    Experts leave the GPUs first, from the first layers on, and layers only when all experts have.
    Where layers may not be dropped, the GPUs may be short.
    """
    everything = footprint.layers + 1 if len(devices) > 1 else 0
    gpu_layers = everything if goal.gpu_layers is None else min(goal.gpu_layers, everything)
    has_experts = any(footprint.weights.experts)
    most_experts = footprint.layers if has_experts and gpu_layers else 0

    def use(layers: int, experts: int) -> MemoryUse:
        placed = replace(wanted, gpu_layers=layers, cpu_expert_layers=experts)
        return use_of(footprint, placed, devices)

    experts = goal.cpu_expert_layers or 0
    best = use(gpu_layers, experts)
    if _gpus_hold(best):
        return best
    if goal.cpu_expert_layers is None and most_experts:
        experts = most_experts
        if _gpus_hold(use(gpu_layers, experts)):
            return use(gpu_layers, _smallest(experts, lambda n: _gpus_hold(use(gpu_layers, n))))
    if goal.gpu_layers is not None or not may_drop_layers:
        return use(gpu_layers, experts)
    dropped = _smallest(everything, lambda n: _gpus_hold(use(everything - n, experts)))
    return use(everything - dropped, experts)


def _gpus_hold(use: MemoryUse) -> bool:
    return all(device.fits for device in use.devices[:-1])


def _smallest(most: int, holds: Callable[[int], bool]) -> int:
    """Return the smallest number up to `most` that holds; `most` itself is known to."""
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return high
