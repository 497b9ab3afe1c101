"""The bytes of one configuration on every device, as llama.cpp places and allocates them.

| part | basis | from |
|---|---|---|
| weights | exact | tensor shapes and types, placed by llama.cpp's rules |
| KV cache, recurrent state | exact for architectures in the table | archs.cache |
| compute | estimated | the largest live activations of one micro-batch, see `Graph` |
| overhead | estimated | constants below; what a GPU unpacks of a quantized cache |

A configuration without GPU layers leaves the GPUs alone: run it with llama.cpp's `--device none`.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from snugfit.archs.cache import (
    CacheGroups,
    cache_bytes,
    cells_of,
    group_bytes,
    grouped,
    layer_bytes,
    state_bytes,
    tokens_of_pass,
)
from snugfit.core import (
    Basis,
    Configuration,
    Device,
    DeviceUse,
    LayerCache,
    LayerState,
    Machine,
    MemoryUse,
    ModelSpec,
    TensorInfo,
)
from snugfit.errors import UsageError
from snugfit.formats.gguf import padded
from snugfit.planning.compute import (
    BAND,
    BLOCK_NAME,
    FLOAT_BYTES,
    HALF_BYTES,
    Graph,
    band_of,
    busiest_bytes,
    gpu_bytes,
    graph_of,
    host_bytes,
)
from snugfit.quants.types import TYPES
from snugfit.units import MIB

# Driver, context and libraries on an NVIDIA card without a desktop: 140-370 MiB are reported.
GPU_OVERHEAD_BYTES = 330 * MIB
# The engine's process before a model is loaded, measured at 23 MiB without its server.
HOST_OVERHEAD_BYTES = 32 * MIB
# A token in the engine's tables: its text, its way back, and its rank in a merge.
TOKEN_BYTES = 256
# llama.cpp keeps this many copies of a graph's inputs when several GPUs work in a pipeline.
PIPELINE_COPIES = 4
# Matrices in RAM are copied to the GPU, one while the next arrives, for batches of so many tokens.
STREAMED_MATRICES, STREAMED_FROM_TOKENS = 2, 32

# How much more a buffer may be. Public logs of a whole model on one GPU agree within 6 %
# (tests/measured_rows.py), llama.cpp's scheduler for several GPUs within 7 % (tests/planning/
# test_gpu_splits.py). With experts in RAM it has 6 % more, and 11 to 29 % on the second card of
# DeepSeek-V4, whose graph has a wider band; with layers in RAM 20 %. It may have half as much too:
# where one matrix of two is gone in time depends on the release, the model and the placement.
# A band on the CPU is the graph's own. Unknown architectures have parts of their own.
GPU_BAND, EXPERTS_BAND, LAYERS_BAND, UNKNOWN_BAND = 0.1, 0.15, 0.25, 0.5

# Types that the engine rearranges for processors with AVX2. An embedding that serves as output
# matrix too is kept both ways: rows are looked up in it as it was.
REPACKED_TYPES = ("Q4_0", "Q4_K", "IQ4_NL", "MXFP4")
REPACKED_ROWS = 8

EXPERTS_NAME = re.compile(r"ffn_(up|down|gate|gate_up)_(ch)?exps\..*")
IN_RAM = -1  # in place of a GPU's number


@dataclass(frozen=True)
class Weights:
    """Bytes of a model's tensors, by where llama.cpp can put them. One number a layer in tuples."""

    dense: tuple[int, ...]
    experts: tuple[int, ...]
    embedding: int
    output: int  # the output matrix and its norm; the embedding again where it serves as output
    is_tied: bool
    is_kept_twice: bool  # in RAM: the embedding as it is, and rearranged as output
    other: int
    largest_dense: int
    largest_experts: int
    file_bytes: int
    drafting: frozenset[int] = frozenset()  # layers that only predict further tokens


@dataclass(frozen=True)
class Footprint:
    """All of a model that `use_of` needs: computed once, then asked for many configurations."""

    weights: Weights
    graph: Graph
    caches: CacheGroups
    states: tuple[LayerState, ...]
    cache_basis: Basis
    borrowed: tuple[tuple[LayerCache, int], ...] = ()  # and the layer that keeps it

    @property
    def layers(self) -> int:
        return len(self.weights.dense)


def predict(spec: ModelSpec, configuration: Configuration, machine: Machine) -> MemoryUse:
    """Return the bytes of `configuration` on each device of `machine`, whether or not they fit.

    Raises UsageError for a configuration that llama.cpp refuses, UnsupportedError for a cache type
    that does not fit the heads.
    """
    return use_of(footprint_of(spec), configuration, machine.devices)


