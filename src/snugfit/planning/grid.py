"""Memory and speed of every cut, setting and placement at once, as arrays.

Numbers are those of `memory.use_of` and `speed.speed_of`: bytes and seconds are sums over layers,
so that a placement is a matrix of ones and zeros, and a hundred thousand configurations are a few
products of matrices. Axes: C cuts, S settings, P placements, D devices with RAM last, L layers and
the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from snugfit.archs.cache import group_bytes, state_bytes, tokens_of_pass
from snugfit.core import Configuration, Device
from snugfit.planning.axes import Placement, place_vectors
from snugfit.planning.memory import (
    GPU_OVERHEAD_BYTES,
    IN_RAM,
    STREAMED_FROM_TOKENS,
    Footprint,
    compute_of,
    host_overhead,
    streamed_bytes,
)
from snugfit.planning.pace import Pace
from snugfit.planning.speed import (
    FILLED_TOKENS,
    Reads,
    cache_reads,
    dense_seconds,
    expert_seconds,
)

Numbers = np.ndarray[Any, np.dtype[np.float64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]


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


@dataclass(frozen=True)
class Grid:
    """What came out, [C, S, P]."""

    missing_bytes: Numbers  # summed over devices; 0: it fits
    gpus_missing_bytes: Numbers
    total_bytes: Numbers
    decode_seconds: Numbers  # of one token
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
    used = _bytes(footprints, settings, places)
    free = np.array([device.free_bytes for device in devices], np.float64)
    missing = np.maximum(used - free, 0)
    return Grid(
        missing_bytes=missing.sum(-1),
        gpus_missing_bytes=missing[..., :-1].sum(-1),
        total_bytes=used.sum(-1),
        decode_seconds=_decode_seconds(footprints[0], reads, settings, places, paces),
        prefill_seconds=_prefill_seconds(reads, settings, places, paces),
    )


def places_of(
    footprint: Footprint, placements: Sequence[Placement], devices: Sequence[Device]
) -> Places:
    vectors = place_vectors(footprint, placements, devices)
    numbers = np.array(vectors) % len(devices)  # RAM, -1, is the last
    in_ram = np.array([[one.cpu_expert_layers] for one in placements])
    apart = np.arange(numbers.shape[1]) < in_ram
    experts = np.where(apart, len(devices) - 1, numbers)
    each = np.arange(len(devices))[None, :, None]
    return Places(
        (numbers[:, None, :] == each).astype(np.float64),
        (experts[:, None, :] == each).astype(np.float64),
        vectors,
        placements,
    )


def _summed(values: Numbers, places: Numbers) -> Numbers:
    """Return [N, P, D]: each row of `values` [N, L] summed over the layers of every device."""
    count, devices, layers = places.shape
    flat = places.reshape(count * devices, layers)
    return (values @ flat.T).reshape(len(values), count, devices)


def _bytes(
    footprints: Sequence[Footprint], settings: Sequence[Configuration], places: Places
) -> Numbers:
    """Return the bytes on each device, [C, S, P, D]."""
    weights = _weight_bytes(footprints, places)
    context = _summed(
        np.array([_context_bytes(footprints[0], one) for one in settings]), places.layers
    )
    fixed = context + _fixed_bytes(footprints[0], settings, places)
    used: Numbers = weights[:, None] + fixed[None]
    used[..., 0] += _streamed(footprints, settings, places)
    return used


def _weight_bytes(footprints: Sequence[Footprint], places: Places) -> Numbers:
    cuts = [footprint.weights for footprint in footprints]
    dense = np.array([(*cut.dense, cut.output) for cut in cuts], np.float64)
    experts = np.array([(*cut.experts, 0) for cut in cuts], np.float64)
    used = _summed(dense, places.layers) + _summed(experts, places.experts)
    host = np.array([cut.embedding + cut.other for cut in cuts], np.float64)
    shared = np.array([cut.embedding if cut.is_tied else 0 for cut in cuts], np.float64)
    output_in_ram = np.array([vector[-1] == IN_RAM for vector in places.vectors], np.float64)
    used[..., -1] += host[:, None] - shared[:, None] * output_in_ram
    return used


def _context_bytes(footprint: Footprint, configuration: Configuration) -> list[int]:
    sizes = [0] * (footprint.layers + 1)
    for layers, size in group_bytes(footprint.caches, configuration):
        for layer in layers:
            sizes[layer] += size
    for layer, size in state_bytes(footprint.states, configuration).items():
        sizes[layer] += size
    return sizes


def _fixed_bytes(
    footprint: Footprint, settings: Sequence[Configuration], places: Places
) -> Numbers:
    """Return compute buffers and overhead, [S, P, D]: few, since few kinds of places differ."""
    gpus = places.devices - 1
    kinds = [
        _kind(vector, one) for vector, one in zip(places.vectors, places.placements, strict=True)
    ]
    first = {kind: number for number, kind in reversed(list(enumerate(kinds)))}
    rows = []
    for setting in settings:
        host = host_overhead(footprint.graph, setting)
        of_kind = {}
        for kind, number in first.items():
            vector = places.vectors[number]
            placed = places.placements[number].of(setting)
            compute = compute_of(footprint, placed, vector, gpus)
            uses_gpus = any(where != IN_RAM for where in vector)
            overhead = [GPU_OVERHEAD_BYTES * uses_gpus] * gpus + [host]
            of_kind[kind] = [a + b for a, b in zip(compute, overhead, strict=True)]
        rows.append([of_kind[kind] for kind in kinds])
    return np.array(rows, np.float64)


def _kind(vector: Sequence[int], placement: Placement) -> tuple[object, ...]:
    """Return what compute buffers depend on: who works, and whether RAM has a part of it."""
    return frozenset(vector), IN_RAM in vector[:-1], placement.cpu_expert_layers > 0


def _streamed(
    footprints: Sequence[Footprint], settings: Sequence[Configuration], places: Places
) -> Numbers:
    """Return what the first device keeps for matrices copied from RAM, [C, S, P]."""
    kinds = [
        _kind(vector, one) for vector, one in zip(places.vectors, places.placements, strict=True)
    ]
    first = {kind: number for number, kind in reversed(list(enumerate(kinds)))}
    sizes = np.zeros((len(footprints), len(settings), len(first)))
    passes = {_is_long(setting): setting for setting in settings}
    for column, number in enumerate(first.values()):
        for is_long, setting in passes.items():
            placed = places.placements[number].of(setting)
            same = [is_long == _is_long(one) for one in settings]
            for cut, footprint in enumerate(footprints):
                size = streamed_bytes(footprint.weights, placed, places.vectors[number])
                sizes[cut, same, column] = size
    columns = {kind: column for column, kind in enumerate(first)}
    return sizes[:, :, [columns[kind] for kind in kinds]]


def _is_long(setting: Configuration) -> bool:
    return tokens_of_pass(setting) >= STREAMED_FROM_TOKENS


def _decode_seconds(
    footprint: Footprint,
    reads: Sequence[Reads],
    settings: Sequence[Configuration],
    places: Places,
    paces: Sequence[Pace],
) -> Numbers:
    of_weights = np.zeros((len(reads), len(places.vectors)))
    of_cache = np.zeros((len(settings), len(places.vectors)))
    caches = np.array(
        [cache_reads(footprint, one, min(one.ctx, FILLED_TOKENS)) for one in settings], np.float64
    )
    for device, pace in enumerate(paces):
        dense = np.array([dense_seconds(cut, pace) for cut in reads])
        experts = np.array([expert_seconds(cut, pace) for cut in reads])
        here, experts_here = places.layers[:, device], places.experts[:, device]
        of_weights += dense @ here.T + experts @ experts_here.T
        of_weights += pace.token_seconds * here.any(-1)
        of_cache += caches @ here.T / pace.cache_bytes_per_s
    has_experts = np.array([bool(layer) for layer in reads[0].experts])
    crossing = (places.experts[:, -1] - places.layers[:, -1]) @ has_experts
    of_weights += paces[IN_RAM].handover_seconds * crossing
    return np.asarray(of_weights[:, None] + of_cache[None])


def _prefill_seconds(
    reads: Sequence[Reads],
    settings: Sequence[Configuration],
    places: Places,
    paces: Sequence[Pace],
) -> Numbers:
    dense = np.array(reads[0].dense_operations, np.float64)
    experts = np.array(reads[0].expert_operations, np.float64)
    rates = np.array([pace.operations_per_s for pace in paces])
    streamed = np.array([cut.all_experts for cut in reads], np.float64) @ places.experts[:, -1].T
    of_layers = (places.layers @ dense / rates).sum(-1)
    if len(paces) == 1:
        each = of_layers + (places.experts @ experts / rates).sum(-1)
        return np.broadcast_to(each, (len(reads), len(settings), len(each)))
    in_place = (places.experts @ experts / rates).sum(-1)
    on_first = (places.experts[:, :-1] @ experts / rates[:-1]).sum(-1)
    on_first += places.experts[:, -1] @ experts / rates[0]
    tokens = np.array([tokens_of_pass(one) for one in settings])
    streams = (tokens >= STREAMED_FROM_TOKENS)[:, None]
    each = of_layers + np.where(streams, on_first, in_place)
    copies = streams / tokens[:, None] / paces[0].link_bytes_per_s
    return np.asarray(each[None] + streamed[:, None] * copies[None])
