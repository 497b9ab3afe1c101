"""NVIDIA GPUs, through the driver's management library. No driver means no GPU, without a word."""

from __future__ import annotations

from typing import Any

from snugfit.core import Device
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
    """Return one GPU, or None where the driver does not tell its memory."""
    try:
        handle = library.nvmlDeviceGetHandleByIndex(index)
        name = library.nvmlDeviceGetName(handle)
        memory = library.nvmlDeviceGetMemoryInfo(handle)
    except library.NVMLError:
        return None
    used = int(memory.total) - int(memory.free)
    name = name.decode() if isinstance(name, bytes) else str(name)
    note = f"{format_size(used)} in use or reserved"
    return Device(name, "gpu", int(memory.total), int(memory.free), note)
