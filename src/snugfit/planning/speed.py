"""How fast a configuration is: bytes a token over the rates of the memories, and what no byte says.

A decoded token reads every matrix that it uses, what the cache has of the context so far, and the
states, each from the memory where it is. Layers take turns, so the seconds of all memories add
up. A prompt is worked through in passes of `ubatch` tokens, which operations bound and not bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from snugfit.archs.cache import cells_of, layer_bytes, state_bytes, tokens_of_pass
from snugfit.core import Band, Configuration, Device, ModelSpec, Speed, SpeedPart, TensorInfo
from snugfit.planning.memory import (
    IN_RAM,
    STREAMED_FROM_TOKENS,
    Footprint,
    block_of,
    placement,
)
from snugfit.planning.pace import Pace
from snugfit.quants.types import TYPES

# One number, or an array of them.
Numbers = TypeVar("Numbers", float, "np.ndarray[Any, np.dtype[np.float64]]")
# What a prompt has filled of the context when a speed is said without naming it.
FILLED_TOKENS = 4096
# Part of its experts' reads that an expert cache answers, for the part of the experts that it has:
# part ** exponent. The bounds: chat and code by one model, long or multilingual text by others.
HIT_EXPONENTS = Band(low=0.6, middle=0.35, high=0.2)
# Of a plain decoder layer, as Llama's: what `Pace.layer_seconds` is for.
PLAIN_TENSORS = 9
# Tensors of which a token reads a row.
LOOKED_UP = ("token_embd.weight", "per_layer_token_embd.weight", "position_embd.weight")


@dataclass(frozen=True)
class Reads:
    """What one token reads and computes of a cut, for each layer; the output is the last.

    Bytes by type of the tensors. Of experts, those that one token uses; `all_experts` are what a
    pass of many tokens reads. Operations are multiplications and additions for one token, those of
    attention for each token that it looks at.
    """

    dense: tuple[Mapping[str, int], ...]
    experts: tuple[Mapping[str, int], ...]
    all_experts: tuple[int, ...]
    dense_operations: tuple[int, ...]
    expert_operations: tuple[int, ...]
    attention_operations: tuple[int, ...]
    tensors: tuple[int, ...]  # how many matrices and norms, experts not counted
    scans: tuple[bool, ...]  # layers that go through a state: Mamba, a delta net


def reads_of(spec: ModelSpec, types: Mapping[str, str], sizes: Mapping[str, int]) -> Reads:
    """Return what a token reads of `spec` cut to `types`, whose tensors have `sizes` in bytes."""
    count = spec.layers + 1
    dense, experts = [0] * count, [0] * count
    attention, tensors, scans = [0] * count, [0] * count, [False] * count
    for tensor, layer, is_experts in _read_tensors(spec):
        name, operations = tensor.name, 2 * tensor.parameters
        if is_experts:
            experts[layer] += operations * spec.experts_used // max(spec.experts, 1)
            continue
        dense[layer] += operations
        tensors[layer] += not name.endswith(".bias")
        scans[layer] |= ".ssm_" in name
        if name.endswith(".attn_output.weight"):
            attention[layer] = 4 * tensor.columns
    whole = Reads(
        dense=(),
        experts=(),
        all_experts=(),
        dense_operations=tuple(dense),
        expert_operations=tuple(experts),
        attention_operations=tuple(attention),
        tensors=tuple(tensors),
        scans=tuple(scans),
    )
    return cut_reads(whole, spec, types, sizes)


def cut_reads(
    original: Reads, spec: ModelSpec, types: Mapping[str, str], sizes: Mapping[str, int]
) -> Reads:
    """Return what a token reads of another cut of `spec`, whose operations are the same."""
    count = spec.layers + 1
    dense: list[dict[str, int]] = [{} for _ in range(count)]
    experts: list[dict[str, int]] = [{} for _ in range(count)]
    all_experts = [0] * count
    for tensor, layer, is_experts in _read_tensors(spec):
        size, type_name = sizes[tensor.name], types[tensor.name]
        of_type = dense[layer]
        if is_experts:
            all_experts[layer] += size
            size = size * spec.experts_used // max(spec.experts, 1)
            of_type = experts[layer]
        of_type[type_name] = of_type.get(type_name, 0) + size
    return replace(
        original, dense=tuple(dense), experts=tuple(experts), all_experts=tuple(all_experts)
    )


def _read_tensors(spec: ModelSpec) -> list[tuple[TensorInfo, int, bool]]:
    """Return the tensors that every token reads, their layer, and whether they are of experts."""
    names = {tensor.name for tensor in spec.tensors}
    drafting = {block_of(name)[0] for name in names if ".nextn." in name}
    looked_up = set(LOOKED_UP)
    if "output.weight" not in names:
        looked_up.remove("token_embd.weight")
    found = []
    for tensor in spec.tensors:
        block, is_experts = block_of(tensor.name)
        if block in drafting or tensor.name in looked_up:
            continue
        found.append((tensor, spec.layers if block is None else block, is_experts))
    return found


def dense_seconds(reads: Reads, pace: Pace) -> list[float]:
    """Return what one token takes for the matrices of each layer and the output."""
    return [
        _seconds(layer, pace, 1.0)
        + pace.layer_seconds * tensors / PLAIN_TENSORS
        + pace.state_layer_seconds * scans
        for layer, tensors, scans in zip(reads.dense, reads.tensors, reads.scans, strict=True)
    ]


def expert_seconds(reads: Reads, pace: Pace) -> list[float]:
    """Return what one token takes for the experts of each layer, 0 where it has none."""
    return [
        _seconds(layer, pace, pace.expert_part) + pace.expert_layer_seconds if layer else 0.0
        for layer in reads.experts
    ]


def _seconds(bytes_of_type: Mapping[str, int], pace: Pace, part: float) -> float:
    return sum(
        size / (pace.bytes_per_s * part * pace.type_parts.get(type_name, 1.0))
        for type_name, size in bytes_of_type.items()
    )


def cache_reads(footprint: Footprint, configuration: Configuration, filled: int) -> list[int]:
    """Return the bytes of cache and state that one token moves in each layer, the output's none.

    A cache is read, a state read and written.
    """
    one = _with_filled(configuration, filled)
    sizes = [0] * (footprint.layers + 1)
    for layer, size in layer_bytes(footprint.caches, one).items():
        sizes[layer] = size
    for layer, owner in _borrowed(footprint).items():
        sizes[layer] = sizes[owner]
    for layer, size in state_bytes(footprint.states, one).items():
        sizes[layer] += 2 * size
    return sizes


def _with_filled(configuration: Configuration, filled: int) -> Configuration:
    """Return a context that is full once one more token is decoded."""
    cells = max(1, min(filled + 1, configuration.ctx))
    return replace(configuration, ctx=cells, slots=1, rollback=0)


def _borrowed(footprint: Footprint) -> dict[int, int]:
    """Return, of last layers without a cache of their own, layer -> the one whose cache it reads.

    Gemma 3n and the small Gemma 4 have them; each reads that of the last layer of its kind.
    """
    if not footprint.graph.layer_inputs:
        return {}
    whole = [layer for cache, layers in footprint.caches if not cache.window for layer in layers]
    owners = [layer for _, layers in footprint.caches for layer in layers]
    period = min((b - a for a, b in pairwise(sorted(whole))), default=1)
    borrowed = {}
    for layer in range(max(owners, default=0) + 1, footprint.layers):
        alike = [owner for owner in owners if (layer - owner) % period == 0]
        if alike:
            borrowed[layer] = max(alike)
    return borrowed


def attention_seconds(
    footprint: Footprint, reads: Reads, pace: Pace, seen: Sequence[int]
) -> list[float]:
    """Return what attention takes beside reading, where each layer looks at so many tokens.

    Nothing where it was not measured: the typical part of a rate has it in.
    """
    if pace.basis != "measured":
        return [0.0] * len(seen)
    rows = [0] * len(seen)
    for cache, layers in footprint.caches:
        for layer in layers:
            rows[layer] += cache.heads
    return [
        tokens
        * (
            footprint.graph.heads * pace.score_seconds
            + heads * pace.row_seconds
            + operations / pace.attention_operations_per_s
        )
        for operations, heads, tokens in zip(reads.attention_operations, rows, seen, strict=True)
    ]


def hit_rate(part: Numbers, exponent: float) -> Numbers:
    """Return the part of reads that a cache with `part` of the experts, 0 to 1, answers."""
    rate: Numbers = part**exponent
    return rate


def missed_seconds(
    used_bytes: Numbers, part: Numbers, gpu: Pace, exponent: float = HIT_EXPONENTS.middle
) -> Numbers:
    """Return what one token waits for experts that a cache with `part` of them does not have.

    `used_bytes` are those of experts in RAM that the token uses; the GPU's work on them, cached or
    uploaded, is that of `expert_seconds`.
    """
    return used_bytes * (1 - hit_rate(part, exponent)) / gpu.link_bytes_per_s


def cached_part(reads: Reads, configuration: Configuration, place: Sequence[int]) -> float:
    """Return the part of the experts in RAM that `configuration`'s expert cache has room for."""
    in_ram = sum(reads.all_experts[layer] for layer in _lent(reads, configuration, place))
    return min(configuration.expert_cache_bytes / in_ram, 1.0) if in_ram else 0.0


