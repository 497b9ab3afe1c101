"""The memory of engines that serve a model as published: weights / GPUs + cache, on each GPU.

llama.cpp's cache arithmetic does not hold there. vLLM gives every layer pages of one size, so a
layer with a window or a narrow cache takes as much as the widest, for the whole context: 73,728
bytes a token for gpt-oss-120b, all 36 layers of it, and 983,040 for gemma-4-31B.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

from snugfit.core import Device, Machine, ModelSpec
from snugfit.units import GIB, format_size

# Context, activations of the largest pass and recorded graphs: assumed, for lack of a formula.
OVERHEAD_BYTES = 3 * GIB // 2
LARGEST_SHARE = 0.92  # of a GPU's memory, which vLLM takes by itself
STATE_BYTES = 4
HALF_BYTES, FP8_BYTES = 2, 1
FP8 = "fp8"  # weights that are published in 16 bits, cut to 8 while they are loaded


@dataclass(frozen=True)
class Served:
    """How a model is spread over GPUs, and what each of them then holds."""

    quantization: str  # "" or FP8
    tensor_parallel: int
    pipeline_parallel: int
    weights_bytes: int  # of each GPU, as those below
    cache_bytes: int
    budget_bytes: int  # that the smallest GPU has for all of it
    offloaded_bytes: int = 0  # of the weights, in RAM

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes - self.offloaded_bytes + self.cache_bytes + OVERHEAD_BYTES

    @property
    def missing_bytes(self) -> int:
        return self.total_bytes - self.budget_bytes

    def told(self) -> str:
        parts = f"{format_size(self.weights_bytes)} of weights"
        if self.quantization:
            parts += f" in {self.quantization.upper()}"
        if self.offloaded_bytes:
            parts += f" ({format_size(self.offloaded_bytes)} of them in RAM)"
        return (
            f"{parts}, {format_size(self.cache_bytes)} of cache and "
            f"{format_size(OVERHEAD_BYTES)} assumed for the rest: {format_size(self.total_bytes)} "
            f"on each GPU, which has {format_size(self.budget_bytes)}"
        )


def share_of(gpus: tuple[Device, ...]) -> float:
    """Return the part of each GPU's whole memory that is free on all of them, rounded down."""
    free = min(gpu.free_bytes / gpu.total_bytes for gpu in gpus)
    return min(LARGEST_SHARE, math.floor(100 * free) / 100)


def budget_of(gpus: tuple[Device, ...]) -> int:
    """Return what an engine that takes one share everywhere has on the smallest GPU."""
    return int(share_of(gpus) * min(gpu.total_bytes for gpu in gpus))


def weights_bytes(spec: ModelSpec, quantization: str = "") -> int:
    """Return the bytes of the weights; FP8 spares embeddings, head, norms and routers."""
    return sum(
        tensor.parameters * FP8_BYTES
        if quantization == FP8 and _is_cut(tensor.name, len(tensor.shape))
        else tensor.size_bytes
        for tensor in spec.tensors
    )


def _is_cut(name: str, dimensions: int) -> bool:
    is_matrix = name.startswith("blk.") and name.endswith(".weight") and dimensions > 1
    return is_matrix and not any(part in name for part in ("norm", "ffn_gate_inp", "conv"))


def cache_bytes(
    spec: ModelSpec, tokens: int, slots: int, number_bytes: int, tensor_parallel: int
) -> int:
    """Return the cache of one GPU of a group: keys and values are split by heads, no finer."""
    widths: dict[int, float] = defaultdict(float)
    for cache in spec.caches:
        widths[cache.layer] += (cache.key_width + cache.value_width) / cache.tokens_per_cell
    heads = max((cache.heads for cache in spec.caches), default=1)
    pages = math.ceil(len(widths) * max(widths.values(), default=0) * number_bytes * tokens)
    states = sum(state.numbers for state in spec.states) * STATE_BYTES * slots
    return pages // min(tensor_parallel, heads) + states // tensor_parallel


def can_be_cut(spec: ModelSpec) -> bool:
    """Whether weights are published in 16 bits or more, which can be loaded as FP8."""
    return not spec.is_quantized


def tensor_parallels(spec: ModelSpec, gpus: int) -> list[int]:
    """Return the numbers of GPUs that can share every matrix: powers of two that divide heads."""
    return [n for n in (2**i for i in range(10)) if n <= gpus and spec.heads % n == 0]


def arranged(
    spec: ModelSpec, gpus: tuple[Device, ...], tokens: int, slots: int, number_bytes: int
) -> list[Served]:
    """Return the ways to serve a model on GPUs of one machine, the least changed first."""
    return [
        Served(
            quantization,
            parallel,
            1,
            weights_bytes(spec, quantization) // parallel,
            cache_bytes(spec, tokens, slots, number_bytes, parallel),
            budget_of(gpus[:parallel]),
        )
        for quantization in (("", FP8) if can_be_cut(spec) else ("",))
        for parallel in tensor_parallels(spec, len(gpus))
    ]


def why_no_gpus(machine: Machine) -> str:
    """Return why engines written for CUDA and ROCm cannot run on a machine, or nothing."""
    if not machine.gpus:
        return "needs a GPU, and the machine has none."
    if any(gpu.shares_ram for gpu in machine.gpus):
        return f"needs a GPU with memory of its own; {machine.gpus[0].name} shares RAM."
    return ""
