"""How fast an engine works through a token on one memory: typical of its kind, or measured here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from snugfit.core import Basis, Device


@dataclass(frozen=True, eq=False)
class Pace:
    """What the processors of one memory reach with one engine."""

    bytes_per_s: float  # of matrices
    type_parts: Mapping[str, float]  # of that rate, by type of the weights; others reach all
    expert_part: float  # of that rate on experts, whose matrices are small
    cache_bytes_per_s: float
    layer_seconds: float  # of every layer, whatever its bytes
    expert_layer_seconds: float  # more for a layer with experts
    token_seconds: float  # once a token
    handover_seconds: float  # of RAM: a layer's experts there, its attention on a GPU
    operations_per_s: float  # of matrices times many tokens
    link_bytes_per_s: float  # from RAM, for matrices that are streamed
    band: float  # of decoding, relative
    prefill_band: float
    basis: Basis


@dataclass(frozen=True)
class Typical:
    """What is usual for a kind of processor, as parts of a memory's read rate."""

    weights: float
    experts: float
    cache: float
    layer_seconds: float
    expert_layer_seconds: float
    token_seconds: float
    operations_per_byte: float  # of the read rate, for prompts
    band: float
    prefill_band: float
    types: Mapping[str, float] = field(default_factory=dict)


TYPICAL = {
    "gpu": Typical(0.78, 0.78, 0.78, 40e-6, 30e-6, 0.2e-3, 60, 0.25, 0.5),
    "ram": Typical(0.85, 0.85, 0.85, 5e-6, 5e-6, 0.2e-3, 10, 0.25, 0.5),
}
HANDOVER_SECONDS = 0.2e-3
# Of memories whose read rate nobody told: good for an order of configurations, not for a speed.
ASSUMED_BYTES_PER_S = {"gpu": 450e9, "ram": 50e9}
ASSUMED_LINK_BYTES_PER_S = 16e9
LINK_PART = 0.8


def paces_of(devices: Sequence[Device]) -> tuple[Pace, ...]:
    """Return the pace of every device, RAM last."""
    return tuple(typical_pace(device) for device in devices)


def typical_pace(device: Device) -> Pace:
    typical = TYPICAL[device.kind]
    rate = device.read_bytes_per_s or ASSUMED_BYTES_PER_S[device.kind]
    return Pace(
        bytes_per_s=typical.weights * rate,
        type_parts=typical.types,
        expert_part=typical.experts / typical.weights,
        cache_bytes_per_s=typical.cache * rate,
        layer_seconds=typical.layer_seconds,
        expert_layer_seconds=typical.expert_layer_seconds,
        token_seconds=typical.token_seconds,
        handover_seconds=HANDOVER_SECONDS,
        operations_per_s=typical.operations_per_byte * rate,
        link_bytes_per_s=LINK_PART * (device.link_bytes_per_s or ASSUMED_LINK_BYTES_PER_S),
        band=typical.band,
        prefill_band=typical.prefill_band,
        basis="estimated",
    )
