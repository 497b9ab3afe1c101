"""What a pass will take, before it: tasks, bytes and seconds, from the headers alone.

Seconds are those of the kernels, timed here on random weights; a disk that moves fewer than
`bytes_per_s` is what the pass will wait for instead.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from snugfit.models import Model
from snugfit.quants.codecs import can_quantize, quantize_rows, requantize_rows
from snugfit.streaming.outputs import Output, predicted_bytes
from snugfit.streaming.tasks import FLOATS, slabs

TIMED_ROWS, TIMED_COLUMNS = 32, 4096
ROUNDS = 3
Floats = np.ndarray[Any, np.dtype[np.float32]]
Pair = tuple[str, str]  # a stored type, and the one that is made of it


@dataclass(frozen=True)
class Share:
    """What falls to one node: its part of the pass, by its workers."""

    name: str
    workers: int
    tasks: int
    read_bytes: int
    written_bytes: int


@dataclass(frozen=True)
class PassPlan:
    """A pass over a model, predicted."""

    tasks: int
    read_bytes: int
    written_bytes: int
    core_seconds: float  # of the kernels on one core of this machine
    shares: tuple[Share, ...]

    @property
    def workers(self) -> int:
        return sum(share.workers for share in self.shares)

    @property
    def seconds(self) -> float:
        """Of all workers together, if their cores are as this machine's."""
        return self.core_seconds / max(1, self.workers)

    @property
    def bytes_per_s(self) -> float:
        """What disks must move so that no worker waits for them."""
        return (self.read_bytes + self.written_bytes) / max(self.seconds, 1e-9)


def plan_pass(
    model: Model,
    outputs: Sequence[Output],
    nodes: Sequence[tuple[str, int]],
    *,
    has_importance: bool = False,
) -> PassPlan:
    """Predict a pass of `model` by nodes (name, workers). Kernels are timed, for under a second."""
    weights: Counter[Pair] = Counter()
    tasks = 0
    for tensor in model.tensors.values():
        tasks += sum(1 for _ in slabs(tensor))
        for output in outputs:
            weights[tensor.type_name, output.types[tensor.name]] += tensor.parameters
    rates = kernel_rates(list(weights), has_importance=has_importance)
    seconds = sum(count / rates[pair] for pair, count in weights.items())
    read = sum(tensor.size_bytes for tensor in model.tensors.values())
    written = sum(predicted_bytes(model, output) for output in outputs)
    return PassPlan(tasks, read, written, seconds, _shares(nodes, tasks, read, written))


def kernel_rates(pairs: Sequence[Pair], *, has_importance: bool) -> Mapping[Pair, float]:
    """Return weights a second of one core for each pair of types; copies take no time here."""
    random = np.random.default_rng(0)
    rows = random.normal(0, 0.02, (TIMED_ROWS, TIMED_COLUMNS)).astype(np.float32)
    importance = random.gamma(1.0, 1.0, TIMED_COLUMNS).astype(np.float32)
    return {pair: _rate(rows, *pair, importance if has_importance else None) for pair in pairs}


def _rate(rows: Floats, source: str, to: str, importance: Floats | None) -> float:
    if source == to and source not in FLOATS:
        return math.inf
    source = source if can_quantize(source) else "Q8_0"  # as dear to read as any
    blocks = quantize_rows(rows, source, importance)
    took = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        requantize_rows(blocks, source, to, importance)
        took.append(time.perf_counter() - began)
    return rows.size / min(took)


def _shares(
    nodes: Sequence[tuple[str, int]], tasks: int, read: int, written: int
) -> tuple[Share, ...]:
    workers = sum(count for _, count in nodes)
    shares, given = [], 0
    for name, count in nodes:
        upto = given + count
        tasks_here, read_here, written_here = (
            whole * upto // workers - whole * given // workers for whole in (tasks, read, written)
        )
        shares.append(Share(name, count, tasks_here, read_here, written_here))
        given = upto
    return tuple(shares)
