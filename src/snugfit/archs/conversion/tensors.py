"""Hugging Face tensors seen as GGUF tensors: each is one or more runs of rows from named sources.

Nothing is read here. A converted tensor says which stored tensors it is made of and how their rows
are arranged; whoever writes it reads one source at a time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from snugfit.archs.conversion.rows import Config, ConversionRow
from snugfit.core import TensorInfo
from snugfit.errors import FormatError, UnsupportedError
from snugfit.quants.recipes import is_kept_in_full

Array = np.ndarray[Any, Any]
Arrange = Callable[[Array], Array]
EXPERT = re.compile(
    r"(model\.layers\.\d+\.(?:mlp|block_sparse_moe))\.experts\.(\d+)\.(\w+)\.weight"
)
FUSED_EXPERTS = re.compile(r"(model\.layers\.\d+\.mlp)\.experts\.(gate_up_proj|down_proj)")
GGUF_TYPE_OF_DTYPE = {"BF16": "BF16", "F16": "F16", "F32": "F32", "F64": "F32"}
# Buffers that old checkpoints carry and that follow from the configuration.
IGNORED = re.compile(r"rotary_emb\.inv_freq|\.attn\.bias$|masked_bias")


@dataclass(frozen=True)
class Stored:
    """A source tensor as its header declares it."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Piece:
    """A run of rows: a source tensor, rearranged; or a constant, where `source` is empty."""

    source: str
    arrange: Arrange


@dataclass(frozen=True)
class ConvertedTensor:
    """A GGUF tensor and the pieces whose rows, one after another, are its rows."""

    info: TensorInfo
    pieces: tuple[Piece, ...]


def convert_tensors(
    folder: str, config: Config, row: ConversionRow, stored: Mapping[str, Stored]
) -> list[ConvertedTensor]:
    """Return every GGUF tensor of the model, in file order.

    Raises FormatError where tensors are missing or contradict the config, UnsupportedError for a
    tensor that the architecture does not have.
    """
    names = _name_map(row.architecture, config.layers)
    found: dict[str, ConvertedTensor] = {}
    for name, (sources, pieces, shape, dtype) in _gathered(config, row, stored).items():
        gguf_name = names(name)
        if gguf_name is None:
            raise UnsupportedError(
                f"{folder}: tensor {sources} has no place in a {row.architecture} model."
            )
        found[gguf_name] = _converted(folder, gguf_name, shape, dtype, pieces)
    for gguf_name, values in row.constants(config).items():
        info = TensorInfo(gguf_name, values.shape, "F32")
        found[gguf_name] = ConvertedTensor(info, (Piece("", always(values)),))
    _check_complete(folder, config, found)
    return sorted(found.values(), key=lambda tensor: _file_order(tensor.info.name))


Gathered = tuple[str, tuple[Piece, ...], tuple[int, ...], str]


def _gathered(
    config: Config, row: ConversionRow, stored: Mapping[str, Stored]
) -> dict[str, Gathered]:
    """Map each Hugging Face name, experts stacked under one, to its pieces, shape and type."""
    found: dict[str, Gathered] = {}
    stacks: dict[str, dict[int, str]] = {}
    for name, tensor in stored.items():
        if IGNORED.search(name) or (name == "lm_head.weight" and config.tied):
            continue
        if match := EXPERT.fullmatch(name):
            stacks.setdefault(f"{match[1]}.experts.{match[3]}.weight", {})[int(match[2])] = name
        elif match := FUSED_EXPERTS.fullmatch(name):
            found |= _unfused(name, match[1], match[2], tensor)
        else:
            arrange = row.arrange(name, config)
            found[name] = (name, (Piece(name, arrange),), tensor.shape, tensor.dtype)
    for stacked, members in stacks.items():
        found[stacked] = _stack(stacked, members, config, stored)
    return found