def footprint_of(spec: ModelSpec) -> Footprint:
    sizes = {tensor.name: tensor.size_bytes for tensor in spec.tensors}
    weights = weights_of(sizes, spec.layers, file_bytes=spec.file_bytes)
    repacked = any(
        tensor.type_name in REPACKED_TYPES and tensor.rows % REPACKED_ROWS == 0
        for tensor in spec.tensors
        if tensor.name == "token_embd.weight"
    )
    return Footprint(
        weights=replace(weights, is_kept_twice=weights.is_tied and repacked),
        graph=graph_of(spec),
        caches=grouped(spec.caches),
        states=spec.states,
        cache_basis=spec.cache_basis,
        borrowed=_borrowed(spec),
    )


def _borrowed(spec: ModelSpec) -> tuple[tuple[LayerCache, int], ...]:
    """Return what layers read of the last cache of their kind, and the layer that has it."""
    owners = {bool(cache.window): cache.layer for cache in spec.caches}
    return tuple((cache, owners[bool(cache.window)]) for cache in spec.borrowed)


def cut_footprint(original: Footprint, spec: ModelSpec, sizes: Mapping[str, int]) -> Footprint:
    """Return the footprint of a cut of `spec` whose tensors have `sizes`, in bytes by name.

    No mix stores an output matrix in a type that processors rearrange.
    """
    file_bytes = spec.header_bytes + sum(map(padded, sizes.values()))
    return replace(original, weights=weights_of(sizes, spec.layers, file_bytes=file_bytes))


@functools.lru_cache(maxsize=8192)
def block_of(name: str) -> tuple[int | None, bool]:
    """Return the layer of a tensor, None outside of layers, and whether it is one of experts."""
    match = BLOCK_NAME.fullmatch(name)
    if match is None:
        return None, False
    return int(match[1]), EXPERTS_NAME.fullmatch(match[2]) is not None


def weights_of(sizes: Mapping[str, int], layers: int, *, file_bytes: int) -> Weights:
    """Sort tensors, given as name -> bytes, by where they can be placed."""
    dense, experts = [0] * layers, [0] * layers
    embedding = output = norm = other = largest_dense = largest_experts = 0
    drafting = set()
    for name, size in sizes.items():
        layer, is_experts = block_of(name)
        if layer is not None and ".nextn." in name:
            drafting.add(layer)
        if layer is not None and is_experts:
            experts[layer] += size
            largest_experts = max(largest_experts, size)
        elif layer is not None:
            dense[layer] += size
            largest_dense = max(largest_dense, size)
        elif name == "token_embd.weight":
            embedding += size
        elif name == "output.weight":
            output += size
        elif name == "output_norm.weight":
            norm += size
        else:
            other += size
    is_tied = not output
    return Weights(
        dense=tuple(dense),
        experts=tuple(experts),
        embedding=embedding,
        output=(embedding if is_tied else output) + norm,
        is_tied=is_tied,
        is_kept_twice=False,
        other=other,
        largest_dense=largest_dense,
        largest_experts=largest_experts,
        file_bytes=file_bytes,
        drafting=frozenset(drafting),
    )


def every_layer(spec: ModelSpec, machine: Machine) -> int:
    """Return the `gpu_layers` that put everything on the GPUs of a machine, 0 if it has none."""
    return spec.layers + 1 if machine.gpus else 0


def has_all_layers_on_gpus(use: MemoryUse, layers: int) -> bool:
    """Whether GPUs hold every layer and the output; experts may be in RAM. True without GPUs."""
    return len(use.devices) == 1 or use.configuration.gpu_layers > layers


def use_of(
    footprint: Footprint,
    configuration: Configuration,
    devices: Sequence[Device],
    *,
    outputs: int | None = None,
) -> MemoryUse:
    """Return the bytes on each device. RAM is the last device. Raises as `predict` does.

    `outputs` are the tokens of a pass whose logits are wanted, where that is not one a slot.
    """
    gpus = devices[:-1]
    place = placement(footprint.layers, configuration, gpus)
    weight_bytes = _weight_bytes(footprint.weights, configuration, place, len(devices))
    kv_bytes = [0] * len(devices)
    for layer, size in layer_bytes(footprint.caches, configuration).items():
        kv_bytes[place[layer]] += size
    states = [0] * len(devices)
    for layer, size in state_bytes(footprint.states, configuration).items():
        states[place[layer]] += size

    compute = compute_bytes(footprint, configuration, place, len(gpus), outputs)
    overhead = overhead_bytes(footprint, configuration, place, len(gpus))
    band = compute_band(footprint, configuration, place)
    uses = [
        DeviceUse(
            device.name,
            device.kind,
            weight_bytes[number],
            kv_bytes[number],
            compute[number],
            overhead[number],
            device.free_bytes,
            states[number],
            margin_bytes=math.ceil(band * compute[number]),
        )
        for number, device in enumerate(devices)
    ]
    return MemoryUse(
        configuration=configuration,
        devices=_with_shared_memory(uses, devices),
        file_bytes=footprint.weights.file_bytes,
        kv_basis=footprint.cache_basis,
        compute_band=band,
    )


