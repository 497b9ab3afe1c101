"""vLLM: the model as published, whole or as FP8, on one machine's GPUs.

GGUF has left its tree (vllm#39612), so what the plan would cut to GGUF is served from the original.
"""

from __future__ import annotations

import math
from dataclasses import replace

from snugfit.core import Configuration
from snugfit.runtimes.commands import served
from snugfit.runtimes.commands.base import Commands, Request, refused
from snugfit.runtimes.commands.options import VLLM, VLLM_FP8, VLLM_FP8_CACHE
from snugfit.runtimes.commands.served import Served
from snugfit.runtimes.commands.shell import command, path_word
from snugfit.units import GIB, format_size

TARGET = "vllm"


def commands(request: Request) -> Commands:
    reason = served.why_no_gpus(request.machine)
    if reason:
        return refused(TARGET, reason)
    ways = served.arranged(
        request.spec,
        request.machine.gpus,
        request.configuration.ctx,
        request.configuration.slots,
        cache_number_bytes(request.configuration),
    )
    fitting = next((way for way in ways if way.missing_bytes <= 0), None) or _offloaded(
        request, ways
    )
    if fitting is None:
        least = min(ways, key=lambda way: way.missing_bytes)
        return refused(TARGET, f"lacks {format_size(least.missing_bytes)}: {least.told()}.")
    share = served.share_of(request.machine.gpus[: fitting.tensor_parallel])
    line = command("vllm", "serve", *serve_words(request, fitting, share))
    return Commands(TARGET, (line,), notes=notes_of(request, fitting))


def cache_number_bytes(configuration: Configuration) -> int:
    """A plan with a cache of 8 bits or fewer is served with FP8's, the nearest that is common."""
    return served.FP8_BYTES if has_small_cache(configuration) else served.HALF_BYTES


def has_small_cache(configuration: Configuration) -> bool:
    return configuration.kv_type not in ("F16", "BF16", "F32")


def _offloaded(request: Request, ways: list[Served]) -> Served | None:
    """Return the way with part of its weights in RAM, if RAM has the room; never FP8's."""
    whole = [way for way in ways if not way.quantization]
    way = min(whole, key=lambda way: way.missing_bytes)
    needed = math.ceil(way.missing_bytes / GIB) * GIB
    room = request.machine.ram.free_bytes // way.tensor_parallel
    return replace(way, offloaded_bytes=needed) if needed <= min(room, way.weights_bytes) else None


def serve_words(request: Request, way: Served, share: float) -> list[object]:
    """Return what follows `vllm serve`."""
    options: dict[str, object] = {
        "ctx": request.ctx_per_slot,
        "slots": request.configuration.slots,
        "share": f"{share:.2f}",
    }
    if way.tensor_parallel > 1:
        options["tensor_parallel"] = way.tensor_parallel
    if way.pipeline_parallel > 1:
        options["pipeline_parallel"] = way.pipeline_parallel
    if way.quantization:
        options["quantization"] = VLLM_FP8
    if has_small_cache(request.configuration):
        options["kv_type"] = VLLM_FP8_CACHE
    if way.offloaded_bytes:
        options["offload"] = way.offloaded_bytes // GIB
    words: list[object] = [path_word(request.weights.original)]
    for name, value in options.items():
        words += [VLLM[name], value]
    return words


def notes_of(request: Request, way: Served) -> tuple[str, ...]:
    notes = [f"Estimated: {way.told()}. Layers with windows are counted in full, as vLLM does."]
    if way.quantization:
        notes.append("FP8 weights need no other file: 16-bit ones are cut while they are loaded.")
    if way.offloaded_bytes:
        notes.append(
            f"{format_size(way.offloaded_bytes)} of weights on each GPU are read from RAM for "
            "every token, which is slow; llama.cpp is faster where layers or experts are in RAM."
        )
    kv_type = request.configuration.kv_type
    if has_small_cache(request.configuration):
        notes.append(f"The plan's {kv_type.lower()} cache becomes FP8, the nearest that vLLM has.")
    return tuple(notes)
