"""KTransformers: attention and some experts on the GPU, the other experts computed in RAM.

kt-kernel runs below a fork of SGLang (the package sglang-kt). The GPU's part is the original in 16
bits; experts in RAM are read from the plan's GGUF file (LLAMAFILE, for any processor with AVX2).
"""

from __future__ import annotations

import math
from pathlib import Path

from snugfit.runtimes.commands import served
from snugfit.runtimes.commands.base import Commands, Request, refused
from snugfit.runtimes.commands.options import KTRANSFORMERS
from snugfit.runtimes.commands.shell import command, path_word
from snugfit.units import format_size

TARGET = "ktransformers"
METHOD = "LLAMAFILE"


def commands(request: Request) -> Commands:
    spec, machine = request.spec, request.machine
    reason = served.why_no_gpus(machine)
    if reason or not spec.experts:
        return refused(TARGET, reason or "is for mixtures of experts; this model is dense.")
    if not request.weights.gguf or request.weights.repository:
        return refused(TARGET, f"needs a folder with a GGUF file of the experts for {METHOD}.")
    experts = sum(t.size_bytes for t in spec.tensors if "_exps." in t.name)
    planned = _planned_expert_bytes(request)
    dense = served.weights_bytes(spec) - experts
    cache = served.cache_bytes(spec, request.configuration.ctx, request.configuration.slots, 2, 1)
    budget = served.budget_of(machine.gpus[:1])
    left = budget - dense - cache - served.OVERHEAD_BYTES
    if left < 0:
        return refused(
            TARGET,
            f"keeps {format_size(dense)} of weights in 16 bits and {format_size(cache)} of cache "
            f"on the GPU, which has {format_size(budget)}: {format_size(-left)} too little.",
        )
    if planned > machine.ram.free_bytes:
        return refused(
            TARGET,
            f"keeps all experts in RAM, {format_size(planned)}; "
            f"{format_size(machine.ram.free_bytes)} are free.",
        )
    on_gpu = min(spec.experts, left * spec.experts // experts)
    return Commands(TARGET, (_line(request, budget, on_gpu),), notes=_notes(planned))


def _planned_expert_bytes(request: Request) -> int:
    """Return what the experts take in the types that the plan chose."""
    from snugfit.quants.types import TYPES

    return sum(
        TYPES[request.plan.tensor_types[tensor.name]].tensor_bytes(tensor.shape)
        for tensor in request.spec.tensors
        if "_exps." in tensor.name
    )


def _line(request: Request, budget: int, gpu_experts: int) -> str:
    held = budget - served.OVERHEAD_BYTES
    options: dict[str, object] = {
        "model": path_word(request.weights.original),
        "ctx": request.ctx_per_slot,
        "slots": request.configuration.slots,
        "share": f"{math.floor(100 * held / request.machine.gpus[0].total_bytes) / 100:.2f}",
        "method": METHOD,
        "experts": path_word(str(Path(request.weights.gguf).parent)),
        "gpu_experts": gpu_experts,
        "pools": 1,
    }
    if request.machine.cores:
        options["threads"] = request.machine.cores
    words = [word for name, value in options.items() for word in (KTRANSFORMERS[name], value)]
    return command("python", "-m", "sglang.launch_server", *words)


def _notes(planned: int) -> tuple[str, ...]:
    return (
        f"Estimated: {format_size(planned)} of experts in RAM; one GPU is used.",
        "It knows a list of model families, and its folder of experts must hold this GGUF alone.",
        f"With several NUMA nodes, set {KTRANSFORMERS['pools']} to their number.",
    )
