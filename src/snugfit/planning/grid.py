"""Memory and speed of every cut, setting and placement at once, as arrays.

Numbers are those of `memory.use_of` and `speed.speed_of`: bytes and seconds are sums over layers,
so that a placement is a matrix of ones and zeros, and a hundred thousand configurations are a few
products of matrices. Axes: C cuts, S settings, P placements, D devices with RAM last, L layers and
the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from snugfit.archs.cache import layer_bytes, state_bytes, tokens_of_pass
from snugfit.core import Configuration, Device
from snugfit.planning.axes import Placement
from snugfit.planning.compute import gpu_bytes
from snugfit.planning.memory import (
    IN_RAM,
    STREAMED_FROM_TOKENS,
    Footprint,
    borrowed_caches,
    compute_band,
    compute_bytes,
    overhead_bytes,
    placement,
    streamed_bytes,
)
from snugfit.planning.pace import Pace
from snugfit.planning.speed import (
    FILLED_TOKENS,
    HIT_EXPONENTS,
    Reads,
    attention_seconds,
    cache_reads,
    dense_seconds,
    expert_seconds,
    missed_seconds,
    operations_rate,
    tokens_seen,
)
from snugfit.units import MIB

Numbers = np.ndarray[Any, np.dtype[np.float64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]
# A cache of experts smaller than this is not worth an option.
LEAST_EXPERT_CACHE_BYTES = 256 * MIB


@dataclass(frozen=True)
class Places:
    """Where each layer is: ones and zeros, [P, D, L]. Experts may be elsewhere than their layer."""

    layers: Numbers
    experts: Numbers
    vectors: list[list[int]]
    placements: Sequence[Placement]

    @property
    def devices(self) -> int:
        return int(self.layers.shape[1])

    @property
    def lent(self) -> Numbers:
        """Layers on GPUs whose experts are in RAM, [P, L]."""
        return np.asarray(self.experts[:, -1] - self.layers[:, -1])


@dataclass(frozen=True)
class Grid:
    """What came out, [C, S, P]."""

    missing_bytes: Numbers  # summed over devices; 0: it fits
    gpus_missing_bytes: Numbers
    total_bytes: Numbers
    expert_cache_bytes: Numbers  # of the first GPU; 0 where experts are better used where they are
    decode_seconds: Numbers  # of one token; with an expert cache, of text that hits it rarely
    prefill_seconds: Numbers  # of one token of a prompt

    @property
    def fits(self) -> Flags:
        return np.equal(self.missing_bytes, 0)


def evaluate(
    footprints: Sequence[Footprint],
    reads: Sequence[Reads],
    settings: Sequence[Configuration],
    placements: Sequence[Placement],
    devices: Sequence[Device],
    paces: Sequence[Pace],
) -> Grid:
    """Return bytes and seconds of all combinations. The cuts are of one model."""
    places = places_of(footprints[0], placements, devices)
    used, margin = _bytes(footprints, settings, places)
    missing = _missing(used + margin, devices)
    experts = [np.array([expert_seconds(cut, pace) for cut in reads]) for pace in paces]
    decode = _decode_seconds(footprints[0], reads, settings, places, paces, experts)
    room = devices[0].free_bytes - used[..., 0] - margin[..., 0]
    cached, gained = _expert_cache(reads, places, paces, experts, room)
    return Grid(
        missing_bytes=missing.sum(-1),
        gpus_missing_bytes=missing[..., :-1].sum(-1),
        total_bytes=used.sum(-1) + cached,
        expert_cache_bytes=cached,
        decode_seconds=decode - gained,
        prefill_seconds=_prefill_seconds(footprints[0], reads, settings, places, paces),
    )


def places_of(
    footprint: Footprint, placements: Sequence[Placement], devices: Sequence[Device]
) -> Places:
    one = Configuration(1)
    vectors = [placement(footprint.layers, p.of(one), devices[:-1]) for p in placements]
    numbers = np.array(vectors) % len(devices)  # RAM, -1, is the last
    in_ram = np.array([[p.cpu_expert_layers] for p in placements])
    apart = np.arange(numbers.shape[1]) < in_ram
    experts = np.where(apart, len(devices) - 1, numbers)
    each = np.arange(len(devices))[None, :, None]
    return Places(
        (numbers[:, None, :] == each).astype(np.float64),
        (experts[:, None, :] == each).astype(np.float64),
        vectors,
        placements,
    )


def _missing(used: Numbers, devices: Sequence[Device]) -> Numbers:
    """Return what each device lacks; RAM has what GPUs that share it leave."""
    free = np.array([device.free_bytes for device in devices], np.float64)
    left = free - used
    shared = np.array([device.shares_ram for device in devices])
    left[..., -1] += np.maximum(left[..., shared], 0).sum(-1)
    return np.asarray(np.maximum(-left, 0))


def _summed(values: Numbers, places: Numbers) -> Numbers:
    """Return [N, P, D]: each row of `values` [N, L] summed over the layers of every device."""
    count, devices, layers = places.shape
    flat = places.reshape(count * devices, layers)
    return (values @ flat.T).reshape(len(values), count, devices)


def _bytes(
    footprints: Sequence[Footprint], settings: Sequence[Configuration], places: Places
) -> tuple[Numbers, Numbers]:
    """Return the bytes on each device, and what they may be more, [C, S, P, D]."""
    is_drafting = any(setting.rollback for setting in settings)
    weights = _weight_bytes(footprints, places, is_drafting)
    context = np.array([_context_bytes(footprints[0], one) for one in settings], np.float64)
    compute, overhead, bands = _compute_bytes(footprints, settings, places)
    fixed = _summed(context, places.layers) + overhead
    margin = np.ceil(bands[None, ..., None] * compute)
    return weights[:, None] + fixed[None] + compute, margin


def _weight_bytes(footprints: Sequence[Footprint], places: Places, is_drafting: bool) -> Numbers:
    cuts = [footprint.weights for footprint in footprints]
    loaded = np.ones(footprints[0].layers + 1)
    if not is_drafting:
        loaded[list(cuts[0].drafting)] = 0
    dense = np.array([(*cut.dense, cut.output) for cut in cuts], np.float64) * loaded
    experts = np.array([(*cut.experts, 0) for cut in cuts], np.float64) * loaded
    used = _summed(dense, places.layers) + _summed(experts, places.experts)
    host = np.array([cut.embedding + cut.other for cut in cuts], np.float64)
    shared = [cut.embedding if cut.is_tied and not cut.is_kept_twice else 0 for cut in cuts]
    used[..., -1] += host[:, None] - np.outer(shared, places.layers[:, -1, -1])
    return used


def _context_bytes(footprint: Footprint, configuration: Configuration) -> list[int]:
    sizes = [0] * (footprint.layers + 1)
    for layer, size in layer_bytes(footprint.caches, configuration).items():
        sizes[layer] = size
    for layer, size in state_bytes(footprint.states, configuration).items():
        sizes[layer] += size
    return sizes


def _compute_bytes(
    footprints: Sequence[Footprint], settings: Sequence[Configuration], places: Places
) -> tuple[Numbers, Numbers, Numbers]:
    """Return compute buffers, [C, S, P, D], overhead, [S, P, D], and bands, [S, P].

    Few kinds of places differ: it matters who works, whether RAM has a part, and who reads a cache
    of another.
    """
    kinds = [
        (
            frozenset(vector),
            IN_RAM in vector[:-1],
            one.cpu_expert_layers > 0,
            tuple((gpu, cache.window) for gpu, cache in borrowed_caches(footprints[0], vector)),
        )
        for vector, one in zip(places.vectors, places.placements, strict=True)
    ]
    first = {kind: number for number, kind in reversed(list(enumerate(kinds)))}
    column = {kind: number for number, kind in enumerate(first)}
    columns = [column[kind] for kind in kinds]
    gpus = places.devices - 1
    overhead = np.zeros((len(settings), len(first), gpus + 1))
    compute = np.zeros((len(footprints), *overhead.shape))
    bands = np.zeros((len(settings), len(first)))
    weights = replace(footprints[0].weights, largest_dense=0, largest_experts=0)
    bare = replace(footprints[0], weights=weights)
    for row, setting in enumerate(settings):
        for at, number in enumerate(first.values()):
            placed = places.placements[number].of(setting)
            vector = places.vectors[number]
            found = compute_bytes(bare, placed, vector, gpus)
            compute[:, row, at] = found
            overhead[row, at] = overhead_bytes(bare, placed, vector, gpus)
            bands[row, at] = compute_band(bare, placed, vector)
            if any(where != IN_RAM for where in vector):
                sizes = [streamed_bytes(cut, placed, vector) for cut in footprints]
                cached = streamed_bytes(bare, placed, vector)
                counted = gpu_bytes(bare.graph, placed, streamed_bytes=cached) if found[0] else 0
                compute[:, row, at, 0] += _added(bare, placed, counted, sizes)
    return compute[:, :, columns], overhead[:, columns], bands[:, columns]


def _added(
    bare: Footprint, placed: Configuration, counted: int, streamed: Sequence[int]
) -> list[int]:
    """Return what matrices that are `streamed` add to the first GPU's buffer as `counted`."""
    if not any(streamed):
        return [0] * len(streamed)
    least = gpu_bytes(bare.graph, placed)
    layer = gpu_bytes(bare.graph, placed, outputs=0)
    return [max(layer + size, least) - counted if size else 0 for size in streamed]


