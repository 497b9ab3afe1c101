"""NVIDIA GPUs, through the driver's management library. No driver means no GPU, without a word."""

from __future__ import annotations

from typing import Any

from snugfit.core import Device, Holder
from snugfit.hardware import profiles
from snugfit.hardware.pci import GENERATIONS, Link
from snugfit.units import format_size


def gpus(library: Any = None) -> tuple[Device, ...]:
    """Return the GPUs in the driver's order. `library` is pynvml, or a recording of it."""
    if library is None:
        import pynvml

        library = pynvml
    try:
        library.nvmlInit()
    except library.NVMLError:
        return ()
    try:
        found = [_device(library, index) for index in range(library.nvmlDeviceGetCount())]
    except library.NVMLError:
        return ()
    finally:
        library.nvmlShutdown()
    return tuple(device for device in found if device is not None)


def _device(library: Any, index: int) -> Device | None:
    """Return one GPU. One that does not tell its memory has it in common with the processor, as a
    GB10 has, if its profile says so; otherwise there is nothing to plan with.
    """
    try:
        handle = library.nvmlDeviceGetHandleByIndex(index)
        name = _text(library.nvmlDeviceGetName(handle))
    except library.NVMLError:
        return None
    holders = _holders(library, handle)
    try:
        memory = library.nvmlDeviceGetMemoryInfo(handle)
    except library.NVMLError:
        profile = profiles.lookup(name)
        if profile is None or profile.kind != "unified":
            return None
        return Device(name, "gpu", 0, 0, "a share of RAM", shares_ram=True, holders=holders)
    total, free = int(memory.total), int(memory.free)
    link = _link(library, handle)
    return Device(
        name,
        "gpu",
        total,
        free,
        f"{format_size(total - free)} in use or reserved",
        link=str(link) if link else "",
        link_bytes_per_s=link.bytes_per_s if link else None,
        holders=holders,
    )


def _link(library: Any, handle: Any) -> Link | None:
    """Return the link to the host: the highest generation of card and slot, since a card idles
    below it, and the lanes that are in use.
    """
    try:
        generation = library.nvmlDeviceGetMaxPcieLinkGeneration(handle)
        lanes = library.nvmlDeviceGetCurrPcieLinkWidth(handle)
    except library.NVMLError:
        return None
    return Link(generation, lanes) if generation in GENERATIONS and lanes else None


def _holders(library: Any, handle: Any) -> tuple[Holder, ...]:
    """Return the processes on a GPU, those with most memory first. A process that computes and
    draws is listed by the driver twice.
    """
    used: dict[int, int | None] = {}
    for ask in ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses"):
        try:
            for process in getattr(library, ask)(handle):
                used[process.pid] = process.usedGpuMemory
        except library.NVMLError:
            continue
    holders = [Holder(_process_name(library, pid), size) for pid, size in used.items()]
    return tuple(sorted(holders, key=lambda holder: -(holder.used_bytes or 0)))


def _process_name(library: Any, pid: int) -> str:
    """Return a program's name; its number where it belongs to another user or container."""
    try:
        name = _text(library.nvmlSystemGetProcessName(pid))
    except library.NVMLError:
        return f"process {pid}"
    path = name.split(" ")[0].replace("\\", "/")
    return path.rsplit("/", 1)[-1] or f"process {pid}"


def _text(name: str | bytes) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)
