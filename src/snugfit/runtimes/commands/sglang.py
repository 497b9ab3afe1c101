"""SGLang: the model as published, whole or as FP8, on one machine's GPUs."""

from __future__ import annotations

import math

from snugfit.runtimes.commands import served
from snugfit.runtimes.commands.base import Commands, Request, refused
from snugfit.runtimes.commands.options import SGLANG, SGLANG_FP8, SGLANG_FP8_CACHE
from snugfit.runtimes.commands.shell import command, path_word
from snugfit.runtimes.commands.vllm import cache_number_bytes, has_small_cache
from snugfit.units import format_size

TARGET = "sglang"


def commands(request: Request) -> Commands:
    reason = served.why_no_gpus(request.machine)
    if reason:
        return refused(TARGET, reason)
    configuration, gpus = request.configuration, request.machine.gpus
    ways = served.arranged(
        request.spec,
        gpus,
        configuration.ctx,
        configuration.slots,
        cache_number_bytes(configuration),
    )
    way = next((way for way in ways if way.missing_bytes <= 0), None)
    if way is None:
        least = min(ways, key=lambda way: way.missing_bytes)
        return refused(TARGET, f"lacks {format_size(least.missing_bytes)}: {least.told()}.")
    # Its share holds weights and cache alone; what is left is for graphs and activations.
    held = way.budget_bytes - served.OVERHEAD_BYTES
    smallest = min(gpu.total_bytes for gpu in gpus[: way.tensor_parallel])
    options: dict[str, object] = {
        "model": path_word(request.weights.original),
        "ctx": request.ctx_per_slot,
        "slots": configuration.slots,
        "share": f"{math.floor(100 * held / smallest) / 100:.2f}",
    }
    if way.tensor_parallel > 1:
        options["tensor_parallel"] = way.tensor_parallel
    if way.quantization:
        options["quantization"] = SGLANG_FP8
    notes = [f"Estimated: {way.told()}. Layers with windows are counted in full."]
    if has_small_cache(configuration):
        options["kv_type"] = SGLANG_FP8_CACHE
        notes.append(f"The plan's {configuration.kv_type.lower()} cache becomes FP8.")
    words = [word for name, value in options.items() for word in (SGLANG[name], value)]
    line = command("python", "-m", "sglang.launch_server", *words)
    return Commands(TARGET, (line,), notes=tuple(notes))
