"""The GPU of Apple silicon: it shares RAM, up to what the system lets it hold wired."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable

from snugfit.core import Device
from snugfit.units import GIB, MIB

KEYS = ("hw.memsize", "iogpu.wired_limit_mb", "machdep.cpu.brand_string")
# Metal's recommendedMaxWorkingSetSize where nobody set a limit, as llama.cpp logs it: 10922 MiB of
# 16 GiB and 21845 of 32 are two thirds; 27648 of 36, 49152 of 64 and 73728 of 96 three quarters.
# macOS 26 gives more (107.5 of 128 GiB, 11.84 of 16), so that this never promises too much.
LARGE_MACHINE_BYTES = 36 * GIB


def wired_limit(memory_bytes: int) -> int:
    """Return the bytes that the GPU of a Mac may hold, unless its owner has set a limit."""
    is_large = memory_bytes >= LARGE_MACHINE_BYTES
    return memory_bytes * 3 // 4 if is_large else memory_bytes * 2 // 3


def gpus(sysctl: Callable[[], str] | None = None) -> tuple[Device, ...]:
    """Return the GPU as a share of RAM, whole as if free: what RAM has free limits it as well.

    `sysctl` returns the text of `sysctl` for KEYS; without it, it is asked on Apple silicon only.
    """
    if sysctl is None:
        if platform.system() != "Darwin" or platform.machine() != "arm64":
            return ()
        sysctl = _run_sysctl
    values = dict(re.findall(r"^([\w.]+): (.*)$", sysctl(), re.MULTILINE))
    memory = _number(values.get("hw.memsize"))
    if not memory:
        return ()
    limit = _number(values.get("iogpu.wired_limit_mb")) * MIB or wired_limit(memory)
    name = f"{values.get('machdep.cpu.brand_string', 'Apple')} GPU"
    limit = min(limit, memory)
    return (Device(name, "gpu", limit, limit, "a share of RAM", shares_ram=True),)


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0


def _run_sysctl() -> str:
    import subprocess

    try:
        done = subprocess.run(
            ["/usr/sbin/sysctl", *KEYS], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
