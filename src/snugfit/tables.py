"""The tables that people publish: how much memory each quantization needs at each context.

Their two columns are defined here by what was measured, see `definitions`: minimum is a card on
which nothing else runs, safer one with a desktop on it. Both are memories that GPUs are sold with.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from snugfit.core import Basis, Configuration, Device, DeviceUse, ModelSpec
from snugfit.errors import UnsupportedError, UsageError
from snugfit.formats.hub_files import MIX
from snugfit.hardware import profiles
from snugfit.hardware.named import DRIVER_BYTES, SYSTEM_BYTES
from snugfit.planning.axes import Goal
from snugfit.planning.cuts import AS_IT_IS, Cut, cuts_of
from snugfit.planning.memory import GPU_OVERHEAD_BYTES, Footprint, use_of
from snugfit.units import GIB, MIB, format_size

USUAL_CONTEXTS = (8192, 32768, 131072)
# The most of three cards with a desktop: 3945 MiB of an RTX 4090 were not the model's (a log in
# llama.cpp's tools/fit-params/README.md), 2183 of a 5090, both with the engine's context; 490 of a
# 3060 were the desktop's alone.
DESKTOP_BYTES = 3945 * MIB - GPU_OVERHEAD_BYTES
# Memories that computers are sold with.
RAM_SIZES = tuple(
    GIB * size
    for size in (8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
)
# What people play and work with; datacenter cards are named only where nobody else has the size.
COMMON_LINES = ("NVIDIA GeForce", "AMD Radeon RX", "Intel Arc")
MAKER = re.compile(r"^(?:NVIDIA (?:GeForce )?|AMD (?:Radeon )?|Intel )")
LONGEST_LABEL = 64


@dataclass(frozen=True)
class Cards:
    """GPUs that can be bought or rented: one, or a server of several alike."""

    gpus: int
    size_bytes: int  # of each

    @property
    def label(self) -> str:
        """As people write it, in GiB: `24`, `8×80`."""
        size = str(self.size_bytes // GIB)
        return size if self.gpus == 1 else f"{self.gpus}×{size}"


@dataclass(frozen=True)
class Need:
    """What one file needs at one context, its layers on one GPU. None: nothing has so much."""

    ctx: int
    gpu_weights_bytes: int
    gpu_cache_bytes: int  # KV cache and recurrent state
    gpu_compute_bytes: int
    gpu_overhead_bytes: int
    gpu_bytes: int  # their sum
    gpu_safer_bytes: int  # with a desktop, and the compute buffer at the upper end of its band
    ram_bytes: int
    minimum: Cards | None
    safer: Cards | None
    ram_size_bytes: int | None


@dataclass(frozen=True)
class Row:
    """One file, that exists or that the model can be cut to. A need each context."""

    quantization: str
    bits_per_weight: float
    file_bytes: int
    whole: tuple[Need, ...]
    experts_in_ram: tuple[Need, ...]  # empty for a dense model


@dataclass(frozen=True)
class Tables:
    """All of it; terminal, Markdown, CSV, HTML and JSON show this one object."""

    model: str
    architecture: str
    parameters: int
    layers: int
    context_length: int  # in training
    kv_type: str
    contexts: tuple[int, ...]
    desktop_bytes: int
    compute_band: float
    cache_basis: Basis
    note: str  # where the model's shapes came from, unless from a file here
    rows: tuple[Row, ...]

    @property
    def has_experts(self) -> bool:
        return any(row.experts_in_ram for row in self.rows)

    @property
    def cards(self) -> list[Cards]:
        """All that the rows name, smallest first."""
        needs = [need for row in self.rows for need in (*row.whole, *row.experts_in_ram)]
        named = {cards for need in needs for cards in (need.minimum, need.safer) if cards}
        return sorted(named, key=lambda cards: cards.gpus * cards.size_bytes)


def tables_of(
    name: str,
    specs: Mapping[str, ModelSpec],
    *,
    contexts: Sequence[int] = (),
    kv_type: str = "F16",
    mixes: Sequence[str] = (),
    desktop_bytes: int = DESKTOP_BYTES,
    note: str = "",
) -> Tables:
    """Return what each file of a model needs: `specs` are the files by what picks them, or the one.

    One model that is not quantized has a row for every mix that it can be cut to; `mixes` names
    those wanted. Without `contexts` they are the usual ones; 0 is the model's own limit. Raises
    UsageError, and UnsupportedError for a mix or a type of cache that cannot be had.
    """
    first = next(iter(specs.values()))
    if any(ctx < 0 for ctx in contexts):
        raise UsageError("a context is a number of tokens; 0 is the model's own limit.")
    wanted = sorted({ctx or first.context_length for ctx in contexts})
    lengths = tuple(wanted or usual_contexts(first.context_length))
    cuts = _cuts(specs, mixes)
    configurations = [Configuration(ctx, kv_type.upper()) for ctx in lengths]
    footprint = next(iter(cuts.values())).footprint
    band = use_of(footprint, _on_gpus(footprint, configurations[0]), _devices(1)).compute_band
    return Tables(
        model=name,
        architecture=first.architecture,
        parameters=first.parameters,
        layers=first.layers,
        context_length=first.context_length,
        kv_type=kv_type.upper(),
        contexts=lengths,
        desktop_bytes=desktop_bytes,
        compute_band=band,
        cache_basis=first.cache_basis,
        note=note,
        rows=tuple(
            _row(label, cut, configurations, desktop_bytes)
            for label, cut in sorted(cuts.items(), key=lambda one: -one[1].file_bytes)
        ),
    )


def usual_contexts(limit: int) -> list[int]:
    """Return the contexts below the model's own, and that one in place of the longer ones."""
    below = [ctx for ctx in USUAL_CONTEXTS if ctx < limit]
    return below if len(below) == len(USUAL_CONTEXTS) else [*below, limit]


