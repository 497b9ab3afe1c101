"""How fast a configuration is: bytes a token over the rates of the memories, and what no byte says.

A decoded token reads every matrix that it uses, what the cache has of the context so far, and the
states, each from the memory where it is. Layers take turns, so the seconds of all memories add
up. A prompt is worked through in passes of `ubatch` tokens, which operations bound and not bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from snugfit.archs.cache import group_bytes, state_bytes, tokens_of_pass
from snugfit.core import Band, Configuration, Device, ModelSpec, Speed, SpeedPart
from snugfit.planning.memory import (
    IN_RAM,
    STREAMED_FROM_TOKENS,
    Footprint,
    block_of,
    place_of,
)
from snugfit.planning.pace import Pace

# What a prompt has filled of the context when a speed is said without naming it.
FILLED_TOKENS = 4096
# Part of its experts' reads that an expert cache answers, for the part of the experts that it has:
# part ** exponent. The bounds: chat and code by one model, long or multilingual text by others.
HIT_EXPONENTS = Band(low=0.6, middle=0.35, high=0.2)


@dataclass(frozen=True)
class Reads:
    """What one token reads and computes of a cut, for each layer; the output is the last.

    Bytes by type of the tensors. Of experts, those that one token uses; `all_experts` are what a
    pass of many tokens reads. Operations are multiplications and additions for one token.
    """

    dense: tuple[Mapping[str, int], ...]
    experts: tuple[Mapping[str, int], ...]
    all_experts: tuple[int, ...]
    dense_operations: tuple[int, ...]
    expert_operations: tuple[int, ...]


def reads_of(spec: ModelSpec, types: Mapping[str, str], sizes: Mapping[str, int]) -> Reads:
    """Return what a token reads of `spec` cut to `types`, whose tensors have `sizes` in bytes."""
    count = spec.layers + 1
    dense: list[dict[str, int]] = [{} for _ in range(count)]
    experts: list[dict[str, int]] = [{} for _ in range(count)]
    all_experts, dense_operations, expert_operations = [0] * count, [0] * count, [0] * count
    is_tied = "output.weight" not in sizes
    part = spec.experts_used / max(spec.experts, 1)
    for tensor in spec.tensors:
        name, type_name = tensor.name, types[tensor.name]
        size, operations = sizes[name], 2 * tensor.parameters
        layer, is_experts = block_of(name)
        if layer is not None and is_experts:
            used = round(size * part)
            all_experts[layer] += size
            experts[layer][type_name] = experts[layer].get(type_name, 0) + used
            expert_operations[layer] += round(operations * part)
            continue
        if layer is None:
            if not name.startswith("output") and not (is_tied and name == "token_embd.weight"):
                continue
            layer = spec.layers
        dense[layer][type_name] = dense[layer].get(type_name, 0) + size
        dense_operations[layer] += operations
    return Reads(
        tuple(dense),
        tuple(experts),
        tuple(all_experts),
        tuple(dense_operations),
        tuple(expert_operations),
    )


def dense_seconds(reads: Reads, pace: Pace) -> list[float]:
    """Return what one token takes for the matrices of each layer and the output."""
    return [_seconds(layer, pace, 1.0) + pace.layer_seconds for layer in reads.dense]


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
    """Return the bytes of cache and state that one token reads in each layer, the output's none."""
    one = replace(configuration, ctx=max(filled, 1), slots=1)
    sizes = [0] * (footprint.layers + 1)
    for layers, size in group_bytes(footprint.caches, one):
        for layer in layers:
            sizes[layer] += size
    for layer, size in state_bytes(footprint.states, one).items():
        sizes[layer] += size
    return sizes


def hit_rate(part: float, exponent: float) -> float:
    """Return the part of reads that a cache with `part` of the experts answers."""
    return min(part, 1.0) ** exponent if part > 0 else 0.0


