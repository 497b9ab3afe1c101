"""Chooses a mix, a context, a type of cache and a place for every layer that fit a machine.

Every combination is sized and timed; of those that fit, the one whose quality, speed and context
are worth most is chosen, see `value`. What no other way beats in all three is the frontier.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from snugfit.core import Configuration, Machine, ModelSpec, Plan
from snugfit.errors import BudgetError, UnsupportedError
from snugfit.planning import grid, value
from snugfit.planning.axes import Goal, Placement, placements, settings
from snugfit.planning.calibrated import paces_of_machine
from snugfit.planning.cuts import AS_IT_IS, Cut, cuts_of
from snugfit.planning.grid import Flags, Grid, Numbers
from snugfit.planning.memory import use_of
from snugfit.planning.pace import Pace
from snugfit.planning.reasons import budget_error, reasons_for
from snugfit.planning.speed import speed_of
from snugfit.quants.recipes import RECIPES
from snugfit.units import format_rate

# A table of the frontier for people: rows closer than this in speed and in quality are one.
LEAST_STEP, MOST_ROWS, SHORTEST_SHOWN = 0.02, 12, 8192


@dataclass(frozen=True)
class Found:
    """What a search found: the choice, the best way of every mix, and the ways nothing beats."""

    chosen: Plan
    ways: tuple[Plan, ...]  # best quality first, fitting or not
    frontier: tuple[Plan, ...]  # best quality first
    considered: int  # configurations that were sized and timed


@dataclass(frozen=True)
class Space:
    """All that was tried of cuts that share their shapes, and what came out, [C, S, P]."""

    spec: ModelSpec
    machine: Machine
    goal: Goal
    cuts: Sequence[Cut]
    settings: Sequence[Configuration]
    placements: Sequence[Placement]
    paces: Sequence[Pace]
    grid: Grid

    def plan(self, index: tuple[int, ...]) -> Plan:
        """Return one point with its bytes and its speed."""
        cut, devices = self.cuts[index[0]], self.machine.devices
        configuration = replace(
            self.placements[index[2]].of(self.settings[index[1]]),
            expert_cache_bytes=int(self.grid.expert_cache_bytes[index]),
        )
        return Plan(
            model=self.spec.name,
            mix=cut.mix,
            tensor_types=cut.tensor_types,
            file_bytes=cut.file_bytes,
            bits_per_weight=cut.bits_per_weight,
            memory=use_of(cut.footprint, configuration, devices),
            reasons=(),
            layers=self.spec.layers,
            speed=speed_of(cut.footprint, cut.reads, configuration, devices, self.paces),
            expected_loss=float(self.losses[index[0], index[1]]),
        )

    @functools.cached_property
    def losses(self) -> Numbers:
        """Return the loss to expect of each cut with each setting's cache, [C, S]."""
        cuts = np.array([value.expected_loss(cut.bits_per_weight) for cut in self.cuts])
        caches = np.array([value.cache_loss(setting) for setting in self.settings])
        return np.asarray(cuts[:, None] + caches[None])

    @functools.cached_property
    def rates(self) -> Numbers:
        """Return the tokens a second of an exchange, [C, S, P]."""
        return np.asarray(
            value.exchange_rate(1 / self.grid.decode_seconds, 1 / self.grid.prefill_seconds)
        )

    @functools.cached_property
    def scores(self) -> Numbers:
        """Return what each point is worth, fitting or not, [C, S, P]."""
        contexts = np.array([setting.ctx for setting in self.settings])
        return value.score(
            self.goal.objective,
            value.quality_value(self.losses)[:, :, None],
            value.speed_value(self.rates),
            value.context_value(contexts)[None, :, None],
        )

    @functools.cached_property
    def allowed(self) -> Flags:
        """Return which points fit and are as fast as asked."""
        least = self.goal.least_tokens_per_s
        fast = 1 / self.grid.decode_seconds >= least if least else True
        return np.asarray(self.grid.fits & fast)