def _stack(
    name: str, members: Mapping[int, str], config: Config, stored: Mapping[str, Stored]
) -> Gathered:
    sources = [members[index] for index in sorted(members)]
    first = stored[sources[0]]
    if sorted(members) != list(range(config.experts)):
        raise FormatError(
            f"{name}: {len(members)} experts are stored, but the config has {config.experts}. "
            "Download the missing shards."
        )
    if any(stored[source] != first for source in sources):
        raise FormatError(f"{name}: the experts differ in shape or type. Download the model again.")
    pieces = tuple(Piece(source, unchanged) for source in sources)
    return name, pieces, (len(sources), *first.shape), first.dtype


def _unfused(name: str, parent: str, part: str, tensor: Stored) -> dict[str, Gathered]:
    """Experts stored in one tensor: [experts, 2 x rows, columns] holds gate, then up."""
    if part == "down_proj":
        piece = Piece(name, unchanged)
        key = f"{parent}.experts.down_proj.weight"
        return {key: (name, (piece,), tensor.shape, tensor.dtype)}
    experts, both, columns = tensor.shape
    shape = (experts, both // 2, columns)
    halves = {"gate_proj": slice(0, both // 2), "up_proj": slice(both // 2, both)}
    return {
        f"{parent}.experts.{half}.weight": (
            name,
            (Piece(name, rows_of_experts(rows)),),
            shape,
            tensor.dtype,
        )
        for half, rows in halves.items()
    }


def unchanged(values: Array) -> Array:
    return values


def always(constant: Array) -> Arrange:
    return lambda _: constant


def rows_of_experts(rows: slice) -> Arrange:
    return lambda values: values[:, rows]


def _converted(
    folder: str, name: str, shape: tuple[int, ...], dtype: str, pieces: tuple[Piece, ...]
) -> ConvertedTensor:
    if dtype not in GGUF_TYPE_OF_DTYPE:
        raise UnsupportedError(
            f"{folder}: tensor {pieces[0].source} is stored as {dtype}; "
            f"{', '.join(GGUF_TYPE_OF_DTYPE)} can be converted. Use the model's 16-bit files."
        )
    type_name = "F32" if is_kept_in_full(name, shape) else GGUF_TYPE_OF_DTYPE[dtype]
    return ConvertedTensor(TensorInfo(name, shape, type_name), pieces)


def _name_map(architecture: str, layers: int) -> Callable[[str], str | None]:
    """Return gguf's map from Hugging Face names to GGUF names, suffix included."""
    import gguf

    arch = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}[architecture]
    table = gguf.get_tensor_name_map(arch, layers)

    def gguf_name(name: str) -> str | None:
        found: str | None = table.get_name(name, try_suffixes=(".weight", ".bias"))
        return found

    return gguf_name


def _check_complete(folder: str, config: Config, found: Mapping[str, ConvertedTensor]) -> None:
    embedding = found.get("token_embd.weight")
    if embedding is None:
        raise FormatError(f"{folder}: the token embedding is missing. Download every shard.")
    if embedding.info.shape != (config.vocabulary, config.hidden_size):
        raise FormatError(
            f"{folder}: the embedding has shape {embedding.info.shape}, but config.json says "
            f"{(config.vocabulary, config.hidden_size)}. Download the model again."
        )
    if not config.tied and "output.weight" not in found:
        raise FormatError(f"{folder}: lm_head.weight is missing. Download every shard.")
    roles = [_roles_of_layer(found, layer) for layer in range(config.layers)]
    for layer, here in enumerate(roles):
        for role in sorted(roles[0] ^ here) or (["every tensor"] if not here else []):
            raise FormatError(
                f"{folder}: {role} of layer {layer} or 0 is missing. Download every shard."
            )


def _roles_of_layer(found: Iterable[str], layer: int) -> set[str]:
    prefix = f"blk.{layer}."
    return {name.removeprefix(prefix) for name in found if name.startswith(prefix)}


def _file_order(name: str) -> tuple[int, int, str]:
    """Embedding first, then layers in turn, then norm and head, as readers stream them."""
    if name.startswith("blk."):
        _, layer, role = name.split(".", 2)
        return 1, int(layer), role
    return (0 if name.startswith("token_embd") else 2), 0, name
