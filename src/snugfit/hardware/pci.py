"""PCI devices on Linux: what a GPU is called, and how fast it is tied to the host."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Gigatransfers a second of one lane, and the share of bits that carry data: the PCI Express Base
# Specification's 8b/10b code, 128b/130b code, and 242 of 256 bytes in a flit.
GENERATIONS: dict[int, tuple[float, float]] = {
    1: (2.5, 8 / 10),
    2: (5.0, 8 / 10),
    3: (8.0, 128 / 130),
    4: (16.0, 128 / 130),
    5: (32.0, 128 / 130),
    6: (64.0, 242 / 256),
}
# Names by PCI id, as distributions install them.
AMD_NAMES = ("usr/share/libdrm/amdgpu.ids", "opt/amdgpu/share/libdrm/amdgpu.ids")
ALL_NAMES = ("usr/share/misc/pci.ids", "usr/share/hwdata/pci.ids")


@dataclass(frozen=True)
class Link:
    """A PCI Express link: its generation and its lanes."""

    generation: int
    lanes: int

    def __str__(self) -> str:
        return f"PCIe {self.generation}.0 x{self.lanes}"

    @property
    def bytes_per_s(self) -> int:
        """Bytes a second one way; packet headers take another 2 to 15 %."""
        transfers, efficiency = GENERATIONS[self.generation]
        return round(self.lanes * transfers * 1e9 * efficiency / 8)


def link_of(text: str) -> Link | None:
    """Read `PCIe 4.0 x16` or `4.0 x16`, as profiles and machine files write it."""
    match = re.fullmatch(r"(?:PCIe )?([1-6])\.0 x(\d{1,2})", text)
    return Link(int(match[1]), int(match[2])) if match else None


def link_to_host(device: Path) -> Link | None:
    """Return the narrowest link between a device in sysfs and the processor.

    A card idles at a low speed, so that each port's highest speed counts, but the lanes in use now.
    Many AMD cards sit behind a switch of their own: its ports are ports like any other.
    """
    found = None
    for port in (device.resolve(), *device.resolve().parents):
        speed = re.match(r"[\d.]+", read_text(port / "max_link_speed"))
        lanes = read_text(port / "current_link_width")
        if not speed or not lanes.isdigit() or int(lanes) == 0:
            if found:
                break
            continue
        here = Link(_generation(float(speed[0])), int(lanes))
        found = min(found, here, key=lambda link: link.bytes_per_s) if found else here
    return found


def _generation(transfers: float) -> int:
    """Return the fastest generation with at most so many gigatransfers a second of a lane."""
    return max((one for one, row in GENERATIONS.items() if row[0] <= transfers), default=1)


def name_of(device: Path, root: Path = Path("/")) -> str:
    """Return the name of a PCI device in sysfs by the system's tables of names, or nothing."""
    vendor, number, revision = (
        read_text(device / part).removeprefix("0x").lower()
        for part in ("vendor", "device", "revision")
    )
    if not number:
        return ""
    if vendor == "1002":
        row = _first(rf"^{number},\s*{revision.zfill(2)},\s*(.+)$", AMD_NAMES, root)
        if row:
            return row
    name = _first(rf"^{vendor}  .*\n(?:[\t#].*\n|\n)*?\t{number}  (.+)$", ALL_NAMES, root)
    marketed = re.search(r"\[(.+)\]", name)  # "DG2 [Arc A770]"
    return marketed[1] if marketed else name


def _first(pattern: str, tables: Sequence[str], root: Path) -> str:
    for table in tables:
        found = re.search(pattern, read_text(root / table), re.MULTILINE | re.IGNORECASE)
        if found:
            return found[1].strip()
    return ""


def read_text(path: Path) -> str:
    """Return a file's text without surrounding space; nothing where it is absent or not ours."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
