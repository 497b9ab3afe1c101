"""MLX: the model as published, cut to MLX's own types where the plan cuts it, on Apple silicon."""

from __future__ import annotations

from snugfit.runtimes.commands.base import Commands, Request, refused
from snugfit.runtimes.commands.options import MLX_CONVERT, MLX_SERVER
from snugfit.runtimes.commands.served import cache_bytes, weights_bytes
from snugfit.runtimes.commands.shell import command, path_word
from snugfit.units import format_size

TARGET = "mlx"
BITS = (8, 6, 5, 4, 3, 2)
GROUP = 64
# Each group has a scale and an offset of 16 bits: 32 bits for 64 weights.
BITS_OF_GROUP = 32 / GROUP
CACHE_BITS = {"Q8_0": 8, "Q5_1": 6, "Q5_0": 6, "Q4_1": 4, "Q4_0": 4, "IQ4_NL": 4}


def commands(request: Request) -> Commands:
    gpus = request.machine.gpus
    if not gpus or not gpus[0].name.startswith("Apple"):
        return refused(TARGET, "is for Macs with Apple silicon; name one with --machine.")
    bits = _bits(request)
    if bits is None:
        return refused(TARGET, f"has no type as small as {request.plan.bits_per_weight:.2f} bits.")
    original, configuration = request.weights.original, request.configuration
    lines, model, size = [], path_word(original), weights_bytes(request.spec)
    if bits:
        size = int(request.spec.parameters * (bits + BITS_OF_GROUP) / 8)
        model = f"{request.spec.name}-{bits}bit-mlx"
        options: dict[str, object] = {
            "model": path_word(original),
            "out": path_word(model),
            "bits": bits,
            "group": GROUP,
        }
        words = [word for name, value in options.items() for word in (MLX_CONVERT[name], value)]
        lines.append(command("mlx_lm.convert", MLX_CONVERT["quantize"], *words))
    kv_bits = CACHE_BITS.get(configuration.kv_type)
    cache = cache_bytes(request.spec, configuration.ctx, configuration.slots, 2, 1)
    total = size + (cache * kv_bits // 16 if kv_bits else cache)
    if total > gpus[0].free_bytes:
        return refused(
            TARGET,
            f"needs {format_size(total)}; the GPU may hold {format_size(gpus[0].free_bytes)}.",
        )
    words = [MLX_SERVER["model"], path_word(model)]
    if kv_bits:
        words += [MLX_SERVER["kv_bits"], kv_bits]
    else:
        words += [MLX_SERVER["slots"], configuration.slots]
    lines.append(command("mlx_lm.server", *words))
    return Commands(TARGET, tuple(lines), notes=_notes(request, bits, kv_bits, total))


def _bits(request: Request) -> int | None:
    """Return the largest type of MLX within the plan's bits a weight, 0 for as published."""
    planned = request.plan.bits_per_weight
    if planned >= request.spec.bits_per_weight:
        return 0
    return next((bits for bits in BITS if bits + BITS_OF_GROUP <= planned), None)


def _notes(request: Request, bits: int, kv_bits: int | None, total: int) -> tuple[str, ...]:
    notes = [
        f"Its server has no limit of context: {format_size(total)} are enough for "
        f"{request.configuration.ctx:,} tokens, and longer conversations take more."
    ]
    if bits:
        notes.append(
            f"{bits} bits with a scale and an offset for {GROUP} weights, without calibration: "
            "expect more loss than the plan's mix has."
        )
    if kv_bits:
        notes.append("With a quantized cache it serves one request at a time.")
    return tuple(notes)