def speed_of(
    footprint: Footprint,
    reads: Reads,
    configuration: Configuration,
    devices: Sequence[Device],
    paces: Sequence[Pace],
    filled: int | None = None,
) -> Speed:
    """Return the speed of `configuration` once `filled` tokens are in the cache.

    `paces` are those of `devices`, RAM last.
    """
    filled = min(configuration.ctx, FILLED_TOKENS if filled is None else filled)
    place = placed(footprint, configuration, devices)
    parts = _decode_parts(footprint, reads, configuration, devices, paces, place, filled)
    seconds = sum(part.seconds for part in parts)
    used = {paces[number] for number in place}
    used |= {paces[IN_RAM]} if configuration.cpu_expert_layers else set()
    band = max(pace.band for pace in used)
    prefill = tokens_of_pass(configuration) / _pass_seconds(
        reads, configuration, devices, paces, place
    )
    prefill_band = max(pace.prefill_band for pace in used)
    return Speed(
        decode_tokens_per_s=_band(1 / seconds, band),
        prefill_tokens_per_s=_band(prefill, prefill_band),
        filled_tokens=filled,
        basis="measured" if all(pace.basis == "measured" for pace in used) else "estimated",
        parts=tuple(parts),
    )


def _band(middle: float, band: float) -> Band:
    return Band(middle / (1 + band), middle, middle * (1 + band))


def placed(
    footprint: Footprint, configuration: Configuration, devices: Sequence[Device]
) -> list[int]:
    """Return the number of the device of every layer and the output, IN_RAM for RAM."""
    free = [device.free_bytes for device in devices[:-1]]
    return place_of(footprint.layers, configuration, free)


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
    in_ram = [layer < configuration.cpu_expert_layers for layer in range(len(place))]
    for number, (device, pace) in enumerate(zip(devices, paces, strict=True)):
        here = IN_RAM if number == len(devices) - 1 else number
        layers = [layer for layer, where in enumerate(place) if where == here]
        if layers:
            dense = dense_seconds(reads, pace)
            size = sum(sum(reads.dense[layer].values()) for layer in layers)
            seconds = sum(dense[layer] for layer in layers) + pace.token_seconds
            parts.append(SpeedPart(f"{device.name}: weights", size, seconds))
            size = sum(caches[layer] for layer in layers)
            parts.append(SpeedPart(f"{device.name}: cache", size, size / pace.cache_bytes_per_s))
        experts = [
            layer
            for layer, where in enumerate(place)
            if reads.experts[layer] and (IN_RAM if in_ram[layer] else where) == here
        ]
        if experts:
            each = expert_seconds(reads, pace)
            size = sum(sum(reads.experts[layer].values()) for layer in experts)
            seconds = sum(each[layer] for layer in experts)
            parts.append(SpeedPart(f"{device.name}: experts", size, seconds))
    crossings = sum(
        1
        for layer, where in enumerate(place)
        if in_ram[layer] and where != IN_RAM and reads.experts[layer]
    )
    if crossings:
        seconds = crossings * paces[IN_RAM].handover_seconds
        parts.append(SpeedPart("hand-over between GPU and RAM", 0, seconds))
    return parts


def _pass_seconds(
    reads: Reads,
    configuration: Configuration,
    devices: Sequence[Device],
    paces: Sequence[Pace],
    place: Sequence[int],
) -> float:
    """Return what a pass of a prompt takes: operations, and matrices streamed to the first GPU."""
    tokens = tokens_of_pass(configuration)
    streams = len(devices) > 1 and tokens >= STREAMED_FROM_TOKENS
    seconds = 0.0
    for layer, where in enumerate(place):
        pace = paces[where]
        seconds += tokens * reads.dense_operations[layer] / pace.operations_per_s
        experts_in_ram = where == IN_RAM or layer < configuration.cpu_expert_layers
        working = (
            paces[0] if streams and experts_in_ram else paces[IN_RAM if experts_in_ram else where]
        )
        seconds += tokens * reads.expert_operations[layer] / working.operations_per_s
        if streams and experts_in_ram:
            seconds += reads.all_experts[layer] / working.link_bytes_per_s
    return seconds