def placement(layers: int, configuration: Configuration, gpus: Sequence[Device]) -> list[int]:
    """Return the GPU of every layer and then of the output, or IN_RAM.

    Raises UsageError for a split that does not add up to the layers on GPUs.
    """
    split, on_gpus = configuration.gpu_split, min(configuration.gpu_layers, layers + 1)
    if not split or not gpus:
        return places(layers, configuration.gpu_layers, [gpu.free_bytes for gpu in gpus])
    if len(split) != len(gpus) or sum(split) != on_gpus or min(split) < 0:
        raise UsageError(
            f"a split of {', '.join(map(str, split))} does not put {on_gpus} layers on "
            f"{len(gpus)} GPU(s). Give each GPU its number of layers, the output counted as one."
        )
    parts = [gpu for gpu, count in enumerate(split) for _ in range(count)]
    return [IN_RAM] * (layers + 1 - on_gpus) + parts


def _with_shared_memory(
    uses: Sequence[DeviceUse], devices: Sequence[Device]
) -> tuple[DeviceUse, ...]:
    """Give RAM what a GPU that shares it leaves free: it holds no more than it uses."""
    left = sum(
        max(0, use.free_bytes - use.needed_bytes)
        for use, device in zip(uses, devices, strict=True)
        if device.shares_ram
    )
    ram = uses[-1]
    return (*uses[:-1], replace(ram, free_bytes=ram.free_bytes + left) if left else ram)


def places(layers: int, gpu_layers: int, free_bytes: Sequence[int]) -> list[int]:
    """Return the GPU of every layer and then of the output, or IN_RAM: llama.cpp's -ngl.

    The last `gpu_layers` of layers and output go to GPUs, so 1 is the output alone. Several GPUs
    take runs of them in order, in proportion to their free memory.
    """
    on_gpus = min(gpu_layers, layers + 1) if sum(free_bytes) > 0 else 0
    place = [IN_RAM] * (layers + 1 - on_gpus)
    total, gpu, bound = sum(free_bytes), 0, free_bytes[0] if free_bytes else 0
    for position in range(on_gpus):
        while bound * on_gpus <= position * total:
            gpu += 1
            bound += free_bytes[gpu]
        place.append(gpu)
    return place


def _weight_bytes(
    weights: Weights, configuration: Configuration, place: Sequence[int], devices: int
) -> list[int]:
    """Return the weights on each device. Copies in a cache of experts are counted there too.

    Layers that draft are loaded only for drafting.
    """
    size = [0] * devices  # RAM is last, so IN_RAM is its number
    size[IN_RAM] = weights.embedding + weights.other
    away = 0
    for layer, (dense, experts) in enumerate(zip(weights.dense, weights.experts, strict=True)):
        if layer in weights.drafting and not configuration.rollback:
            continue
        in_ram = layer < configuration.cpu_expert_layers
        size[place[layer]] += dense
        size[IN_RAM if in_ram else place[layer]] += experts
        away += experts if in_ram and place[layer] != IN_RAM else 0
    is_shared = weights.is_tied and place[-1] == IN_RAM and not weights.is_kept_twice
    size[place[-1]] += weights.output - (weights.embedding if is_shared else 0)
    if devices > 1:
        size[0] += min(configuration.expert_cache_bytes, away)
    return size


def compute_bytes(
    footprint: Footprint,
    configuration: Configuration,
    place: Sequence[int],
    gpus: int,
    outputs: int | None = None,
) -> list[int]:
    """Return the compute buffer of each GPU and, last, of RAM."""
    graph = footprint.graph
    used = sorted(set(place) - {IN_RAM})
    if not used:
        return [0] * gpus + [busiest_bytes(graph, configuration)]
    copies = pipeline_copies(configuration, place, gpus)
    borrowed = [0] * gpus
    for gpu, cache in borrowed_caches(footprint, place):
        borrowed[gpu] += copies * cache_bytes([cache], configuration)[cache.layer]
    compute = []
    for gpu in range(gpus):
        # Whatever is in RAM is multiplied on the first GPU.
        streamed = streamed_bytes(footprint, configuration, place) if gpu == 0 else 0
        size = gpu_bytes(
            graph,
            configuration,
            copies=copies,
            is_first=gpu == used[0],
            streamed_bytes=streamed,
            outputs=outputs,
        )
        compute.append(size + borrowed[gpu] if gpu in used or streamed else 0)
    if IN_RAM in place[:-1]:
        return [*compute, busiest_bytes(graph, configuration)]
    return [*compute, host_bytes(graph, configuration, copies=copies)]


