"""Intel's discrete GPUs, by name: their drivers on Linux do not tell what is free of their memory.

The memory is as large as the window through which the processor sees it, if the firmware opens it
whole (resizable BAR), and otherwise what the profile of that name has at least.
"""

from __future__ import annotations

from pathlib import Path

from snugfit.core import Device
from snugfit.hardware import amd, pci, profiles
from snugfit.units import GIB

INTEL_VENDOR = "0x8086"


def gpus(root: Path = Path("/")) -> tuple[Device, ...]:
    """Return the discrete Intel GPUs, in the order of their card numbers."""
    found = (_device(card / "device", root) for card in amd.cards(root))
    return tuple(device for device in found if device is not None)


def _device(directory: Path, root: Path) -> Device | None:
    if pci.read_text(directory / "vendor") != INTEL_VENDOR:
        return None
    name = pci.name_of(directory, root)
    profile = profiles.lookup(name, GIB)  # of variants the smallest
    if profile is None or profile.kind != "gpu":
        return None
    window = largest_window(pci.read_text(directory / "resource"))
    total = window if window >= GIB else min(profile.memory_bytes)
    link = pci.link_to_host(directory)
    return Device(
        f"Intel {name}",
        "gpu",
        total,
        total,
        "its driver does not tell what is in use",
        link=str(link) if link else "",
        link_bytes_per_s=link.bytes_per_s if link else None,
    )


def largest_window(resource: str) -> int:
    """Return the bytes of the largest region in sysfs's `resource`: `first last flags` a line."""
    sizes = [0]
    for line in resource.splitlines():
        numbers = line.split()
        try:
            first, last = int(numbers[0], 16), int(numbers[1], 16)
        except (IndexError, ValueError):
            continue
        sizes.append(last - first + 1 if last else 0)
    return max(sizes)
