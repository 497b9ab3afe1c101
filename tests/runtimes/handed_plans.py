"""Plans to hand over: real shapes, and configurations of every kind."""

from __future__ import annotations

import random
from dataclasses import replace

from headers import original_of, spec_from_header

from snugfit.core import Configuration, Device, Machine, Plan
from snugfit.hardware.detect import machine_of
from snugfit.hardware.nodes import Node
from snugfit.planning.memory import predict
from snugfit.runtimes.commands.base import Request, Weights
from snugfit.units import GIB, MIB

LOCAL = Weights("models/a file.gguf")
HUB = Weights("Qwen3-Q4_K_M.gguf", "unsloth/Qwen3-GGUF", "Q4_K_M")
MOE = spec_from_header("Qwen3-30B-A3B")


def request_of(
    configuration: Configuration,
    machine: Machine | None = None,
    *,
    name: str = "Qwen3-30B-A3B",
    weights: Weights = LOCAL,
    is_original: bool = False,
    nodes: tuple[Node, ...] = (),
    whole: Machine | None = None,
) -> Request:
    """Return a plan of a recorded header as it is. `whole` is the machine with its nodes."""
    spec = spec_from_header(name)
    spec = original_of(spec) if is_original else spec
    here = machine or machine_of([24 * GIB], 256 * GIB)
    use = predict(spec, configuration, whole or here)
    types = {tensor.name: tensor.type_name for tensor in spec.tensors}
    plan = Plan(name, "as it is", types, spec.file_bytes, spec.bits_per_weight, use, ())
    return Request(plan, spec, here, weights, nodes)


def configurations(count: int) -> list[Configuration]:
    """Return configurations that llama.cpp runs, every field at more than one value."""
    pick = random.Random(4)
    found = []
    for _ in range(count):
        flash_attention = pick.random() < 0.8
        kv_type = (
            pick.choice(("F16", "Q8_0", "Q4_0", "BF16", "IQ4_NL")) if flash_attention else "F16"
        )
        gpu_layers = pick.choice((0, 1, 30, 49))
        found.append(
            Configuration(
                ctx=pick.choice((512, 4096, 32768, 131072)),
                kv_type=kv_type,
                slots=pick.choice((1, 2, 4)),
                ubatch=pick.choice((64, 512, 2048, 4096)),
                flash_attention=flash_attention,
                gpu_layers=gpu_layers,
                cpu_expert_layers=pick.choice((0, 7, 48)) if gpu_layers else 0,
                kv_unified=pick.random() < 0.5,
                value_type=pick.choice(("", "F16")) if kv_type != "F16" else "",
                swa_full=pick.random() < 0.3,
                gpu_split=pick.choice(((), (20, 29))) if gpu_layers == 49 else (),
                expert_cache_bytes=pick.choice((0, 0, 3000 * MIB)) if gpu_layers else 0,
            )
        )
    return found


def gpus(*sizes: int, name: str = "GPU") -> tuple[Device, ...]:
    return tuple(Device(f"{name} {n}", "gpu", s * GIB, s * GIB) for n, s in enumerate(sizes))


def with_rollback(configuration: Configuration) -> Configuration:
    return replace(configuration, rollback=3)