def search(specs: Mapping[str, ModelSpec], machine: Machine, goal: Goal) -> Found:
    """Search the cuts of one model, or the files that exist of one, given by what picks them.

    Raises BudgetError if nothing fits, UnsupportedError for a mix that cannot be had, UsageError
    for a configuration that llama.cpp refuses.
    """
    value.check_objective(goal.objective)
    spaces = spaces_of(specs, machine, goal)
    ways = _ways(spaces)
    name = next(iter(specs.values())).name
    if not any(space.grid.fits.any() for space in spaces):
        sizes = [(cut.file_bytes, cut.mix) for _, cut in _all_cuts(specs, goal)]
        raise budget_error(name, ways, min(sizes, default=None), goal.size_bytes)
    if not any(space.allowed.any() for space in spaces):
        fastest = max(
            space.grid.fits.any() and 1 / space.grid.decode_seconds[space.grid.fits].min()
            for space in spaces
        )
        raise BudgetError(
            f"{name}: the fastest way that fits decodes {format_rate(float(fastest))} "
            f"tokens/s; {format_rate(goal.least_tokens_per_s)} were asked. "
            "Ask for less, or for a smaller --ctx."
        )
    chosen, frontier = _best(spaces), _frontier(spaces)
    return Found(
        chosen=replace(chosen, reasons=reasons_for(chosen, ways, goal, specs, machine)),
        ways=ways,
        frontier=frontier,
        considered=sum(space.grid.missing_bytes.size for space in spaces),
    )


def choose(spec: ModelSpec, machine: Machine, goal: Goal) -> Plan:
    """Return the best plan of one model that fits. Raises as `search` does."""
    return search({AS_IT_IS: spec}, machine, goal).chosen


def candidates(spec: ModelSpec, machine: Machine, goal: Goal) -> tuple[Plan, ...]:
    """Return the best plan of every mix, best quality first, fitting or not.

    A model that is quantized already has one, "as it is". Raises as `search` does, but for memory.
    """
    return _ways(spaces_of({AS_IT_IS: spec}, machine, goal))


def _all_cuts(specs: Mapping[str, ModelSpec], goal: Goal) -> list[tuple[ModelSpec, Cut]]:
    """Return every cut with the model that it is of: mixes of one, or files as they are."""
    if len(specs) == 1:
        (spec,) = specs.values()
        return [(spec, cut) for cut in cuts_of(spec, goal)]
    wanted = [pick for pick in specs if goal.mix is None or pick.upper() == goal.mix.upper()]
    if not wanted:
        raise UnsupportedError(f"no file is of the mix {goal.mix}. There are: {', '.join(specs)}.")
    as_they_are = replace(goal, mix=AS_IT_IS)
    return [
        (specs[pick], replace(cut, mix=pick))
        for pick in wanted
        for cut in cuts_of(specs[pick], as_they_are)
    ]


def spaces_of(specs: Mapping[str, ModelSpec], machine: Machine, goal: Goal) -> list[Space]:
    """Size and time all combinations within the file size, cuts of the same shapes together."""
    cuts = [
        (spec, cut)
        for spec, cut in _all_cuts(specs, goal)
        if goal.size_bytes is None or cut.file_bytes <= goal.size_bytes
    ]
    groups: dict[object, list[tuple[ModelSpec, Cut]]] = {}
    for spec, cut in cuts:
        shape = (cut.footprint.graph, cut.footprint.caches, cut.footprint.states)
        groups.setdefault(shape, []).append((spec, cut))
    devices, spaces, paces = machine.devices, [], paces_of_machine(machine)
    for group in groups.values():
        spec, members = group[0][0], [cut for _, cut in group]
        tried = settings(members[0].footprint, spec.context_length, goal)
        places = placements(members[0].footprint, devices, goal)
        found = grid.evaluate(
            [cut.footprint for cut in members],
            [cut.reads for cut in members],
            *(tried, places, devices, paces),
        )
        spaces.append(Space(spec, machine, goal, members, tried, places, paces, found))
    return spaces


def _ways(spaces: Sequence[Space]) -> tuple[Plan, ...]:
    """Return the best point of every cut; where none fits, the one that lacks least.

    RAM should lack it then, since that is what people can add.
    """
    plans = []
    for space in spaces:
        result = space.grid
        for number in range(len(space.cuts)):
            if space.allowed[number].any():
                at = np.argmax(np.where(space.allowed[number], space.scores[number], -1))
            else:
                keys = (result.total_bytes, result.missing_bytes, result.gpus_missing_bytes)
                at = np.lexsort([key[number].ravel() for key in keys])[0]
            index = np.unravel_index(at, result.missing_bytes[number].shape)
            plans.append(space.plan((number, *map(int, index))))
    return tuple(sorted(plans, key=_quality, reverse=True))


