"""The questions that need no weights: what is in a model, how many bytes, what fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from snugfit.core import Configuration, Machine, MemoryUse, ModelSpec, Plan
from snugfit.errors import UsageError
from snugfit.hardware.detect import detect, machine_of
from snugfit.headers import open_headers
from snugfit.planning import memory as memory_model
from snugfit.planning import search
from snugfit.units import parse_size


def inspect(model: str) -> ModelSpec:
    """Return the shapes and sizes of a model, from its headers alone.

    Raises FormatError, UnsupportedError.
    """
    return open_headers(model).model.spec()


def memory(
    model: str,
    ctx: int,
    *,
    kv_type: str = "f16",
    slots: int = 1,
    ubatch: int = 512,
    flash_attention: bool = True,
    gpu_layers: int | None = None,
    cpu_expert_layers: int = 0,
    machine: Machine | None = None,
) -> MemoryUse:
    """Return the bytes of one configuration on each device of `machine` (default: this one).

    All layers are on GPUs, if there are any, unless `gpu_layers` says otherwise. Raises
    FormatError, UnsupportedError, UsageError.
    """
    if ctx <= 0:
        raise UsageError(f"a context of {ctx} tokens; give at least 1.")
    spec, here = open_headers(model).model.spec(), machine or detect()
    if gpu_layers is None:
        gpu_layers = memory_model.every_layer(spec, here)
    configuration = Configuration(
        ctx, kv_type.upper(), slots, ubatch, flash_attention, gpu_layers, cpu_expert_layers
    )
    return memory_model.predict(spec, configuration, here)


def plan(
    model: str,
    *,
    ctx: int | None = None,
    size: str | None = None,
    kv_type: str | None = None,
    vram: Sequence[int] | None = None,
    ram: int | None = None,
    machine: Machine | None = None,
) -> Plan:
    """Choose a mix, a context and a place for every layer. `size` bounds the file, as `15.2GiB`.

    `vram` and `ram` in bytes replace the machine's own. Raises BudgetError if nothing fits.
    """
    here = machine or (machine_of(vram, ram) if vram or ram else detect())
    goal = search.Goal(
        ctx=ctx,
        size_bytes=parse_size(size) if size else None,
        kv_type=kv_type.upper() if kv_type else None,
    )
    specs = {pick: found.spec() for pick, found in open_headers(model).models.items()}
    return choose(specs, here, goal)[1]


def choose(
    specs: Mapping[str, ModelSpec], machine: Machine, goal: search.Goal
) -> tuple[list[Plan], Plan]:
    """Return every plan and the best: of cuts of one model, or of several files of one.

    Raises BudgetError if nothing fits, and as `search.candidates` does.
    """
    smallest = min(specs.values(), key=lambda spec: spec.file_bytes)
    if len(specs) == 1:
        plans = search.candidates(smallest, machine, goal)
    else:
        plans = search.candidates_of_files(specs, machine, goal)
        goal = replace(goal, mix=None)
    return plans, search.choose_from(plans, smallest, goal)
