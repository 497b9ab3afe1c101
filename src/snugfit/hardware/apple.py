"""The GPU of Apple silicon: it shares RAM, up to what the system lets it hold wired."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Callable

from snugfit.core import Device
from snugfit.units import GIB, MIB

KEYS = ("hw.memsize", "iogpu.wired_limit_mb", "machdep.cpu.brand_string")
# Metal's own limit where nobody set one: three quarters, or two thirds on machines up to 36 GiB.
SMALL_MACHINE_BYTES = 36 * GIB


def gpus(sysctl: Callable[[], str] | None = None) -> tuple[Device, ...]:
    """Return the GPU as a share of RAM, whole as if free: what RAM has free limits it as well.

    `sysctl` returns the text of `sysctl` for KEYS; without it, it is asked on Apple silicon only.
    """
    if sysctl is None:
        if platform.system() != "Darwin" or platform.machine() != "arm64":
            return ()
        sysctl = _run_sysctl
    values = dict(re.findall(r"^([\w.]+): (.*)$", sysctl(), re.MULTILINE))
    memory = int(values.get("hw.memsize", 0))
    if not memory:
        return ()
    wired = int(values.get("iogpu.wired_limit_mb", 0)) * MIB
    limit = wired or (memory * 2 // 3 if memory <= SMALL_MACHINE_BYTES else memory * 3 // 4)
    name = f"{values.get('machdep.cpu.brand_string', 'Apple')} GPU"
    return (Device(name, "gpu", limit, limit, "a share of RAM"),)


def _run_sysctl() -> str:
    try:
        done = subprocess.run(
            ["/usr/sbin/sysctl", *KEYS], capture_output=True, text=True, timeout=5, check=False
        )
    except OSError:
        return ""
    return done.stdout
