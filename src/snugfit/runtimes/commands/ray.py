"""vLLM over several machines through Ray: matrices are split in a machine, layers over machines."""

from __future__ import annotations

import math

from snugfit.core import Device
from snugfit.runtimes.commands import served
from snugfit.runtimes.commands.base import Commands, Request, refused
from snugfit.runtimes.commands.options import RAY_START, VLLM
from snugfit.runtimes.commands.served import Served
from snugfit.runtimes.commands.shell import command
from snugfit.runtimes.commands.vllm import cache_number_bytes, notes_of, serve_words
from snugfit.units import format_size

TARGET = "ray"
PORT = 6379
HEAD = "HEAD"  # stands for this machine's address


def commands(request: Request) -> Commands:
    machines = [request.machine.gpus, *(node.gpus for node in request.nodes)]
    counts = [len(gpus) for gpus in machines]
    if not counts[0] or served.why_no_gpus(request.machine):
        return refused(TARGET, f"here: {served.why_no_gpus(request.machine)}")
    if len(set(counts)) > 1:
        found = ", ".join(map(str, counts))
        return refused(
            TARGET, f"needs as many GPUs on every machine; there are {found}. Use --for rpc."
        )
    parallels = served.tensor_parallels(request.spec, counts[0])
    if parallels[-1] != counts[0]:
        return refused(
            TARGET, f"cannot split {request.spec.heads} heads over {counts[0]} GPUs of a machine."
        )
    ways = _ways(request, machines)
    way = next((way for way in ways if way.missing_bytes <= 0), None)
    if way is None:
        least = min(ways, key=lambda way: way.missing_bytes)
        return refused(TARGET, f"lacks {format_size(least.missing_bytes)}: {least.told()}.")
    share = min(served.share_of(gpus) for gpus in machines)
    return Commands(TARGET, _lines(request, way, share), notes=_notes(request, way))


def _ways(request: Request, machines: list[tuple[Device, ...]]) -> list[Served]:
    """Return how all machines share the model: as published, then as FP8."""
    spec, configuration = request.spec, request.configuration
    parallel, stages = len(machines[0]), len(machines)
    # Layers are counted out evenly, so the fullest stage has one of them more than the mean.
    part = math.ceil(spec.layers / stages) / spec.layers
    cache = served.cache_bytes(
        spec, configuration.ctx, configuration.slots, cache_number_bytes(configuration), parallel
    )
    ends = max(t.size_bytes for t in spec.tensors if not t.name.startswith("blk."))
    budget = min(served.budget_of(gpus) for gpus in machines)
    ways = []
    for quantization in ("", served.FP8) if served.can_be_cut(spec) else ("",):
        weights = served.weights_bytes(spec, quantization)
        stage = math.ceil((weights - ends) * part) + ends  # with the embedding, or the head
        ways.append(
            Served(
                *(quantization, parallel, stages, stage // parallel),
                *(math.ceil(cache * part), budget),
            )
        )
    return ways


def _lines(request: Request, way: Served, share: float) -> tuple[str, ...]:
    join = command("ray", "start", f"{RAY_START['address']}={HEAD}:{PORT}")
    joins = [line for node in request.nodes for line in (f"# on {node.host}", join)]
    serve = [*serve_words(request, way, share), VLLM["executor"], "ray"]
    return (
        "# here",
        command("ray", "start", RAY_START["head"], f"{RAY_START['port']}={PORT}"),
        *joins,
        "# here, once `ray status` counts all GPUs",
        command("vllm", "serve", *serve),
    )


def _notes(request: Request, way: Served) -> tuple[str, ...]:
    return (
        f"{HEAD} stands for this machine's address, as the others reach it.",
        "Every machine needs the same Python, Ray, vLLM and the model under the same path.",
        *notes_of(request, way),
    )
