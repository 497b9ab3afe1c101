"""Says why: the sentences beside a plan, and the one line when nothing fits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from snugfit.core import (
    Configuration,
    DeviceUse,
    Machine,
    MemoryUse,
    ModelSpec,
    Plan,
    Speed,
)
from snugfit.errors import BudgetError
from snugfit.planning.axes import Goal
from snugfit.planning.memory import has_all_layers_on_gpus
from snugfit.quants.recipes import RECIPES
from snugfit.units import BYTES_OF_UNIT, format_rate, format_size


def reasons_for(
    chosen: Plan,
    ways: Sequence[Plan],
    goal: Goal,
    specs: Mapping[str, ModelSpec],
    machine: Machine,
) -> tuple[str, ...]:
    """Return a few sentences on `chosen` beside the best `ways` of every mix, best quality first.

    `specs` are the models that were searched: one, or several files of one.
    """
    spec = specs.get(chosen.mix) or next(iter(specs.values()))
    sentences = [_choice(spec, chosen), _limit(chosen.memory)]
    sentences.append(_next_better(spec, chosen, ways, goal.size_bytes))
    sentences.append(_context(spec, chosen, goal.ctx is not None))
    configuration = chosen.memory.configuration
    if configuration.cpu_expert_layers:
        sentences.append(_experts(spec, configuration))
    if chosen.speed is not None:
        sentences.append(_speed(chosen.speed) + _assumed(spec, chosen.memory, machine))
    if chosen.mix in RECIPES and RECIPES[chosen.mix].last_resort:
        sentences.append(
            "So few bits lose much: a smaller model with more bits may well answer better. "
            "`snugfit evaluate` says how much."
        )
    return (*sentences, basis(chosen.memory))


def basis(use: MemoryUse) -> str:
    """Say how the bytes of a plan are known: always its last reason."""
    if use.compute_basis == "measured":
        return "Weights and file are exact, compute buffers are what the engine says."
    band = f"{use.compute_band:.0%}"
    return f"Weights and file are exact, compute buffers estimated to within {band}."


def budget_error(
    name: str, plans: Sequence[Plan], smallest_cut: tuple[int, str] | None, size_bytes: int | None
) -> BudgetError:
    """Return the line that names the smallest way and what it lacks.

    `plans` are within the file size but do not fit; `smallest_cut` is a file's bytes and its mix.
    """
    if smallest_cut is None:
        return BudgetError(
            f"{name}: no mix is smaller than the model is now. Run it as it is, or name a mix."
        )
    if not plans:
        file_bytes, mix = smallest_cut
        return BudgetError(
            f"{name}: the smallest cut, {mix}, needs {format_size(file_bytes)} for the file; "
            f"{format_size(size_bytes or 0)} were allowed. Give at least {rounded_up(file_bytes)}."
        )
    plan = min(plans, key=lambda plan: (_missing(plan.memory), plan.memory.total_bytes))
    use = plan.memory
    short = max(use.devices, key=lambda device: device.needed_bytes - device.free_bytes)
    is_cut = plan.mix in RECIPES
    what = f"the smallest cut that can be, {plan.mix}," if is_cut else "the model as it is"
    return BudgetError(
        f"{name}: {what} needs {format_size(plan.file_bytes)} "
        f"for the file and {format_size(use.total_bytes)} in all at {use.configuration.ctx} tokens "
        f"of context; {short.name} has {format_size(short.free_bytes)} free. "
        f"Give {short.name} at least {rounded_up(short.needed_bytes)}."
    )


def rounded_up(size_bytes: int) -> str:
    """Write bytes so that reading them back gives at least as many."""
    for unit in ("GiB", "MiB", "KiB"):
        if size_bytes >= BYTES_OF_UNIT[unit]:
            return f"{math.ceil(100 * size_bytes / BYTES_OF_UNIT[unit]) / 100:.2f} {unit}"
    return f"{size_bytes} B"


def _choice(spec: ModelSpec, chosen: Plan) -> str:
    what = f"{chosen.bits_per_weight:.2f} bits a weight, a file of {format_size(chosen.file_bytes)}"
    use = chosen.memory
    if len(use.devices) == 1:
        where = "it fits"
    elif has_all_layers_on_gpus(use, spec.layers):
        gpus = "the GPU" if len(use.devices) == 2 else "the GPUs"
        but = " but for experts" if use.configuration.cpu_expert_layers else ""
        where = f"all its layers are on {gpus}{but}"
    else:
        where = f"it fits with {_in_ram(spec, use)} of {spec.layers} layers in RAM, which is slow"
    return f"{chosen.mix}: {what}; {where}."


def _experts(spec: ModelSpec, configuration: Configuration) -> str:
    sentence = (
        f"The experts of the first {configuration.cpu_expert_layers} of {spec.layers} layers are "
        "in RAM."
    )
    if configuration.expert_cache_bytes:
        size = format_size(configuration.expert_cache_bytes)
        sentence += f" {size} of the GPU keep copies of those that are used most."
    return sentence


def _speed(speed: Speed) -> str:
    decode, prefill = speed.decode_tokens_per_s, speed.prefill_tokens_per_s
    return (
        f"About {format_rate(decode.middle)} tokens/s ({format_rate(decode.low)} to "
        f"{format_rate(decode.high)}) with {speed.filled_tokens:,} tokens in the cache; "
        f"prompts at about {format_rate(prefill.middle)}."
    )


def _assumed(spec: ModelSpec, use: MemoryUse, machine: Machine) -> str:
    """Name the memories that a token waits for and whose rate nobody told."""
    in_ram = use.configuration.cpu_expert_layers or not has_all_layers_on_gpus(use, spec.layers)
    waits = [
        device.name
        for device, used in zip(machine.devices, use.devices, strict=True)
        if used.weights_bytes and not device.read_bytes_per_s
        if device.kind == "gpu" or in_ram or len(use.devices) == 1
    ]
    if not waits:
        return ""
    return (
        f" How fast {' and '.join(waits)} can be read is not known, and is assumed: "
        "`snugfit machine --measure` measures it here, --machine names one elsewhere."
    )


def _limit(use: MemoryUse) -> str:
    def fullness(device: DeviceUse) -> float:
        return device.total_bytes / device.free_bytes if device.free_bytes else 0.0

    tight = max(use.devices, key=fullness)
    left = format_size(tight.free_bytes - tight.total_bytes)
    return (
        f"{tight.name} is the tightest memory: {format_size(tight.total_bytes)} of "
        f"{format_size(tight.free_bytes)} free are used, {left} remain{_margin(tight)}."
    )


def _margin(device: DeviceUse) -> str:
    if not device.margin_bytes:
        return ""
    return f", {format_size(device.margin_bytes)} of it in case the compute buffer is larger"


def _next_better(
    spec: ModelSpec, chosen: Plan, ways: Sequence[Plan], size_bytes: int | None
) -> str:
    better = [plan for plan in ways if plan.bits_per_weight > chosen.bits_per_weight]
    if not better:
        if size_bytes is not None:
            return f"A better mix makes a file of more than {format_size(size_bytes)}."
        return "No known mix of this model is better."
    following = better[-1]
    if not following.memory.fits:
        return (
            f"{following.mix}, the next better mix, needs at least "
            f"{format_size(_missing(following.memory))} more."
        )
    costs = []
    if following.speed and chosen.speed:
        rates = (following.speed.decode_tokens_per_s, chosen.speed.decode_tokens_per_s)
        costs.append(
            f"{format_rate(rates[0].middle)} tokens/s instead of {format_rate(rates[1].middle)}"
        )
    layers = _in_ram(spec, following.memory) if len(following.memory.devices) > 1 else 0
    if layers:
        costs.append(f"{layers} of {spec.layers} layers in RAM")
    contexts = [plan.memory.configuration.ctx for plan in (following, chosen)]
    if contexts[0] < contexts[1]:
        costs.append(f"{contexts[0]:,} tokens of context")
    return f"{following.mix}, the next better mix, would fit with {', '.join(costs)}."


def _context(spec: ModelSpec, chosen: Plan, is_ctx_given: bool) -> str:
    configuration = chosen.memory.configuration
    sentence = f"{configuration.ctx:,} tokens of context "
    if is_ctx_given:
        sentence += "as asked"
    elif configuration.ctx == spec.context_length:
        sentence += "are the most that the model was trained for"
    else:
        sentence += f"of the {spec.context_length:,} that the model was trained for"
    size = format_size(chosen.memory.kv_cache_bytes)
    return f"{sentence}; their {configuration.kv_type} cache takes {size}."


def _in_ram(spec: ModelSpec, use: MemoryUse) -> int:
    """Return how many layers are in RAM; the first of the GPU's layers is the output."""
    return spec.layers - max(0, use.configuration.gpu_layers - 1)


def _missing(use: MemoryUse) -> int:
    return sum(device.missing_bytes for device in use.devices)
