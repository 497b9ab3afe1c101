"""The nouns that every part shares: frozen, without I/O, with units in their names."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from snugfit.quants.positions import Layout, Placed, placed
from snugfit.quants.types import TYPES, QuantType

# How a number came to be: derived from shapes, read off a run, or estimated within a band.
Basis = Literal["exact", "measured", "estimated"]
# A memory's read rate: timed here, taken from its maker's specification, or not known.
RateBasis = Literal["measured", "profile", "unknown"]


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of a model file. `shape` is [..., rows, columns]; GGUF stores it reversed."""

    name: str
    shape: tuple[int, ...]
    type_name: str

    @property
    def type(self) -> QuantType:
        return TYPES[self.type_name]

    @property
    def columns(self) -> int:
        return self.shape[-1]

    @property
    def rows(self) -> int:
        return math.prod(self.shape[:-1])

    @property
    def parameters(self) -> int:
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        return self.type.tensor_bytes(self.shape)


@dataclass(frozen=True)
class LayerCache:
    """One cache of a decoder layer: a row of keys and one of values a cell, widths in elements."""

    layer: int
    key_width: int
    value_width: int  # 0 where values are read out of the keys
    heads: int = 1  # that keys and values are split into; a quantized cache's blocks fill each
    window: int = 0  # latest tokens that it keeps; 0 keeps the whole context
    tokens_per_cell: int = 1  # more where tokens are compressed into one
    is_per_slot: bool = False  # slots never share it, not even a unified one
    is_index: bool = False  # of what another cache of the layer has


@dataclass(frozen=True)
class LayerState:
    """What one decoder layer keeps for every sequence, however long: float32 numbers."""

    layer: int
    numbers: int
    can_roll_back: bool = False  # keeps the states before the latest tokens too


