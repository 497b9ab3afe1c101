"""RAM and processor. RAM is what the kernel would hand out, within every control group around us.

Linux counts free memory in MemAvailable, and a container's limit only in its control group: both
versions are read, from our group up to the root, since a parent's limit binds as well.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from snugfit.core import Device
from snugfit.units import KIB, format_size

# Where each version is mounted, beneath the root; hybrid systems mount version 2 as "unified".
GROUPS_V2: tuple[str, ...] = ("sys/fs/cgroup", "sys/fs/cgroup/unified")
GROUPS_V1: tuple[str, ...] = ("sys/fs/cgroup/memory",)


@dataclass(frozen=True)
class GroupFiles:
    """File names of one version of control groups; sizes in bytes."""

    limit: str
    usage: str
    reclaimable: str  # key of memory.stat: file pages that are dropped when memory is short


V2 = GroupFiles("memory.max", "memory.current", "inactive_file")
V1 = GroupFiles("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def ram(root: Path = Path("/")) -> Device:
    """Return the host's RAM as a device, read beneath `root` on Linux and from psutil elsewhere."""
    total, free = _of_kernel(root)
    note = ""
    for directory, files in _groups(root):
        limit = _number(directory / files.limit)
        if limit is None or limit >= total:
            continue  # "max", absent, or version 1's way to say unlimited
        total = limit
        note = f"limited to {format_size(limit)} by a control group"
    for directory, files in _groups(root):
        limit, used = _number(directory / files.limit), _number(directory / files.usage)
        if limit is not None and used is not None:
            free = min(free, max(0, limit - used + _reclaimable(directory, files)))
    return Device("RAM", "ram", total, min(free, total), note)


def processor(root: Path = Path("/")) -> str:
    """Return the processor's name as its maker writes it."""
    text = _text(root / "proc/cpuinfo")
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.processor() or platform.machine()


def physical_cores() -> int:
    """Return the cores that this process may use, hyper-threads not counted."""
    import psutil

    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = min(cores, len(os.sched_getaffinity(0)))
    return int(cores)


def _of_kernel(root: Path) -> tuple[int, int]:
    lines = re.finditer(r"^(\w+):\s+(\d+) kB$", _text(root / "proc/meminfo"), re.MULTILINE)
    found = {line[1]: int(line[2]) * KIB for line in lines}
    if "MemTotal" in found and "MemAvailable" in found:
        return found["MemTotal"], found["MemAvailable"]
    import psutil

    memory = psutil.virtual_memory()
    return memory.total, memory.available


def _groups(root: Path) -> Iterator[tuple[Path, GroupFiles]]:
    """Yield the directory of each control group that holds us and of its parents, root included.

    A container may see the path of the host: parts that are not mounted are passed over.
    """
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if not controllers:
            mounts, files = GROUPS_V2, V2
        elif "memory" in controllers.split(","):
            mounts, files = GROUPS_V1, V1
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", ".", "..")]
        for mount in mounts:
            for depth in range(len(parts), -1, -1):
                directory = root / mount / "/".join(parts[:depth])
                if (directory / files.limit).is_file():
                    yield directory, files


def _reclaimable(directory: Path, files: GroupFiles) -> int:
    match = re.search(
        rf"^{files.reclaimable} (\d+)$", _text(directory / "memory.stat"), re.MULTILINE
    )
    return int(match[1]) if match else 0


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    """Return a kernel file's text, or nothing where it is absent or not ours to read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