def _decode_seconds(
    footprint: Footprint,
    reads: Sequence[Reads],
    settings: Sequence[Configuration],
    places: Places,
    paces: Sequence[Pace],
    experts: Sequence[Numbers],
) -> Numbers:
    """Return the seconds of a token, [C, S, P]; `experts` are those of [C, L] on each device."""
    of_weights = np.zeros((len(reads), len(places.vectors)))
    of_cache = np.zeros((len(settings), len(places.vectors)))
    caches = np.array(
        [cache_reads(footprint, one, min(one.ctx, FILLED_TOKENS)) for one in settings], np.float64
    )
    seen = [tokens_seen(footprint, one, min(one.ctx, FILLED_TOKENS)) for one in settings]
    for device, pace in enumerate(paces):
        looking = np.array([attention_seconds(footprint, reads[0], pace, one) for one in seen])
        dense = np.array([dense_seconds(cut, pace) for cut in reads])
        here, experts_here = places.layers[:, device], places.experts[:, device]
        of_weights += dense @ here.T + experts[device] @ experts_here.T
        of_weights += pace.token_seconds * here.any(-1)
        of_cache += (caches / pace.cache_bytes_per_s + looking) @ here.T
    has_experts = np.array([bool(layer) for layer in reads[0].experts])
    of_weights += paces[IN_RAM].handover_seconds * (places.lent @ has_experts)
    return np.asarray(of_weights[:, None] + of_cache[None])


