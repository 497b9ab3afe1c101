"""RAM and processor. RAM is what the kernel would hand out, within every control group around us.

Linux counts free memory in MemAvailable, and a container's limit only in its control group: both
versions are read, from our group up to the root, since a parent's limit binds as well. Swap is not
counted: weights that are read for every token must not lie there. Huge pages that were set aside
are not in MemAvailable. On macOS and Windows psutil asks the kernel: free and inactive pages of
`vm_stat` there, available physical memory here.
"""

from __future__ import annotations

import math
import os
import platform
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from snugfit.core import Device
from snugfit.units import KIB, format_size

# Where version 2 is mounted beneath the root; hybrid systems mount it as "unified". Version 1 has a
# directory for each controller.
MOUNTS_V2 = ("sys/fs/cgroup", "sys/fs/cgroup/unified")


@dataclass(frozen=True)
class GroupFiles:
    """File names of one version of control groups; sizes in bytes."""

    limits: tuple[str, ...]
    usage: str
    reclaimable: str  # key of memory.stat: file pages that are dropped when memory is short


# Beyond memory.high a group is throttled until it gives memory back: too slow to run in.
V2 = GroupFiles(("memory.max", "memory.high"), "memory.current", "inactive_file")
V1 = GroupFiles(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")


def ram(root: Path = Path("/")) -> Device:
    """Return the host's RAM as a device, read beneath `root` on Linux and from psutil elsewhere."""
    total, free = _of_kernel(root)
    note = _huge_pages(root)
    for directory, files in _groups(root):
        limits = (_number(directory / name) for name in files.limits)
        # "max", absent, or in version 1 a number beyond all memory: unlimited.
        limit = min((limit for limit in limits if limit is not None), default=None)
        used = _number(directory / files.usage)
        if limit is not None and limit < total:
            total = limit
            note = f"limited to {format_size(limit)} by a control group"
        if limit is not None and used is not None:
            free = min(free, max(0, limit - used + _reclaimable(directory, files)))
    return Device("RAM", "ram", total, min(free, total), note)


def installed_bytes(root: Path = Path("/")) -> int:
    """Return the RAM that the kernel has, whatever we may use of it."""
    return _of_kernel(root)[0]


def processor(root: Path = Path("/")) -> str:
    """Return the processor's name as its maker writes it."""
    text = _text(root / "proc/cpuinfo")
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.processor() or platform.machine()


def physical_cores(root: Path = Path("/")) -> int:
    """Return the cores that this process may use, hyper-threads not counted."""
    import psutil

    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = min(cores, len(os.sched_getaffinity(0)))
    return max(1, math.ceil(min(int(cores), _processor_quota(root))))


def _processor_quota(root: Path) -> float:
    """Return how many processors' time the control groups allow: quota over period."""
    quotas = [math.inf]
    for directory in _directories(root, "cpu", ("cpu.max", "cpu.cfs_quota_us")):
        numbers = _text(directory / "cpu.max").split() or [
            _text(directory / "cpu.cfs_quota_us").strip(),
            _text(directory / "cpu.cfs_period_us").strip(),
        ]
        if len(numbers) == 2 and all(number.isdigit() for number in numbers) and int(numbers[1]):
            quotas.append(int(numbers[0]) / int(numbers[1]))
    return min(quotas)


def _huge_pages(root: Path) -> str:
    match = re.search(r"^Hugetlb:\s+([1-9]\d*) kB$", _text(root / "proc/meminfo"), re.MULTILINE)
    return f"{format_size(int(match[1]) * KIB)} set aside as huge pages" if match else ""


def _of_kernel(root: Path) -> tuple[int, int]:
    lines = re.finditer(r"^(\w+):\s+(\d+) kB$", _text(root / "proc/meminfo"), re.MULTILINE)
    found = {line[1]: int(line[2]) * KIB for line in lines}
    if "MemTotal" in found and "MemAvailable" in found:
        return found["MemTotal"], found["MemAvailable"]
    import psutil

    memory = psutil.virtual_memory()
    return memory.total, memory.available


def _groups(root: Path) -> Iterator[tuple[Path, GroupFiles]]:
    """Yield the directory of each control group that limits our memory, with its files' names."""
    for files in (V2, V1):
        for directory in _directories(root, "memory", files.limits):
            yield directory, files


def _directories(root: Path, controller: str, names: Sequence[str]) -> Iterator[Path]:
    """Yield the directory of each control group that holds us and of its parents, root included,
    where one of `names` is a file of `controller`.

    A container may see the path of the host: parts that are not mounted are passed over.
    """
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and controller not in controllers.split(","):
            continue
        mounts = (f"sys/fs/cgroup/{controller}",) if controllers else MOUNTS_V2
        parts = [part for part in path.split("/") if part not in ("", ".", "..")]
        for mount in mounts:
            for depth in range(len(parts), -1, -1):
                directory = root / mount / "/".join(parts[:depth])
                if any((directory / name).is_file() for name in names):
                    yield directory


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