@dataclass(frozen=True)
class ModelSpec:
    """A model as planning sees it: shapes and sizes, no data."""

    name: str
    architecture: str
    layers: int
    hidden_size: int
    context_length: int
    vocabulary: int
    heads: int
    experts: int  # 0 for a dense model
    experts_used: int
    caches: tuple[LayerCache, ...]
    tensors: tuple[TensorInfo, ...]
    file_bytes: int  # as it is stored: header, metadata and padding counted
    cache_basis: Basis = "exact"
    header_bytes: int = 0  # before the tensor data of a file cut from this model
    states: tuple[LayerState, ...] = ()
    borrowed: tuple[LayerCache, ...] = ()  # read by layers that have none, as their own would be
    first_heads: tuple[int, int] = (0, 0)  # of the first layer: of queries, of keys and values
    drafting: int = 0  # of the layers, the last, which only draft tokens
    is_original: bool = False  # safetensors: any GGUF file is yet to be written

    @cached_property
    def parameters(self) -> int:
        return sum(tensor.parameters for tensor in self.tensors)

    @cached_property
    def weights_bytes(self) -> int:
        return sum(tensor.size_bytes for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.weights_bytes / self.parameters

    @cached_property
    def layout(self) -> Layout:
        return Layout(
            self.architecture, self.layers, self.experts, *self.first_heads, self.drafting
        )

    @cached_property
    def placed(self) -> tuple[Placed, ...]:
        """The tensors, as mixes see them."""
        return placed([(t.name, t.shape, t.type_name) for t in self.tensors], self.layout)

    @property
    def is_quantized(self) -> bool:
        return any(tensor.type.is_quantized for tensor in self.tensors)


@dataclass(frozen=True)
class Holder:
    """A process that keeps part of a GPU's memory. Some drivers do not tell how much."""

    name: str
    used_bytes: int | None = None


@dataclass(frozen=True)
class Device:
    """A memory that holds weights and cache: one GPU, or the host's RAM."""

    name: str
    kind: Literal["gpu", "ram"]
    total_bytes: int
    free_bytes: int
    note: str = ""  # what limits it, or what holds the rest
    read_bytes_per_s: int | None = None  # how fast its own processors read it, all together
    read_basis: RateBasis = "unknown"
    link: str = ""  # to the host, as "PCIe 4.0 x16"
    link_bytes_per_s: int | None = None  # one way, before packet headers
    shares_ram: bool = False  # its memory is part of RAM, and not counted there
    holders: tuple[Holder, ...] = ()


@dataclass(frozen=True)
class Machine:
    """The memories of one computer. RAM is always there and always last."""

    name: str
    processor: str
    cores: int  # that we may use, hyper-threads not counted; 0 if nobody knows
    devices: tuple[Device, ...]

    @property
    def gpus(self) -> tuple[Device, ...]:
        return tuple(device for device in self.devices if device.kind == "gpu")

    @property
    def ram(self) -> Device:
        return self.devices[-1]


@dataclass(frozen=True)
class Configuration:
    """How a model is run; every field changes the bytes that it needs."""

    ctx: int
    kv_type: str = "F16"
    slots: int = 1
    ubatch: int = 512
    flash_attention: bool = True
    gpu_layers: int = 0  # llama.cpp's way: the output, then layers from the last; layers + 1: all
    cpu_expert_layers: int = 0  # the first N layers keep their experts in RAM
    kv_unified: bool = False  # one cache for all slots; else ctx is split into one a slot
    value_type: str = ""  # of cached values; empty: as the keys, which kv_type says
    swa_full: bool = False  # sliding windows keep the whole context
    rollback: int = 0  # tokens that recurrent states can take back: what a draft runs ahead
    gpu_split: tuple[int, ...] = ()  # of gpu_layers, how many each GPU has; empty: by free memory
    # Of the first GPU, for copies of the most used experts that are in RAM: --moe-cache-mib.
    expert_cache_bytes: int = 0


@dataclass(frozen=True)
class DeviceUse:
    """Bytes of one configuration on one device."""

    name: str
    kind: Literal["gpu", "ram"]
    weights_bytes: int
    kv_cache_bytes: int
    compute_bytes: int
    overhead_bytes: int
    free_bytes: int
    recurrent_state_bytes: int = 0
    margin_bytes: int = 0  # more that the compute buffer may need, at the end of its band

    @property
    def total_bytes(self) -> int:
        context = self.kv_cache_bytes + self.recurrent_state_bytes
        return self.weights_bytes + context + self.compute_bytes + self.overhead_bytes

    @property
    def needed_bytes(self) -> int:
        """What must be free so that it fits whatever the estimate is off."""
        return self.total_bytes + self.margin_bytes

    @property
    def fits(self) -> bool:
        return self.needed_bytes <= self.free_bytes

    @property
    def missing_bytes(self) -> int:
        return max(0, self.needed_bytes - self.free_bytes)


@dataclass(frozen=True)
class MemoryUse:
    """Bytes of one configuration, whole and per device. Estimated parts carry a relative band."""

    configuration: Configuration
    devices: tuple[DeviceUse, ...]
    file_bytes: int
    kv_basis: Basis = "exact"
    compute_basis: Basis = "estimated"
    compute_band: float = 0.0  # 0.2 says: at most 20 % more; less too, in planning.memory

    @property
    def weights_bytes(self) -> int:
        return sum(device.weights_bytes for device in self.devices)

    @property
    def kv_cache_bytes(self) -> int:
        return sum(device.kv_cache_bytes for device in self.devices)

    @property
    def recurrent_state_bytes(self) -> int:
        return sum(device.recurrent_state_bytes for device in self.devices)

    @property
    def compute_bytes(self) -> int:
        return sum(device.compute_bytes for device in self.devices)

    @property
    def overhead_bytes(self) -> int:
        return sum(device.overhead_bytes for device in self.devices)

    @property
    def total_bytes(self) -> int:
        return sum(device.total_bytes for device in self.devices)

    @property
    def fits(self) -> bool:
        return all(device.fits for device in self.devices)


@dataclass(frozen=True)
class Band:
    """A number that is predicted, and the bounds that it keeps in nine of ten cases."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class SpeedPart:
    """What one token waits for: weights, cache or state of one memory, or work without bytes."""

    what: str  # "RTX 4090: weights", "RAM: experts", "hand-over"
    size_bytes: int  # read for one token
    seconds: float


@dataclass(frozen=True)
class Speed:
    """How fast one configuration is, once `filled_tokens` are in the cache."""

    decode_tokens_per_s: Band
    prefill_tokens_per_s: Band
    filled_tokens: int
    basis: Basis  # "measured" once `snugfit bench` has calibrated this machine
    parts: tuple[SpeedPart, ...]  # whose seconds sum to one decoded token


@dataclass(frozen=True)
class Plan:
    """A choice that fits, and why it was made."""

    model: str
    mix: str  # a row of quants.recipes, or "as it is" for a file that is not cut again
    tensor_types: dict[str, str]  # tensor name -> type name
    file_bytes: int  # predicted; the file written has exactly as many
    bits_per_weight: float
    memory: MemoryUse
    reasons: tuple[str, ...]
    layers: int = 0
    speed: Speed | None = None
    expected_loss: float = 0.0  # KL divergence from the original, nats a token, by bits a weight


@dataclass(frozen=True)
class Score:
    """How a model does on held-out text, and how far it is from its original."""

    tokens: int
    perplexity: float
    perplexity_error: float  # standard error
    reference_perplexity: float | None = None
    divergence: float | None = None  # mean KL divergence from the reference, nats a token
    divergence_error: float | None = None  # standard error
    divergence_99: float | None = None  # 99th percentile
    top1_agreement: float | None = None  # share of tokens whose likeliest next token is the same


@dataclass(frozen=True)
class Answer:
    """What a run gave back, what it took, and what the engine said that it allocated."""

    text: str
    prompt_tokens: int
    generated_tokens: int
    prompt_seconds: float
    generated_seconds: float
    # Part -> bytes: weights, kv_cache, compute.
    allocated: dict[str, int] = field(default_factory=dict)
    # Ids of the generated tokens; empty when the engine did not tell them.
    tokens: tuple[int, ...] = ()

    @property
    def tokens_per_second(self) -> float:
        return self.generated_tokens / self.generated_seconds if self.generated_seconds else 0.0
