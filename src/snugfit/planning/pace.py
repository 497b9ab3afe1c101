"""How fast an engine works through a token on one memory: typical of its kind, or measured here.

docs/speed.md says where the numbers come from, and how far off they are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from snugfit.core import Basis, Device
from snugfit.hardware import profiles
from snugfit.quants.types import TYPES


@dataclass(frozen=True, eq=False)
class Pace:
    """What the processors of one memory reach with one engine."""

    bytes_per_s: float  # of matrices
    type_parts: Mapping[str, float]  # of that rate, by type of the weights; others reach all
    expert_part: float  # of that rate on experts, whose matrices are small
    cache_bytes_per_s: float
    layer_seconds: float  # of a plain layer, whatever its bytes: nine tensors; others in proportion
    expert_layer_seconds: float  # more for a layer with experts
    token_seconds: float  # once a token
    handover_seconds: float  # of RAM: a layer's experts there, its attention on a GPU
    operations_per_s: float  # of matrices times many tokens
    link_bytes_per_s: float  # from RAM, for matrices that are streamed
    band: float  # of decoding, relative
    prefill_band: float
    basis: Basis
    state_layer_seconds: float = 0.0  # more for a layer that scans: Mamba, a delta net
    expert_operations_part: float = 1.0  # of the operations, on experts: fewer tokens for each
    # Measured machines only. Processors do not read a cache as fast as they do matrices: each head
    # takes time for every token that it looks at, and for every operation on it; each key and value
    # head takes time to fetch its part of a token, which lies apart from the next one's.
    score_seconds: float = 0.0
    row_seconds: float = 0.0
    attention_operations_per_s: float = math.inf
    prompt_attention_operations_per_s: float = 0.0  # 0: as with matrices
    operation_parts: Mapping[str, float] = field(default_factory=dict)  # by type; others: all


@dataclass(frozen=True)
class Typical:
    """What is usual for a kind of processor. Parts are of a memory's rate as specified."""

    weights: float
    layer_seconds: float
    expert_layer_seconds: float
    state_layer_seconds: float
    operations: float  # part of the 32-bit operations as specified, for prompts; more: by matrices
    operations_per_byte: float  # of the memory's rate, where nobody specifies operations
    band: float
    operations_per_weight: float = 0.0  # that decoding takes; 0: never more than it has
    type_parts: Mapping[str, float] = field(default_factory=dict)


