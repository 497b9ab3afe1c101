"""The machine we run on, or one that is described by its memory sizes."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from snugfit.core import Device, Machine
from snugfit.errors import UsageError
from snugfit.hardware import amd, apple, host, nvidia


@dataclass(frozen=True)
class Probe:
    """How one vendor's GPUs are found, and whether their memory is a share of RAM."""

    gpus: Callable[[], tuple[Device, ...]]
    shares_ram: bool = False


PROBES: dict[str, Probe] = {
    "nvidia": Probe(nvidia.gpus),
    "amd": Probe(amd.gpus),
    "apple": Probe(apple.gpus, shares_ram=True),
}


def detect() -> Machine:
    """Return this computer's memories as they are now. Finding no GPU is not an error."""
    devices = assemble(host.ram(), [(probe, probe.gpus()) for probe in PROBES.values()])
    return Machine(platform.node(), host.processor(), host.physical_cores(), devices)


def assemble(ram: Device, found: Sequence[tuple[Probe, tuple[Device, ...]]]) -> tuple[Device, ...]:
    """Join GPUs and RAM, RAM last. Memory that both share is counted once, as the GPU's."""
    gpus: list[Device] = []
    for probe, devices in found:
        for gpu in devices:
            if probe.shares_ram:
                free = min(gpu.free_bytes, ram.free_bytes)
                gpu = replace(gpu, free_bytes=free)
                ram = replace(ram, free_bytes=ram.free_bytes - free, note="besides the GPU's share")
            gpus.append(gpu)
    return (*_with_distinct_names(gpus), ram)


def machine_of(
    vram: Sequence[int] | None = None, ram: int | None = None, base: Machine | None = None
) -> Machine:
    """Return a machine with the memories that are given, in bytes, free as a whole.

    What is not given stays as `base` has it, by default this computer. A GPU of 0 bytes is none.
    Raises UsageError for negative sizes.
    """
    if any(size < 0 for size in (*(vram or ()), ram or 0)):
        raise UsageError("a memory cannot have less than 0 bytes. Give sizes such as 24GiB.")
    if vram is None or ram is None:
        base = base or detect()
    sizes = [size for size in vram or () if size]
    gpus: tuple[Device, ...] = tuple(
        Device(f"GPU {index}" if len(sizes) > 1 else "GPU", "gpu", size, size, "as described")
        for index, size in enumerate(sizes)
    )
    if vram is None and base:
        gpus = base.gpus
    memory = Device("RAM", "ram", ram or 0, ram or 0, "as described")
    if ram is None and base:
        memory = base.ram
    if base is None:
        return Machine("as described", "", 0, (*gpus, memory))
    return Machine(base.name, base.processor, base.cores, (*gpus, memory))


def _with_distinct_names(gpus: Sequence[Device]) -> list[Device]:
    names = [gpu.name for gpu in gpus]
    return [
        replace(gpu, name=f"{gpu.name} #{index}") if names.count(gpu.name) > 1 else gpu
        for index, gpu in enumerate(gpus)
    ]