def _expert_cache(
    reads: Sequence[Reads],
    places: Places,
    paces: Sequence[Pace],
    experts: Sequence[Numbers],
    room: Numbers,
) -> tuple[Numbers, Numbers]:
    """Return the bytes of the first GPU for copies of experts in RAM, and the seconds they gain.

    A cache takes all that the GPU has left, [C, S, P]. It is judged by text that hits it rarely, so
    that it is chosen only where it gains then too.
    """
    in_ram = np.array([cut.all_experts for cut in reads], np.float64) @ places.lent.T
    if not in_ram.any():
        return np.zeros_like(room), np.zeros_like(room)
    sizes = [[sum(layer.values()) for layer in cut.experts] for cut in reads]
    used = np.array(sizes, np.float64) @ places.lent.T
    waits = experts[IN_RAM] @ places.lent.T
    for device, seconds in enumerate(experts[:-1]):
        waits = waits - seconds @ (places.lent * places.layers[:, device]).T
    cached = np.clip(room // MIB * MIB, 0, in_ram[:, None])
    part = np.divide(cached, in_ram[:, None], where=in_ram[:, None] > 0, out=np.zeros_like(room))
    missed = missed_seconds(used[:, None], part, paces[0], HIT_EXPONENTS.low)
    gained = waits[:, None] - missed
    is_better = (gained > 0) & (cached >= LEAST_EXPERT_CACHE_BYTES)
    return np.where(is_better, cached, 0), np.where(is_better, gained, 0)


def _prefill_seconds(
    footprint: Footprint,
    reads: Sequence[Reads],
    settings: Sequence[Configuration],
    places: Places,
    paces: Sequence[Pace],
) -> Numbers:
    """Return the seconds of a pass over its tokens, [C, S, P]; as `speed.speed_of` has them."""
    found = np.empty((len(reads), len(settings), len(places.vectors)))
    passes: dict[tuple[int, int], list[int]] = {}
    for number, setting in enumerate(settings):
        key = (tokens_of_pass(setting), min(setting.ctx, FILLED_TOKENS))
        passes.setdefault(key, []).append(number)
    for (tokens, filled), rows in passes.items():
        seen = np.array(tokens_seen(footprint, settings[rows[0]], filled // 2), np.float64)
        seconds = _pass_seconds(reads, places, paces, tokens, seen) / tokens
        found[:, rows] = seconds[:, None]
    return found


def _pass_seconds(
    reads: Sequence[Reads], places: Places, paces: Sequence[Pace], tokens: int, seen: Numbers
) -> Numbers:
    """Return the seconds of one pass, [C, P]."""
    first = [next((w for w in vector if w != IN_RAM), IN_RAM) for vector in places.vectors]
    streams = np.array([where != IN_RAM for where in first]) & (tokens >= STREAMED_FROM_TOKENS)
    on_first = np.array(first)[:, None] == np.arange(len(paces))  # [P, D]
    links = np.array([paces[where].link_bytes_per_s for where in first])
    dense = np.array(reads[0].dense_operations)
    dense[-1] //= tokens  # the last token's output
    looks = np.array(reads[0].attention_operations) * seen
    sizes = [[sum(layer.values()) for layer in cut.dense] for cut in reads]
    seconds = places.layers.sum(-1) @ np.array([pace.layer_seconds for pace in paces])
    for where, work, is_expert, size in (
        (places.layers, dense, False, np.array(sizes, np.float64)),
        (
            places.experts,
            np.array(reads[0].expert_operations),
            True,
            np.array([cut.all_experts for cut in reads], np.float64),
        ),
    ):
        working = where.copy()
        working += (streams[:, None] & on_first)[:, :, None] * where[:, -1:]
        working[:, -1] *= ~streams[:, None]
        for device, pace in enumerate(paces):
            rate = _operation_rates(reads, pace, is_expert)
            worked = work / rate
            if not is_expert:
                worked = worked + looks / (pace.prompt_attention_operations_per_s or rate)
            seconds = seconds + (tokens * worked + size / pace.bytes_per_s) @ working[:, device].T
        seconds = seconds + size @ where[:, -1].T * streams / links
    return np.asarray(seconds)


def _operation_rates(reads: Sequence[Reads], pace: Pace, is_expert: bool) -> Numbers:
    """Return the operations a second on each layer's matrices, [C or 1, L or 1]."""
    part = pace.expert_operations_part if is_expert else 1.0
    if not pace.operation_parts:
        return np.array([[part * pace.operations_per_s]])
    layers = [cut.experts if is_expert else cut.dense for cut in reads]
    rates = [[operations_rate(layer, pace) for layer in cut] for cut in layers]
    return part * np.array(rates)
