"""How fast memories are read, measured: the number that decides how fast tokens come.

RAM is read by numpy's maximum of bytes, on every core that we may use. That is as fast as these
cores can read: in alternating runs on two cores of an EPYC 7003, shared with others, passes came to
9-35 GB/s and those of a C loop of 32-byte loads to 10-21; numpy's sums were a tenth or more slower.
A core has only so many reads under way, so that two cores do not reach the 205 GB/s of the eight
DDR4-3200 channels behind them, and neither does an engine that runs on them.
"""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from snugfit.hardware.measured import METAL
from snugfit.units import GIB, MIB

RAM_SECONDS, GPU_SECONDS = 1.0, 0.3
# Far beyond what a processor or a GPU keeps in its caches.
BUFFER_BYTES = 1 * GIB
SMALLEST_BUFFER_BYTES = 64 * MIB


def ram_rate(threads: int, free_bytes: int, seconds: float) -> int:
    """Return bytes a second that `threads` read together, in the best pass over a buffer, which
    takes a quarter of what is free at most. Others who read only ever make a pass slower.
    """
    import numpy as np

    threads = max(1, threads)
    size = max(SMALLEST_BUFFER_BYTES, min(BUFFER_BYTES, free_bytes // 4)) // threads
    with ThreadPoolExecutor(threads) as pool:
        # Each thread fills a part, so that the part lies in memory near to it.
        parts = list(pool.map(lambda _: np.ones(size, np.uint8), range(threads)))
        return _rate(lambda: sum(map(int, pool.map(np.max, parts))), size * threads, seconds)


def gpu_rates() -> dict[str, int]:
    """Return name -> bytes a second of each GPU that torch can use; empty without torch."""
    if importlib.util.find_spec("torch") is None:
        return {}
    import torch

    rates: dict[str, int] = {}
    for index in range(torch.cuda.device_count()):
        name = torch.cuda.get_device_name(index)
        free, _ = torch.cuda.mem_get_info(index)
        rates[name] = torch_rate(torch, f"cuda:{index}", free, GPU_SECONDS)
    if torch.backends.mps.is_available():
        rates[METAL] = torch_rate(torch, "mps", 2 * BUFFER_BYTES, GPU_SECONDS)
    return rates


def torch_rate(torch: Any, device: str, free_bytes: int, seconds: float) -> int:
    """Return bytes a second that `device` reads, or reads and writes, whichever comes to more."""
    count = max(SMALLEST_BUFFER_BYTES, min(BUFFER_BYTES, free_bytes // 4)) // 4
    numbers = torch.ones(count, dtype=torch.float32, device=device)
    copied = torch.empty_like(numbers)

    def summed() -> None:
        numbers.sum().item()  # the answer comes when all is read

    def copy() -> None:
        copied.copy_(numbers)
        copied[-1].item()

    read = _rate(summed, 4 * count, seconds)
    return max(read, _rate(copy, 8 * count, seconds))


def _rate(work: Callable[[], object], size_bytes: int, seconds: float) -> int:
    """Return the highest rate of the passes that fit into `seconds`, after a first one."""
    work()
    best, end = math.inf, time.perf_counter() + seconds
    while best == math.inf or time.perf_counter() < end:
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return round(size_bytes / best)