def _cuts(specs: Mapping[str, ModelSpec], mixes: Sequence[str]) -> dict[str, Cut]:
    """Return what there is to choose from, by its name."""
    if len(specs) == 1:
        spec = next(iter(specs.values()))
        goals = [Goal(mix=mix) for mix in mixes] or [Goal()]
        cuts = [cut for goal in goals for cut in cuts_of(spec, goal)]
        return {_label(cut.mix, spec.name): cut for cut in cuts}
    wanted = {mix.upper() for mix in mixes}
    missing = wanted - {pick.upper() for pick in specs}
    if missing:
        raise UnsupportedError(
            f"no file is of the mix {min(missing)}. There are: {', '.join(specs)}."
        )
    return {
        pick: cuts_of(spec, Goal(mix=AS_IT_IS))[0]
        for pick, spec in specs.items()
        if not wanted or pick.upper() in wanted
    }


def _label(mix: str, name: str) -> str:
    """Return the mix, of a file that is taken as it is the one that its name tells."""
    told = MIX.findall(name[-LONGEST_LABEL:]) if mix == AS_IT_IS else []
    return told[-1].upper() if told else mix


def _row(label: str, cut: Cut, configurations: Sequence[Configuration], desktop_bytes: int) -> Row:
    footprint = cut.footprint

    def needs(expert_layers: int) -> tuple[Need, ...]:
        return tuple(
            _need(footprint, _on_gpus(footprint, one, expert_layers), desktop_bytes)
            for one in configurations
        )

    has_experts = any(footprint.weights.experts)
    return Row(
        quantization=label,
        bits_per_weight=cut.bits_per_weight,
        file_bytes=cut.file_bytes,
        whole=needs(0),
        experts_in_ram=needs(footprint.layers) if has_experts else (),
    )


def _on_gpus(
    footprint: Footprint, configuration: Configuration, expert_layers: int = 0
) -> Configuration:
    return Configuration(
        configuration.ctx,
        configuration.kv_type,
        gpu_layers=footprint.layers + 1,
        cpu_expert_layers=expert_layers,
    )


def _need(footprint: Footprint, configuration: Configuration, desktop_bytes: int) -> Need:
    use = use_of(footprint, configuration, _devices(1))
    gpu, ram = use.devices
    system = SYSTEM_BYTES["unified"]
    return Need(
        ctx=configuration.ctx,
        gpu_weights_bytes=gpu.weights_bytes,
        gpu_cache_bytes=gpu.kv_cache_bytes + gpu.recurrent_state_bytes,
        gpu_compute_bytes=gpu.compute_bytes,
        gpu_overhead_bytes=gpu.overhead_bytes,
        gpu_bytes=gpu.total_bytes,
        gpu_safer_bytes=_safer(gpu, use.compute_band, desktop_bytes),
        ram_bytes=ram.total_bytes,
        minimum=_smallest(footprint, configuration, None),
        safer=_smallest(footprint, configuration, desktop_bytes),
        ram_size_bytes=next((size for size in RAM_SIZES if ram.total_bytes + system <= size), None),
    )


def _safer(gpu: DeviceUse, band: float, desktop_bytes: int) -> int:
    return gpu.total_bytes + math.ceil(band * gpu.compute_bytes) + desktop_bytes


