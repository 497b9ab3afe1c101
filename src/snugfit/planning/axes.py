"""What the search tries: contexts, types of cache, micro-batches, and places for the layers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from snugfit.archs.cache import check_configuration, group_bytes
from snugfit.core import Configuration, Device
from snugfit.errors import UnsupportedError, UsageError
from snugfit.planning.memory import Footprint

# What people use when nobody asks for more; models are trained for many times that.
CONTEXTS = (32768, 16384, 8192, 4096, 2048, 1024, 512)
CACHE_TYPES = ("F16", "Q8_0", "Q4_0")
UBATCHES = (512, 1024, 2048)
# Places times layers that are tried; beyond it places are left out, so that no header can ask for
# hours of search. Models that people have need a fifth of it.
MOST_PLACED = 2**17


@dataclass(frozen=True)
class Goal:
    """What the user fixes; None leaves the choice to the search."""

    ctx: int | None = None
    size_bytes: int | None = None  # the most that the file may have
    kv_type: str | None = None
    slots: int = 1
    ubatch: int | None = None
    flash_attention: bool = True
    gpu_layers: int | None = None
    cpu_expert_layers: int | None = None
    mix: str | None = None
    value_type: str = ""
    kv_unified: bool = False
    swa_full: bool = False
    rollback: int = 0
    objective: str = "balanced"
    least_tokens_per_s: float = 0.0


@dataclass(frozen=True)
class Placement:
    """Where the layers are, as llama.cpp's options say it."""

    gpu_layers: int
    cpu_expert_layers: int
    gpu_split: tuple[int, ...] = ()

    def of(self, configuration: Configuration) -> Configuration:
        return replace(
            configuration,
            gpu_layers=self.gpu_layers,
            cpu_expert_layers=self.cpu_expert_layers,
            gpu_split=self.gpu_split,
        )


def settings(footprint: Footprint, training_context: int, goal: Goal) -> list[Configuration]:
    """Return every context, cache type and micro-batch to try, without places.

    Raises UsageError for a configuration that llama.cpp refuses, UnsupportedError for a cache type
    that the heads of the model cannot have; types that nobody asked for are left out instead.
    """
    contexts = [goal.ctx] if goal.ctx is not None else contexts_up_to(training_context, goal)
    kv_types: Sequence[str] = CACHE_TYPES if goal.flash_attention else CACHE_TYPES[:1]
    if goal.kv_type is not None:
        kv_types = (goal.kv_type,)
    found = []
    for kv_type in kv_types:
        first = _setting(goal, contexts[0], kv_type, goal.ubatch or UBATCHES[0])
        check_configuration(first)
        try:
            group_bytes(footprint.caches, first)
        except UnsupportedError:
            if goal.kv_type is not None:
                raise
            continue
        for ctx in contexts:
            ubatches = (goal.ubatch,) if goal.ubatch is not None else ubatches_of(ctx)
            found += [_setting(goal, ctx, kv_type, ubatch) for ubatch in ubatches]
    return found


def contexts_up_to(training_context: int, goal: Goal) -> list[int]:
    """Return contexts from the longest: those people use, or all that the model was trained for."""
    if goal.objective != "context":
        limit = min(training_context, CONTEXTS[0])
        return [limit, *(ctx for ctx in CONTEXTS if ctx < limit)]
    doubled = itertools.takewhile(
        lambda ctx: ctx < training_context, (CONTEXTS[-1] << n for n in itertools.count())
    )
    return [training_context, *reversed(list(doubled))]


def ubatches_of(ctx: int) -> list[int]:
    return [ubatch for ubatch in UBATCHES if ubatch <= max(ctx, UBATCHES[0])]


def _setting(goal: Goal, ctx: int, kv_type: str, ubatch: int) -> Configuration:
    return Configuration(
        *(ctx, kv_type, goal.slots, ubatch, goal.flash_attention),
        kv_unified=goal.kv_unified,
        value_type=goal.value_type,
        swa_full=goal.swa_full,
        rollback=goal.rollback,
    )


def placements(footprint: Footprint, devices: Sequence[Device], goal: Goal) -> list[Placement]:
    """Return where layers can be, those before that keep more on GPUs.

    Experts leave the GPUs first, from the first layer on, and layers only when all experts have.
    Several GPUs share the layers by free memory, as llama.cpp does by itself, or so that each is
    filled to the same part, whatever its layers weigh.
    """
    layers, gpus = footprint.layers, devices[:-1]
    everything = layers + 1 if gpus else 0
    if goal.gpu_layers is not None and goal.gpu_layers < 0:
        raise UsageError(f"{goal.gpu_layers} GPU layers. Give 0 or more.")
    most = everything if goal.gpu_layers is None else min(goal.gpu_layers, everything)
    experts = layers if any(footprint.weights.experts) and most else 0
    fixed = None if goal.cpu_expert_layers is None else min(goal.cpu_expert_layers, experts)
    pairs = [(most, n) for n in (range(experts + 1) if fixed is None else [fixed])]
    if goal.gpu_layers is None:
        left = experts if fixed is None else fixed
        pairs += [(layers_left, left) for layers_left in reversed(range(most))]
    plain = [Placement(*pair) for pair in _thinned(pairs, MOST_PLACED // (layers + 1))]
    if len(gpus) < 2:
        return plain
    even = (
        replace(one, gpu_split=_even_split(footprint, one, devices))
        for one in plain
        if one.gpu_layers
    )
    return [*plain, *even]


def _thinned(pairs: Sequence[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """Return at most `most` of them, evenly spread, the first and the last kept."""
    if len(pairs) <= most:
        return list(pairs)
    return [pairs[number * (len(pairs) - 1) // (most - 1)] for number in range(most)]


def _even_split(
    footprint: Footprint, placement: Placement, devices: Sequence[Device]
) -> tuple[int, ...]:
    """Return how many layers each GPU takes so that all are filled to the same part."""
    weights, gpus = footprint.weights, devices[:-1]
    sizes = [
        dense + (0 if layer < placement.cpu_expert_layers else experts)
        for layer, (dense, experts) in enumerate(zip(weights.dense, weights.experts, strict=True))
    ]
    sizes = [*sizes, weights.output][-placement.gpu_layers :]
    free, total = sum(gpu.free_bytes for gpu in gpus), sum(sizes)
    split, gpu, bound, so_far = [0] * len(gpus), 0, gpus[0].free_bytes, 0
    for size in sizes:
        while gpu < len(gpus) - 1 and (so_far + size / 2) * free > bound * total:
            gpu += 1
            bound += gpus[gpu].free_bytes
        split[gpu] += 1
        so_far += size
    return tuple(split)