def is_cache_worthwhile(part: float, gpu: Pace, ram: Pace) -> bool:
    """Whether a cache of `part` of the experts beats that part placed on the GPU for good.

    What it misses is uploaded; what has no place on the GPU is worked through where it is.
    """
    missed = 1 - hit_rate(part, HIT_EXPONENTS.middle)
    return missed / gpu.link_bytes_per_s < (1 - part) / (ram.bytes_per_s * ram.expert_part)


def _lent(reads: Reads, configuration: Configuration, place: Sequence[int]) -> list[int]:
    """Return the layers on a GPU whose experts are in RAM."""
    return [
        layer
        for layer, where in enumerate(place)
        if layer < configuration.cpu_expert_layers and where != IN_RAM and reads.experts[layer]
    ]


def speed_of(
    footprint: Footprint,
    reads: Reads,
    configuration: Configuration,
    devices: Sequence[Device],
    paces: Sequence[Pace],
    filled: int | None = None,
) -> Speed:
    """Return the speed of `configuration` once `filled` tokens are in the cache.

    `paces` are those of `devices`, RAM last. A prompt's rate is its mean, from empty to `filled`.
    """
    filled = min(configuration.ctx, FILLED_TOKENS if filled is None else filled)
    place = placement(footprint.layers, configuration, devices[:-1])
    parts = _decode_parts(footprint, reads, configuration, devices, paces, place, filled)
    seconds = sum(part.seconds for part in parts)
    used = {paces[number] for number in place}
    used |= {paces[IN_RAM]} if configuration.cpu_expert_layers else set()
    band = 1 + max(pace.band for pace in used)
    longer, shorter = _hits_off(reads, configuration, paces, place)
    decode = Band(1 / (seconds + longer) / band, 1 / seconds, band / (seconds - shorter))
    prefill = tokens_of_pass(configuration) / _pass_seconds(
        footprint, reads, configuration, paces, place, filled
    )
    prefill_band = 1 + max(pace.prefill_band for pace in used)
    return Speed(
        decode_tokens_per_s=decode,
        prefill_tokens_per_s=Band(prefill / prefill_band, prefill, prefill * prefill_band),
        filled_tokens=filled,
        basis="measured" if all(pace.basis == "measured" for pace in used) else "estimated",
        parts=tuple(parts),
    )


