"""AMD GPUs, from the files that the amdgpu driver shows in sysfs."""

from __future__ import annotations

from pathlib import Path

from snugfit.core import Device
from snugfit.units import GIB, format_size

AMD_VENDOR = "0x1002"
# Graphics inside a processor own a carve-out of RAM, mostly smaller: not worth planning for.
SMALLEST_BYTES = 1 * GIB


def gpus(root: Path = Path("/sys/class/drm")) -> tuple[Device, ...]:
    """Return the AMD GPUs with memory of their own, in the order of their card numbers."""
    cards = [path for path in root.glob("card*") if path.name[4:].isdigit()]
    cards.sort(key=lambda path: int(path.name[4:]))
    found = (_device(card / "device") for card in cards)
    return tuple(device for device in found if device is not None)


def _device(directory: Path) -> Device | None:
    try:
        if (directory / "vendor").read_text().strip() != AMD_VENDOR:
            return None
        total = int((directory / "mem_info_vram_total").read_text())
        used = int((directory / "mem_info_vram_used").read_text())
    except (OSError, ValueError):
        return None
    if total < SMALLEST_BYTES:
        return None
    name_file = directory / "product_name"
    name = name_file.read_text().strip() if name_file.is_file() else ""
    free = max(0, total - used)
    return Device(name or "AMD GPU", "gpu", total, free, f"{format_size(used)} in use")