# Types whose blocks take longer to unpack than their few bytes to read.
ON_GPU = dict.fromkeys(("Q2_K", "Q3_K", "IQ3_XXS", "IQ3_S"), 0.75) | dict.fromkeys(
    ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S"), 0.7
)
ON_CPU = dict.fromkeys(("IQ4_NL", "IQ4_XS", "Q2_K", "Q3_K"), 0.9) | dict.fromkeys(
    ("IQ3_XXS", "IQ3_S", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S"), 0.6
)
US = 1e-6
# weights, microseconds of a layer, of one with experts, of one that scans; operations and band.
TYPICAL = {
    "nvidia": Typical(0.84, 36 * US, 20 * US, 15 * US, 1.8, 65, 0.35, type_parts=ON_GPU),
    # Before Turing integers and floats take turns, and nothing is launched as a graph.
    "pascal": Typical(
        0.85, 130 * US, 40 * US, 60 * US, 0.8, 20, 0.5, operations_per_weight=30, type_parts=ON_GPU
    ),
    # One token keeps too few reads under way for memories as wide as these.
    "hbm": Typical(0.5, 36 * US, 20 * US, 15 * US, 3.5, 65, 0.6, type_parts=ON_GPU),
    "instinct": Typical(0.5, 58 * US, 33 * US, 130 * US, 0.5, 30, 0.6, type_parts=ON_GPU),
    # A large GPU on the processor's memory: GB10, Jetson, Strix Halo.
    "shared": Typical(0.72, 34 * US, 25 * US, 15 * US, 1.5, 100, 0.35, type_parts=ON_GPU),
    "amd": Typical(0.85, 58 * US, 33 * US, 130 * US, 0.5, 30, 0.6, type_parts=ON_GPU),
    "apple": Typical(
        0.9, 65 * US, 70 * US, 135 * US, 0.65, 20, 0.35, operations_per_weight=30, type_parts=ON_GPU
    ),
    "intel": Typical(0.75, 200 * US, 70 * US, 200 * US, 0.6, 18, 0.5, type_parts=ON_GPU),
    "ram": Typical(0.8, 30 * US, 10 * US, 30 * US, 1.0, 12, 0.3, type_parts=ON_CPU),
}
# The first pattern that a GPU's name has says its kind; one without a name is taken for NVIDIA's.
KINDS: Sequence[tuple[str, str]] = (
    (r"GB10|DGX Spark|Jetson|Ryzen AI|Strix|8060S", "shared"),
    (r"GTX 10\d\d|Tesla P(4|40)\b|Quadro P", "pascal"),
    (r"\b(P100|V100|A30|A100|H100|H200|GH200|B200)\b", "hbm"),
    (r"Instinct", "instinct"),
    (r"Apple", "apple"),
    (r"AMD|Radeon|gfx\d", "amd"),
    (r"Intel|Arc\b", "intel"),
)
# Read tests see this part of a rate as specified.
READ_TEST_PART = {"gpu": 0.92, "ram": 0.84}
# Of a memory that is wide for the sake of its GPU, what the processors beside it reach.
PROCESSOR_PART, PROCESSOR_OPERATIONS_PART = 0.4, 0.15
EXPERT_PART, CACHE_PART, LINK_PART = 1.0, 0.75, 0.85
TOKEN_SECONDS, HANDOVER_SECONDS = 0.2e-3, 0.2e-3
EXPERT_OPERATIONS_PART = 0.5
PREFILL_BAND = 1.0  # half to twice
# Of memories whose read rate nobody told: good for an order of configurations, not for a speed.
ASSUMED_BYTES_PER_S = {"gpu": 450e9, "ram": 60e9}
ASSUMED_BAND = 1.0
ASSUMED_LINK_BYTES_PER_S = 16e9


def paces_of(devices: Sequence[Device]) -> tuple[Pace, ...]:
    """Return the pace of every device, RAM last."""
    *gpus, ram = (typical_pace(device) for device in devices)
    beside = [gpu for gpu, device in zip(gpus, devices, strict=False) if device.shares_ram]
    return (*gpus, _beside_gpu(ram, beside[0]) if beside else ram)


def _beside_gpu(ram: Pace, gpu: Pace) -> Pace:
    """Return the pace of processors whose memory is wide for the GPU's sake.

    Nobody has measured that a layer costs them less than the GPU, and nobody places layers so.
    """
    return replace(
        ram,
        bytes_per_s=PROCESSOR_PART * ram.bytes_per_s,
        cache_bytes_per_s=PROCESSOR_PART * ram.cache_bytes_per_s,
        operations_per_s=PROCESSOR_OPERATIONS_PART * ram.operations_per_s,
        layer_seconds=max(ram.layer_seconds, gpu.layer_seconds),
        expert_layer_seconds=max(ram.expert_layer_seconds, gpu.expert_layer_seconds),
        state_layer_seconds=max(ram.state_layer_seconds, gpu.state_layer_seconds),
    )


def kind_of(device: Device) -> str:
    """Return the key of TYPICAL that fits a device."""
    if device.kind == "ram":
        return "ram"
    found = (kind for pattern, kind in KINDS if re.search(pattern, device.name))
    return next(found, "nvidia")


def typical_pace(device: Device, typical: Typical | None = None) -> Pace:
    """Return the pace of a device as usual for its kind, or as `typical` has it."""
    typical = typical or TYPICAL[kind_of(device)]
    rate = float(device.read_bytes_per_s or ASSUMED_BYTES_PER_S[device.kind])
    if device.read_basis == "measured":
        rate /= READ_TEST_PART[device.kind]
    operations = _operations(device)
    return Pace(
        bytes_per_s=typical.weights * rate,
        type_parts=_type_parts(typical, typical.weights * rate, operations),
        expert_part=EXPERT_PART,
        cache_bytes_per_s=CACHE_PART * rate,
        layer_seconds=typical.layer_seconds,
        expert_layer_seconds=typical.expert_layer_seconds,
        token_seconds=TOKEN_SECONDS,
        handover_seconds=HANDOVER_SECONDS,
        operations_per_s=typical.operations * operations
        if operations
        else typical.operations_per_byte * rate,
        link_bytes_per_s=LINK_PART * (device.link_bytes_per_s or ASSUMED_LINK_BYTES_PER_S),
        band=typical.band if device.read_bytes_per_s else ASSUMED_BAND,
        prefill_band=PREFILL_BAND,
        basis="estimated",
        state_layer_seconds=typical.state_layer_seconds,
        expert_operations_part=EXPERT_OPERATIONS_PART,
    )


def _operations(device: Device) -> float:
    """Return the 32-bit operations a second that the maker specifies of a GPU, or 0."""
    if device.kind != "gpu" or not device.read_bytes_per_s:
        return 0.0  # nobody knows which it is
    profile = profiles.lookup(device.name, device.total_bytes)
    return profile.operations_per_s if profile else 0.0


def _type_parts(typical: Typical, rate: float, operations: float) -> Mapping[str, float]:
    """Lower the parts of types that have more weights a byte than the processor can unpack."""
    if not typical.operations_per_weight or not operations:
        return typical.type_parts
    weights_per_s = operations / typical.operations_per_weight
    parts = {}
    for name, row in TYPES.items():
        if row.is_quantized:
            unpacked = weights_per_s * row.block_bytes / row.block_weights / rate
            parts[name] = min(typical.type_parts.get(name, 1.0), unpacked)
    return parts