def _decode_parts(
    footprint: Footprint,
    reads: Reads,
    configuration: Configuration,
    devices: Sequence[Device],
    paces: Sequence[Pace],
    place: Sequence[int],
    filled: int,
) -> list[SpeedPart]:
    """Return what one token waits for, memory by memory, the RAM's last."""
    parts = []
    caches = cache_reads(footprint, configuration, filled)
    seen = tokens_seen(footprint, configuration, filled)
    lent = _lent(reads, configuration, place)
    is_cached = configuration.expert_cache_bytes > 0
    for number, (device, pace) in enumerate(zip(devices, paces, strict=True)):
        here = IN_RAM if number == len(devices) - 1 else number
        layers = [layer for layer, where in enumerate(place) if where == here]
        if layers:
            dense = dense_seconds(reads, pace)
            looking = attention_seconds(footprint, reads, pace, seen)
            size = sum(sum(reads.dense[layer].values()) for layer in layers)
            seconds = sum(dense[layer] for layer in layers) + pace.token_seconds
            parts.append(SpeedPart(f"{device.name}: weights", size, seconds))
            size = sum(caches[layer] for layer in layers)
            seconds = sum(looking[layer] for layer in layers) + size / pace.cache_bytes_per_s
            parts.append(SpeedPart(f"{device.name}: cache", size, seconds))
        moved = not is_cached
        experts = [
            layer
            for layer, where in enumerate(place)
            if reads.experts[layer] and (IN_RAM if moved and layer in lent else where) == here
        ]
        if experts:
            each = expert_seconds(reads, pace)
            size = sum(sum(reads.experts[layer].values()) for layer in experts)
            seconds = sum(each[layer] for layer in experts)
            parts.append(SpeedPart(f"{device.name}: experts", size, seconds))
    if lent and is_cached:
        missed = _missed(reads, configuration, paces, place, HIT_EXPONENTS.middle)
        parts.append(SpeedPart("experts that the cache misses", *missed))
    if lent:
        seconds = len(lent) * paces[IN_RAM].handover_seconds
        parts.append(SpeedPart("hand-over between GPU and RAM", 0, seconds))
    return parts