def _smallest(
    footprint: Footprint, configuration: Configuration, desktop_bytes: int | None
) -> Cards | None:
    """Return the smallest cards that hold a configuration, the first with a desktop unless None."""
    needed: dict[int, list[int]] = {}  # by how many GPUs share it
    for cards in cards_sold():
        if cards.gpus not in needed:
            use = use_of(footprint, configuration, _devices(cards.gpus))
            gpus, band = use.devices[:-1], use.compute_band
            needed[cards.gpus] = (
                [gpu.total_bytes for gpu in gpus]
                if desktop_bytes is None
                else [_safer(gpu, band, 0 if at else desktop_bytes) for at, gpu in enumerate(gpus)]
            )
        if max(needed[cards.gpus]) <= cards.size_bytes - DRIVER_BYTES:
            return cards
    return None


@cache
def _devices(gpus: int) -> tuple[Device, ...]:
    """Return GPUs of one size, so that each gets as many layers; the size itself plays no part."""
    gpu = Device("GPU", "gpu", GIB, GIB)
    return (*[gpu] * gpus, Device("RAM", "ram", GIB, GIB))


@cache
def cards_sold() -> tuple[Cards, ...]:
    """Return every memory that one GPU is sold with, then the larger servers that clouds rent."""
    rows = profiles.rows()
    single = {size for row in rows if row.kind == "gpu" for size in row.memory_bytes}
    servers = {
        (row.gpus * row.memory_bytes[0], row.gpus, row.memory_bytes[0])
        for row in rows
        if row.kind == "cloud" and row.gpus * row.memory_bytes[0] > max(single)
    }
    return (
        *(Cards(1, size) for size in sorted(single)),
        *(Cards(gpus, size) for _, gpus, size in sorted(servers)),
    )


def examples_of(cards: Cards) -> list[str]:
    """Return GPUs or servers that have exactly this, the newest of each common line."""
    if cards.gpus > 1:
        return [
            row.name
            for row in profiles.rows()
            if row.kind == "cloud"
            and (row.gpus, row.memory_bytes[0]) == (cards.gpus, cards.size_bytes)
        ][-3:]
    names = [
        row.name
        for row in profiles.rows()
        if row.kind == "gpu" and cards.size_bytes in row.memory_bytes and "Laptop" not in row.name
    ]
    lines = ([name for name in names if name.startswith(line)] for line in COMMON_LINES)
    common = [named[-1] for named in lines if named] or names[-2:]
    return [MAKER.sub("", name) for name in common]


def definitions(tables: Tables) -> dict[str, str]:
    """Return what each column holds, by its heading, in sentences that stand under a table."""
    told = {
        "bits": "a weight, of all weights.",
        "GiB": "2^30 bytes, in every column. The Hub lists files in GB, 10^9 bytes: "
        "1 GiB is 1.074 GB.",
        "GiB at a context": "what the model takes of a GPU that has all layers, for one request at "
        "a time: weights (token embeddings are looked up in RAM), KV cache in "
        f"{tables.kv_type.lower()} and states, a compute buffer (estimated within "
        f"{tables.compute_band:.0%}), and {format_size(GPU_OVERHEAD_BYTES)} for the driver's "
        "context and libraries, of which 140 to 370 MiB were measured.",
        "min": "the smallest memory that GPUs are sold with in which that fits on a card without a "
        f"desktop, beside {format_size(DRIVER_BYTES)} that a driver never hands out.",
        "safer": f"the same with {format_size(tables.desktop_bytes)} for a desktop and other "
        "programs, and the compute buffer at the upper end of its estimate. On three cards with a "
        "desktop 0.5, 1.8 and 3.5 GiB were measured; nvidia-smi shows yours, --desktop sets it.",
    }
    servers = [cards for cards in tables.cards if cards.gpus > 1]
    if servers:
        told[servers[0].label] = (
            "no single GPU is sold that holds it: layers are split over the GPUs of a server."
        )
    if tables.has_experts:
        told["experts in RAM"] = (
            "all layers on the GPU but the experts' matrices, llama.cpp's -ncmoe "
            f"{tables.layers}: slower, but for far less GPU memory. RAM is what that takes, at the "
            "longest of the contexts, and the smallest usual memory that holds it beside "
            f"{format_size(SYSTEM_BYTES['unified'])} for the system."
        )
    told["not counted"] = "a vision projector, a draft model, and prompts that a server keeps."
    if max(tables.contexts) > tables.context_length:
        told["too long"] = f"the model was trained for {tables.context_length:,} tokens at most."
    if tables.cache_basis != "exact":
        told["estimated"] = (
            f"the architecture {tables.architecture} has no rule here yet: its cache is estimated "
            "from its matrices."
        )
    return told
