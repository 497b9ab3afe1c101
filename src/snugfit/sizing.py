"""The questions that need no weights: what is in a model, how many bytes, what fits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from snugfit.core import Configuration, Machine, MemoryUse, ModelSpec, Plan
from snugfit.errors import FormatError, UsageError
from snugfit.formats.gguf import read_gguf
from snugfit.hardware.detect import detect, machine_of
from snugfit.headers import open_headers
from snugfit.models import PROJECTOR, Model
from snugfit.planning import memory as memory_model
from snugfit.planning.axes import Goal
from snugfit.planning.beside import with_projector
from snugfit.planning.reasons import basis
from snugfit.planning.search import search
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
    machine: Machine | str | None = None,
    value_type: str = "",
    kv_unified: bool = False,
    swa_full: bool = False,
    rollback: int = 0,
    measure: bool = False,
    mmproj: str | None = None,
) -> MemoryUse:
    """Return the bytes of one configuration on each device of `machine` (default: this one).

    A machine is given as such, or as `--machine` names it: `RTX 4090`, `box.json`. All layers are
    on GPUs, if there are any, unless `gpu_layers` says otherwise. `value_type` is the cached
    values' type where it is not the keys'; `rollback` the tokens that a draft runs ahead. `measure`
    asks the embedded engine for the compute buffer, see `with_measured_compute`. `mmproj` is a
    vision projector's file: its weights are counted from its header, what it works with is
    estimated. Raises FormatError, UnsupportedError, UsageError, and RuntimeFailure where it cannot
    measure.
    """
    if ctx <= 0:
        raise UsageError(f"a context of {ctx} tokens; give at least 1.")
    opened, here = open_headers(model).model, _machine(machine)
    spec = opened.spec()
    if gpu_layers is None:
        gpu_layers = memory_model.every_layer(spec, here)
    configuration = Configuration(
        *(ctx, kv_type.upper(), slots, ubatch, flash_attention, gpu_layers, cpu_expert_layers),
        kv_unified=kv_unified,
        value_type=value_type.upper(),
        swa_full=swa_full,
        rollback=rollback,
    )
    use = memory_model.predict(spec, configuration, here)
    if measure:
        use = with_measured_compute(use, opened)
    return with_projector(use, projector_weights(mmproj)) if mmproj else use


def projector_weights(path: str) -> int:
    """Return the bytes of a vision projector's tensors. Raises FormatError for any other file."""
    file = read_gguf(path)
    if file.metadata.get("general.architecture") != PROJECTOR:
        raise FormatError(f"{path}: is no vision projector. Name the mmproj file of the model.")
    return sum(tensor.size_bytes for tensor in file.tensors.values())


def with_measured_compute(use: MemoryUse, model: Model) -> MemoryUse:
    """Return `use` with the compute buffer that the embedded llama.cpp would allocate.

    Only the header is read. Raises UsageError for layers on GPUs: the engine here need not have
    those that were planned for; RuntimeFailure where the engine cannot be asked.
    """
    from snugfit.runtimes.llama_cpp_probe import probe_header

    if use.configuration.gpu_layers:
        raise UsageError("only a configuration without GPU layers is measured. Use --gpu-layers 0.")
    measured = probe_header(
        model.name, model.metadata, tuple(model.tensors.values()), use.configuration
    )
    ram = replace(use.devices[-1], compute_bytes=measured.compute_bytes, margin_bytes=0)
    return replace(
        use, devices=(*use.devices[:-1], ram), compute_basis="measured", compute_band=0.0
    )


def with_measured_plan(plan: Plan, model: Model) -> Plan:
    """Return `plan`, a cut of `model`, as `with_measured_compute` does; its reasons say so."""
    tensors = {
        name: replace(tensor, type_name=plan.tensor_types[name])
        for name, tensor in model.tensors.items()
    }
    use = with_measured_compute(plan.memory, replace(model, tensors=tensors))
    return replace(plan, memory=use, reasons=(*plan.reasons[:-1], basis(use)))


def plan(
    model: str,
    *,
    ctx: int | None = None,
    size: str | None = None,
    mix: str | None = None,
    kv_type: str | None = None,
    slots: int = 1,
    ubatch: int | None = None,
    flash_attention: bool = True,
    gpu_layers: int | None = None,
    cpu_expert_layers: int | None = None,
    vram: Sequence[int] | None = None,
    ram: int | None = None,
    machine: Machine | str | None = None,
    value_type: str = "",
    kv_unified: bool = False,
    swa_full: bool = False,
    rollback: int = 0,
    objective: str = "balanced",
    least_tokens_per_s: float = 0.0,
) -> Plan:
    """Choose a mix, a context and a place for every layer; what is given is kept, None is chosen.

    `size` bounds the file, as `15.2GiB`; `mix` names the only one to try, as `Q4_K_M`. `vram` and
    `ram` in bytes replace the machine's own. `objective` is what counts most: balanced, quality,
    speed or context; nothing slower than `least_tokens_per_s` is chosen. The rest is as `memory`
    has it. Raises BudgetError if nothing fits or is so fast, UnsupportedError for a mix or a cache
    type that cannot be had, UsageError, FormatError and NetworkError.
    """
    if not math.isfinite(least_tokens_per_s):
        raise UsageError(f"{least_tokens_per_s} tokens a second. Give a number, as 10.")
    here = _machine(machine, vram, ram)
    goal = Goal(
        ctx=ctx,
        size_bytes=parse_size(size) if size else None,
        mix=mix,
        kv_type=kv_type.upper() if kv_type else None,
        slots=slots,
        ubatch=ubatch,
        flash_attention=flash_attention,
        gpu_layers=gpu_layers,
        cpu_expert_layers=cpu_expert_layers,
        value_type=value_type.upper(),
        kv_unified=kv_unified,
        swa_full=swa_full,
        rollback=rollback,
        objective=objective,
        least_tokens_per_s=least_tokens_per_s,
    )
    specs = {pick: found.spec() for pick, found in open_headers(model).models.items()}
    return search(specs, here, goal).chosen


def _machine(
    machine: Machine | str | None, vram: Sequence[int] | None = None, ram: int | None = None
) -> Machine:
    if isinstance(machine, str):
        from snugfit.hardware.named import machine_named

        machine = machine_named(machine)
    return machine_of(vram, ram, machine) if vram or ram else machine or detect()