def pipeline_copies(configuration: Configuration, place: Sequence[int], gpus: int) -> int:
    """Return how many copies the engine keeps of what its GPUs are given.

    It works on several passes at once where it sees more than one GPU and RAM has no part, whether
    they are its own or servers': both say that they work beside it and signal when they are done.
    Servers differ elsewhere: they never take matrices from RAM, so that `streamed_bytes` are too
    many for them.
    """
    is_whole = IN_RAM not in place and not configuration.cpu_expert_layers
    return PIPELINE_COPIES if gpus > 1 and is_whole else 1


def borrowed_caches(footprint: Footprint, place: Sequence[int]) -> list[tuple[int, LayerCache]]:
    """Return (GPU, cache) for every layer whose cache is copied to it from another device."""
    return [
        (place[cache.layer], cache)
        for cache, owner in footprint.borrowed
        if place[cache.layer] not in (place[owner], IN_RAM)
    ]


def streamed_bytes(footprint: Footprint, configuration: Configuration, place: Sequence[int]) -> int:
    """Return what of the matrices, or of the caches, in RAM is on the first GPU at a time.

    Two matrices are the most: one is kept where the next happens to fit into its place.
    """
    if tokens_of_pass(configuration) < STREAMED_FROM_TOKENS:
        return 0
    weights, has_layers = footprint.weights, IN_RAM in place[:-1]
    experts = weights.largest_experts if has_layers or configuration.cpu_expert_layers else 0
    if not has_layers:
        return STREAMED_MATRICES * experts
    caches = [size for _, size in group_bytes(footprint.caches, configuration)]
    return max(STREAMED_MATRICES * max(weights.largest_dense, experts), *caches, 0)


def compute_band(footprint: Footprint, configuration: Configuration, place: Sequence[int]) -> float:
    """Return how far off the compute buffers may be, as a part of them."""
    if footprint.cache_basis != "exact":
        return UNKNOWN_BAND
    graph = footprint.graph
    devices = set(place)
    if devices == {IN_RAM}:
        return band_of(graph, configuration)
    experts = EXPERTS_BAND if configuration.cpu_expert_layers else GPU_BAND
    return (LAYERS_BAND if IN_RAM in devices else experts) + graph.band - BAND


def _unpacked_cache(caches: CacheGroups, configuration: Configuration) -> int:
    """Return what a GPU unpacks of a quantized cache at a time: one layer, in half floats.

    That comes from a pool of its own, which no log shows.
    """
    if not TYPES[configuration.kv_type].is_quantized:
        return 0
    widths = (
        (cache.key_width + cache.value_width) * cells_of(cache, configuration)
        for cache, _ in caches
    )
    return max(widths, default=0) * HALF_BYTES


def overhead_bytes(
    footprint: Footprint, configuration: Configuration, place: Sequence[int], gpus: int
) -> list[int]:
    """Return what each GPU and, last, RAM needs beside buffers of known size."""
    used = set(place) - {IN_RAM}
    unpacked = _unpacked_cache(footprint.caches, configuration)
    size = [
        GPU_OVERHEAD_BYTES * bool(used) + (unpacked if gpu in used else 0) for gpu in range(gpus)
    ]
    graph = footprint.graph
    outputs = configuration.slots * (graph.vocabulary + graph.hidden) * FLOAT_BYTES
    return [*size, HOST_OVERHEAD_BYTES + TOKEN_BYTES * graph.vocabulary + outputs]


def tensor_sizes(tensors: Sequence[TensorInfo], types: Mapping[str, str]) -> dict[str, int]:
    """Return name -> bytes of `tensors` stored as `types`."""
    sizes, known = {}, dict[tuple[int, str], int]()
    for tensor in tensors:
        type_name = types[tensor.name]
        key = (tensor.columns, type_name)
        if key not in known:
            known[key] = TYPES[type_name].row_bytes(tensor.columns)
        sizes[tensor.name] = known[key] * math.prod(tensor.shape[:-1])
    return sizes
