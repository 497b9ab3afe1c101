"""The machine we run on, or one that is described by its memory sizes."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace

from snugfit.core import Device, Machine
from snugfit.errors import UsageError
from snugfit.units import GIB

# One probe a vendor: a module here whose `gpus` returns () where it finds nothing, without a word.
# Probes and names are loaded when this computer is asked: a described one needs none of them.
PROBES = ("nvidia", "amd", "intel", "apple")
# Of a memory that GPU and processor share, what the GPU leaves to the engine's side in RAM:
# embeddings, tables of tokens, buffers. A 16th of what is free, up to the largest embeddings.
HOST_SHARE, LARGEST_HOST_SHARE_BYTES = 16, 2 * GIB
BESIDES_GPU = "besides the GPU's share"


def detect() -> Machine:
    """Return this computer's memories as they are now. Finding no GPU is not an error."""
    from snugfit.hardware import host, measured

    found = _gpus_here()
    processor, cores = host.processor(), host.physical_cores()
    rates = measured.read()
    ram = host.ram()
    rate = rates.get(ram_key(processor, cores))
    if rate:
        ram = replace(ram, read_bytes_per_s=rate, read_basis="measured")
    gpus = [with_read_rate(gpu, rates, ram.total_bytes) for gpu in found]
    return Machine(platform.node(), processor, cores, assemble(ram, gpus))


def _gpus_here() -> list[Device]:
    modules = (importlib.import_module(f"snugfit.hardware.{vendor}") for vendor in PROBES)
    return [gpu for module in modules for gpu in module.gpus()]


def measure() -> dict[str, int]:
    """Time how fast RAM and each GPU are read, a second or so each; keep and return the rates.

    GPUs are timed where torch can use them. Raises OutputError if the rates cannot be kept.
    """
    from snugfit.hardware import bandwidth, host, measured, profiles

    processor, cores = host.processor(), host.physical_cores()
    rate = bandwidth.ram_rate(cores, host.ram().free_bytes, bandwidth.RAM_SECONDS)
    rates = {ram_key(processor, cores): rate}
    if _gpus_here():  # importing torch takes seconds
        of_gpus = bandwidth.gpu_rates()
        rates |= {f"GPU {profiles.key_of(name)}": rate for name, rate in of_gpus.items()}
    measured.add(rates)
    return rates


def ram_key(processor: str, cores: int) -> str:
    """Return the name under which a rate of RAM is kept; a home may serve several machines."""
    from snugfit.hardware import host

    return f"RAM {round(host.installed_bytes() / GIB)} GiB, {processor}, {cores} cores"


def with_read_rate(gpu: Device, rates: Mapping[str, int], ram_bytes: int) -> Device:
    """Return `gpu` with its measured read rate, else its profile's. `ram_bytes` helps to tell
    variants of processors with a shared memory apart.
    """
    from snugfit.hardware import measured, profiles

    name = measured.METAL if gpu.name.startswith("Apple") else gpu.name
    rate = rates.get(f"GPU {profiles.key_of(name)}")
    if rate:
        return replace(gpu, read_bytes_per_s=rate, read_basis="measured")
    profile = profiles.lookup(gpu.name, ram_bytes if gpu.shares_ram else gpu.total_bytes)
    if profile:
        return replace(gpu, read_bytes_per_s=profile.read_bytes_per_s, read_basis="profile")
    return gpu


def assemble(ram: Device, gpus: Sequence[Device]) -> tuple[Device, ...]:
    """Join GPUs and RAM, RAM last. Memory that both share is counted once, as the GPU's.

    That is the most that a GPU may hold; what a plan leaves of it is RAM's (planning.memory). A GPU
    that shares RAM and has no total of its own may hold all of it.
    """
    joined: list[Device] = []
    for gpu in gpus:
        if gpu.shares_ram:
            kept = min(ram.free_bytes // HOST_SHARE, LARGEST_HOST_SHARE_BYTES)
            available = ram.free_bytes - kept
            free = min(gpu.free_bytes, available) if gpu.total_bytes else available
            gpu = replace(gpu, total_bytes=gpu.total_bytes or ram.total_bytes, free_bytes=free)
            note = "; ".join(filter(None, (BESIDES_GPU, ram.note)))
            ram = replace(ram, free_bytes=ram.free_bytes - free, note=note)
        joined.append(gpu)
    return (*_with_distinct_names(joined), ram)


def whole_ram(machine: Machine) -> Device:
    """Return a machine's RAM with what its GPUs would share of it."""
    shared = sum(gpu.free_bytes for gpu in machine.gpus if gpu.shares_ram)
    note = machine.ram.note.removeprefix(BESIDES_GPU).removeprefix("; ")
    return replace(machine.ram, free_bytes=machine.ram.free_bytes + shared, note=note)


def machine_of(
    vram: Sequence[int] | None = None, ram: int | None = None, base: Machine | None = None
) -> Machine:
    """Return a machine with the memories that are given, in bytes, free as a whole.

    What is not given stays as `base` has it, by default this computer. A GPU of 0 bytes is none.
    As many GPUs as `base` has are those of `base`, with other sizes: those that share RAM take them
    from it. Raises UsageError for negative sizes.
    """
    if any(size < 0 for size in (*(vram or ()), ram or 0)):
        raise UsageError("a memory cannot have less than 0 bytes. Give sizes such as 24GiB.")
    if vram is None or ram is None:
        base = base or detect()
    gpus = base.gpus if vram is None and base else _described_gpus(vram or (), base)
    memory = Device("RAM", "ram", ram or 0, ram or 0, "as described")
    if base is None:
        return Machine("as described", "", 0, (*gpus, memory))
    known = base.ram
    if ram is None:
        memory = whole_ram(base)
    else:
        memory = replace(
            memory, read_bytes_per_s=known.read_bytes_per_s, read_basis=known.read_basis
        )
        # How much of it a GPU may hold is its own limit, whatever was free before.
        gpus = tuple(
            replace(gpu, free_bytes=gpu.total_bytes) if gpu.shares_ram else gpu for gpu in gpus
        )
    return Machine(base.name, base.processor, base.cores, assemble(memory, gpus))


def _described_gpus(vram: Sequence[int], base: Machine | None) -> tuple[Device, ...]:
    sizes = [size for size in vram if size]
    here = base.gpus if base and len(base.gpus) == len(sizes) else ()
    if here:
        return tuple(
            replace(gpu, total_bytes=size, free_bytes=size, note="as described", holders=())
            for gpu, size in zip(here, sizes, strict=True)
        )
    return tuple(
        Device(f"GPU {index}" if len(sizes) > 1 else "GPU", "gpu", size, size, "as described")
        for index, size in enumerate(sizes)
    )


def _with_distinct_names(gpus: Sequence[Device]) -> list[Device]:
    names = [gpu.name for gpu in gpus]
    return [
        replace(gpu, name=f"{gpu.name} #{index}") if names.count(gpu.name) > 1 else gpu
        for index, gpu in enumerate(gpus)
    ]
