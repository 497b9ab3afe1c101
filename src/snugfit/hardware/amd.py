"""AMD GPUs, from the files that the amdgpu driver shows in sysfs."""

from __future__ import annotations

from pathlib import Path

from snugfit.core import Device
from snugfit.hardware import pci, profiles
from snugfit.units import GIB, format_size

AMD_VENDOR = "0x1002"
# Graphics inside a processor own a carve-out of RAM, mostly smaller: not worth planning for.
SMALLEST_BYTES = 1 * GIB


def gpus(root: Path = Path("/")) -> tuple[Device, ...]:
    """Return the AMD GPUs that are worth planning for, in the order of their card numbers."""
    found = (_device(card / "device", root) for card in cards(root))
    return tuple(device for device in found if device is not None)


def cards(root: Path) -> list[Path]:
    """Return the graphics cards in sysfs, by number."""
    found = [path for path in (root / "sys/class/drm").glob("card*") if path.name[4:].isdigit()]
    return sorted(found, key=lambda path: int(path.name[4:]))


def _device(directory: Path, root: Path) -> Device | None:
    if pci.read_text(directory / "vendor") != AMD_VENDOR:
        return None
    name = pci.read_text(directory / "product_name") or pci.name_of(directory, root) or "AMD GPU"
    profile = profiles.lookup(name)
    own = _pool(directory, "vram")
    shared = _pool(directory, "gtt") if profile and profile.kind == "unified" else None
    if own and own[0] >= SMALLEST_BYTES and (shared is None or own[0] >= shared[0]):
        total, used = own
        shares_ram = False
    elif shared:  # a large processor GPU with a small carve-out: what it may borrow of RAM
        total, used = shared
        shares_ram = True
    else:
        return None
    link = None if profile and profile.kind == "unified" else pci.link_to_host(directory)
    return Device(
        name,
        "gpu",
        total,
        max(0, total - used),
        "a share of RAM" if shares_ram else f"{format_size(used)} in use",
        link=str(link) if link else "",
        link_bytes_per_s=link.bytes_per_s if link else None,
        shares_ram=shares_ram,
    )


def _pool(directory: Path, pool: str) -> tuple[int, int] | None:
    """Return (total, used) bytes of one of the driver's pools, `vram` or `gtt`."""
    total = pci.read_text(directory / f"mem_info_{pool}_total")
    used = pci.read_text(directory / f"mem_info_{pool}_used")
    return (int(total), int(used)) if total.isdigit() and used.isdigit() else None
