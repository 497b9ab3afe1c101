"""Fits the constants of planning/pace.py to public measurements, and holds machines out.

    python benchmarks/fit_speed.py [--worst N]

Prints, for each kind of processor, the constants that fit best, the error of those in pace.py, and
of constants fitted without the machine that they predict: with other machines of its kind, or,
where it is alone, with all other kinds. Errors are means of |predicted / measured - 1|.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from speed_rows import Row, grouped, model_of, speed_rows

from snugfit.planning.memory import placement
from snugfit.planning.pace import TYPICAL, Typical, kind_of, typical_pace
from snugfit.planning.speed import cache_reads, dense_seconds, expert_seconds

FITTED = ("weights", "layer_seconds", "expert_layer_seconds", "state_layer_seconds")
LOWEST = np.array([0.3, 1e-6, 1e-6, 1e-6])
HIGHEST = np.array([0.95, 1e-3, 1e-3, 1e-3])
# Where the search begins, and what few rows are pulled to: as much as by a row.
BEFORE = np.array([0.85, 45e-6, 30e-6, 30e-6])
PULL = 1.0
# An error larger than this counts less: a report that is off is not worth bending the rest for.
LARGE = 0.5


@dataclass(frozen=True)
class Case:
    """One configuration and the median of its reports."""

    row: Row
    measured: float
    band: float
    kind: str
    machine: str  # two of a card are the machine that one is

    def predict(self, constants: np.ndarray) -> float:
        row, devices = self.row, self.row.machine.devices
        _, footprint, reads = model_of(row.shape, row.mix)
        typical = with_constants(TYPICAL[self.kind], constants)
        paces = [typical_pace(device, typical) for device in devices[:-1]]
        caches = cache_reads(footprint, row.configuration, row.filled)
        place = placement(footprint.layers, row.configuration, devices[:-1])
        seconds = 0.0
        for number in set(place):
            pace = paces[number]
            layers = [layer for layer, where in enumerate(place) if where == number]
            each = zip(dense_seconds(reads, pace), expert_seconds(reads, pace), strict=True)
            of_layer = [dense + experts for dense, experts in each]
            seconds += pace.token_seconds + sum(of_layer[layer] for layer in layers)
            seconds += sum(caches[layer] for layer in layers) / pace.cache_bytes_per_s
        return 1 / seconds


def with_constants(typical: Typical, constants: np.ndarray) -> Typical:
    return replace(typical, **dict(zip(FITTED, map(float, constants), strict=True)))


def fit(cases: Sequence[Case]) -> np.ndarray:
    """Return the constants of least error: steps of one constant at a time, ever smaller."""
    found, step = BEFORE.copy(), 0.3
    best = badness(cases, found)
    while step > 0.01:
        better = False
        for at in range(len(found)):
            for factor in (1 + step, 1 / (1 + step)):
                tried = found.copy()
                tried[at] = np.clip(tried[at] * factor, LOWEST[at], HIGHEST[at])
                bad = badness(cases, tried)
                if bad < best - 1e-6:
                    found, best, better = tried, bad, True
        if not better:
            step /= 2
    return found


def badness(cases: Sequence[Case], constants: np.ndarray) -> float:
    off = np.abs(np.log([case.predict(constants) / case.measured for case in cases]))
    capped = np.where(off < LARGE, off, LARGE + 0.3 * (off - LARGE))
    return float(capped.sum() + PULL * np.abs(np.log(constants / BEFORE)).sum())


def cases() -> list[Case]:
    found = []
    for rows in grouped(speed_rows()[0]).values():
        device = rows[0].machine.devices[0]
        kind = kind_of(device)
        machine = device.name.split(" #")[0]
        measured = median(row.decode for row in rows)
        found.append(Case(rows[0], measured, TYPICAL[kind].band, kind, machine))
    return found


def errors(cases: Sequence[Case], constants: np.ndarray) -> np.ndarray:
    return np.array([case.predict(constants) / case.measured - 1 for case in cases])


def constants_of(kind: str) -> np.ndarray:
    return np.array([getattr(TYPICAL[kind], name) for name in FITTED])


def covered(off: np.ndarray, cases: Sequence[Case]) -> float:
    return float(np.mean(np.abs(np.log1p(off)) <= np.log1p([case.band for case in cases])))


def held_out(every: Sequence[Case], kind: str) -> tuple[np.ndarray, list[Case]]:
    """Return the errors of each machine of `kind`, by constants that have not seen it."""
    off, tested = [], []
    of_kind = [case for case in every if case.kind == kind]
    for machine in sorted({case.machine for case in of_kind}):
        seen = [case for case in of_kind if case.machine != machine]
        seen = seen or [case for case in every if case.kind != kind]
        unseen = [case for case in of_kind if case.machine == machine]
        off.append(errors(unseen, fit(seen)))
        tested += unseen
    return np.concatenate(off), tested


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--worst", type=int, default=0, help="configurations to list of each kind")
    worst = parser.parse_args().worst
    every = cases()
    print("kind      machines  rows  now    held out  bands of both  fitted: part, us a layer ...")
    now, unseen = [], []
    for kind in dict.fromkeys(case.kind for case in every):
        mine = [case for case in every if case.kind == kind]
        off = errors(mine, constants_of(kind))
        out, tested = held_out(every, kind)
        now.append((off, mine))
        unseen.append((out, tested))
        best, machines = fit(mine), len({case.machine for case in mine})
        numbers = " ".join(f"{value * 1e6:.0f}" for value in best[1:])
        mean = f"{np.abs(off).mean():.3f}  {np.abs(out).mean():.3f}"
        bands = f"{covered(off, mine):.2f} {covered(out, tested):.2f}"
        print(f"{kind:9} {machines:8} {len(mine):5}  {mean:18} {bands:14} {best[0]:.2f} {numbers}")
        ranked = sorted(zip(off, mine, strict=True), key=lambda pair: -abs(pair[0]))
        for error, case in ranked[:worst]:
            print(f"    {error:+.0%} {case.row.key} measured {case.measured:.1f}")
    for name, parts in (("now", now), ("held out", unseen)):
        off = np.concatenate([part[0] for part in parts])
        tested = [case for part in parts for case in part[1]]
        print(
            f"{name}: {len(off)} rows, {np.abs(off).mean():.3f}, bands {covered(off, tested):.2f}"
        )


if __name__ == "__main__":
    main()
