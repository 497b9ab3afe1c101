"""The questions that need no weights: what is in a model, how many bytes, what fits."""

from __future__ import annotations

from collections.abc import Sequence

from snugfit.core import Configuration, Machine, MemoryUse, ModelSpec, Plan
from snugfit.errors import UsageError
from snugfit.hardware.detect import detect, machine_of
from snugfit.models import open_model
from snugfit.planning import memory as memory_model
from snugfit.planning import search
from snugfit.units import parse_size


def inspect(model: str) -> ModelSpec:
    """Return the shapes and sizes of a model, from its headers alone.

    Raises FormatError, UnsupportedError.
    """
    return open_model(model).spec()


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
    machine: Machine | str | None = None,
) -> MemoryUse:
    """Return the bytes of one configuration on each device of `machine` (default: this one).

    A machine is given as such, or as `--machine` names it: `RTX 4090`, `box.json`. All layers are
    on GPUs, if there are any, unless `gpu_layers` says otherwise. Raises FormatError,
    UnsupportedError, UsageError.
    """
    if ctx <= 0:
        raise UsageError(f"a context of {ctx} tokens; give at least 1.")
    spec, here = open_model(model).spec(), _machine(machine)
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
    machine: Machine | str | None = None,
) -> Plan:
    """Choose a mix, a context and a place for every layer. `size` bounds the file, as `15.2GiB`.

    `vram` and `ram` in bytes replace the machine's own. Raises BudgetError if nothing fits.
    """
    here = _machine(machine, vram, ram)
    goal = search.Goal(
        ctx=ctx,
        size_bytes=parse_size(size) if size else None,
        kv_type=kv_type.upper() if kv_type else None,
    )
    return search.choose(open_model(model).spec(), here, goal)


def _machine(
    machine: Machine | str | None, vram: Sequence[int] | None = None, ram: int | None = None
) -> Machine:
    if isinstance(machine, str):
        from snugfit.hardware.named import machine_named

        machine = machine_named(machine)
    return machine_of(vram, ram, machine) if vram or ram else machine or detect()