def _missed(
    reads: Reads,
    configuration: Configuration,
    paces: Sequence[Pace],
    place: Sequence[int],
    exponent: float,
) -> tuple[int, float]:
    """Return the bytes that a token has uploaded to the GPU, and what it waits for them."""
    lent = _lent(reads, configuration, place)
    if not lent or not configuration.expert_cache_bytes:
        return 0, 0.0
    used = sum(sum(reads.experts[layer].values()) for layer in lent)
    part = cached_part(reads, configuration, place)
    size = round(used * (1 - hit_rate(part, exponent)))
    return size, missed_seconds(used, part, paces[0], exponent)


def _hits_off(
    reads: Reads, configuration: Configuration, paces: Sequence[Pace], place: Sequence[int]
) -> tuple[float, float]:
    """Return the seconds more and fewer of a token where text hits the cache less and more."""
    low, middle, high = (
        _missed(reads, configuration, paces, place, exponent)[1]
        for exponent in (HIT_EXPONENTS.low, HIT_EXPONENTS.middle, HIT_EXPONENTS.high)
    )
    return low - middle, middle - high


def _pass_seconds(
    footprint: Footprint,
    reads: Reads,
    configuration: Configuration,
    paces: Sequence[Pace],
    place: Sequence[int],
    filled: int,
) -> float:
    """Return what a pass of a prompt takes: operations, reads, and what is streamed to a GPU."""
    tokens = tokens_of_pass(configuration)
    first = next((where for where in place if where != IN_RAM), IN_RAM)
    streams = first != IN_RAM and tokens >= STREAMED_FROM_TOKENS
    seen = tokens_seen(footprint, configuration, filled // 2)  # midway through the prompt
    seconds = 0.0
    for layer, where in enumerate(place):
        for is_expert in (False, True):
            is_lent = is_expert and layer < configuration.cpu_expert_layers
            home = IN_RAM if is_lent else where
            pace = paces[first if streams and home == IN_RAM else home]
            operations, size = reads.dense_operations[layer], sum(reads.dense[layer].values())
            operations //= tokens if layer == footprint.layers else 1  # the last token's output
            rate = operations_rate(reads.dense[layer], pace)
            looks = reads.attention_operations[layer] * seen[layer]
            looking = looks / (pace.prompt_attention_operations_per_s or rate)
            if is_expert:
                operations, size = reads.expert_operations[layer], reads.all_experts[layer]
                rate = operations_rate(reads.experts[layer], pace) * pace.expert_operations_part
                looking = 0.0
            seconds += tokens * (operations / rate + looking) + size / pace.bytes_per_s
            if streams and home == IN_RAM:
                seconds += size / pace.link_bytes_per_s
        seconds += paces[where].layer_seconds
    return seconds


def operations_rate(bytes_of_type: Mapping[str, int], pace: Pace) -> float:
    """Return the operations a second on matrices of such types, times many tokens."""
    if not pace.operation_parts:
        return pace.operations_per_s
    weights = {
        name: size * TYPES[name].block_weights / TYPES[name].block_bytes
        for name, size in bytes_of_type.items()
    }
    time = sum(count / pace.operation_parts.get(name, 1.0) for name, count in weights.items())
    return pace.operations_per_s * (sum(weights.values()) / time if time else 1.0)


def tokens_seen(footprint: Footprint, configuration: Configuration, filled: int) -> list[int]:
    """Return how many tokens attention looks at in each layer, once so many are in the cache."""
    one = _with_filled(configuration, filled)
    seen = [0] * (footprint.layers + 1)
    for cache, layers in footprint.caches:
        for layer in layers:
            seen[layer] = cells_of(cache, one)  # the empty ones that fill a step too
    return seen