def _quality(plan: Plan) -> tuple[float, int]:
    return plan.bits_per_weight, plan.memory.configuration.ctx


def _best(spaces: Sequence[Space]) -> Plan:
    """Return the point worth most; mixes of last resort only where no other fits."""
    for may_be_last in (False, True):
        best, found = -1.0, None
        for space in spaces:
            rows = np.array([may_be_last or not _is_last_resort(cut.mix) for cut in space.cuts])
            scores = np.where(space.allowed & rows[:, None, None], space.scores, -1)
            at = int(np.argmax(scores))
            if scores.flat[at] > best:
                best, found = float(scores.flat[at]), (space, np.unravel_index(at, scores.shape))
        if found is not None and best >= 0:
            return found[0].plan(tuple(map(int, found[1])))
    raise AssertionError("called only where something is allowed")


def _frontier(spaces: Sequence[Space]) -> tuple[Plan, ...]:
    """Return the points that no other beats in quality, speed and context at once.

    Of each cut, context and cache the fastest point stands for all, and of points that are nearly
    equal one is kept, until MOST_ROWS are left.
    """
    points, indices = [], []
    shown = [space.allowed & _is_worth_showing(space) for space in spaces]
    if not any(flags.any() for flags in shown):
        shown = [space.allowed for space in spaces]
    for number, space in enumerate(spaces):
        rates = np.where(shown[number], space.rates, 0)
        losses = value.quality_value(space.losses)
        groups: dict[tuple[int, str], list[int]] = {}
        for setting, one in enumerate(space.settings):
            groups.setdefault((one.ctx, one.kv_type), []).append(setting)
        for (ctx, _), members in groups.items():
            of_group = rates[:, members].reshape(len(space.cuts), -1)
            for cut, at in enumerate(of_group.argmax(-1)):
                if of_group[cut, at] > 0:
                    setting, place = divmod(int(at), rates.shape[2])
                    indices.append((number, cut, members[setting], place))
                    quality = losses[cut, members[setting]]
                    points.append((quality, of_group[cut, at], ctx))
    kept = _unbeaten(np.array(points, np.float64).reshape(-1, 3))
    plans = [spaces[indices[at][0]].plan(indices[at][1:]) for at in kept]
    return tuple(sorted(plans, key=_quality, reverse=True))


def _is_worth_showing(space: Space) -> Flags:
    """Return what is neither a mix that loses much nor a context too short for a conversation.

    [C, S, 1]. The longest context of a model is never too short.
    """
    cuts = np.array([not _is_last_resort(cut.mix) for cut in space.cuts])
    shortest = min(SHORTEST_SHOWN, max(setting.ctx for setting in space.settings))
    contexts = np.array([setting.ctx >= shortest for setting in space.settings])
    return np.asarray((cuts[:, None] & contexts)[:, :, None])


def _unbeaten(points: Numbers) -> list[int]:
    """Return the rows of [quality, rate, context] that no other reaches in all three.

    The step by which another may fall short and still reach it grows until few rows are left.
    """
    reached = np.asarray((points[:, None] <= points[None]).all(-1))  # [which, by which]
    equal = reached & reached.T
    beaten = np.asarray((reached & ~equal).any(-1) | np.triu(equal, 1).any(0))
    order = np.argsort(-points.prod(-1), kind="stable")
    left: list[int] = order[~beaten[order]].tolist()
    step = LEAST_STEP
    while True:
        kept: list[int] = []
        for at in left:
            near = points[kept] * [1 + step, 1 + step, 1] >= points[at]
            if not near.all(-1).any():
                kept.append(at)
        if len(kept) <= MOST_ROWS:
            return kept
        left, step = kept, 1.5 * step


def _is_last_resort(mix: str) -> bool:
    return mix in RECIPES and RECIPES[mix].last_resort
