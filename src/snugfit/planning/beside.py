"""What takes memory beside a model: a vision projector, and what no configuration sets."""

from __future__ import annotations

from dataclasses import replace

from snugfit.core import MemoryUse
from snugfit.planning.memory import IN_RAM

# A projector at work takes 1.3 to 1.4 times its file (Unsloth's measurements), with its weights.
PROJECTOR_WORK = 0.35

# Of this the engine inside snugfit keeps nothing, whatever the configuration.
NOT_COUNTED = (
    "prompts that llama-server keeps in RAM, up to 8 GiB unless --cache-ram says less",
    "checkpoints of windows and recurrent states that llama-server keeps in RAM, up to 32 a slot "
    "(--ctx-checkpoints)",
    "the logits of every token of a pass, 4 bytes for each of the vocabulary, which builds of "
    "llama.cpp before August 2026 keep on the GPU",
    "a second embedding in RAM, of gemma3n and gemma4 without a memory map (--no-mmap)",
)


def with_projector(use: MemoryUse, weights_bytes: int) -> MemoryUse:
    """Return `use` with a vision projector on the first GPU in use, or else in RAM."""
    number = 0 if use.configuration.gpu_layers and len(use.devices) > 1 else IN_RAM
    devices = list(use.devices)
    devices[number] = replace(
        devices[number],
        weights_bytes=devices[number].weights_bytes + weights_bytes,
        overhead_bytes=devices[number].overhead_bytes + round(PROJECTOR_WORK * weights_bytes),
    )
    return replace(use, devices=tuple(devices))
