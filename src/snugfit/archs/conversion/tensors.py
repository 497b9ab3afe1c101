"""Hugging Face tensors seen as GGUF tensors: each is one or more runs of rows from named sources.

Nothing is read here. A converted tensor says which stored tensors it is made of and how their rows
are arranged; whoever writes it reads any run of its rows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from snugfit.archs.conversion.config import Config
from snugfit.archs.conversion.names import is_gguf_name, name_map, plain_name
from snugfit.archs.conversion.rules import (
    Arrange,
    Arrangement,
    Array,
    Compute,
    ConversionRow,
    Part,
    Stack,
)
from snugfit.core import TensorInfo
from snugfit.errors import FormatError, UnsupportedError
from snugfit.quants.positions import is_kept_in_full

LAYER = re.compile(r"model\.layers\.(\d+)\..+")
# safetensors' names, and those of blocks that stay as they are -> the type in GGUF.
GGUF_TYPE_OF_DTYPE = {
    "BF16": "BF16",
    "F16": "F16",
    "F32": "F32",
    "F64": "F32",
    "MXFP4": "MXFP4",
    "I32": "I32",
    "I64": "I32",
}
Load = Callable[[Array], Array]
BLOCKS = {"MXFP4"}  # kept as they are: arrangements may move rows, not columns
# Buffers that old checkpoints carry and that follow from the configuration.
IGNORED = re.compile(r"rotary_emb\.inv_freq|\.attn\.bias$|masked_bias")
HEADS = ("lm_head.weight", "language_model.lm_head.weight")


class Stored(Protocol):
    """A source tensor: its header declares it, its values are mapped or made when asked for.

    `dtype` is safetensors' name; BF16 is handed on as its 16 bits, MXFP4 as bytes of GGUF blocks.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> str: ...

    def opened(self, index: int | None = None) -> tuple[Array, Load]:
        """Return an array of all values, or of one matrix of a stack, and what loads a view of it.

        Until it is loaded, only where things are in it counts: its values need not be there.
        """
        ...


@dataclass(frozen=True)
class Piece:
    """A run of rows: a source tensor, rearranged; or a constant, where `source` is empty."""

    source: str
    rows: int
    arrange: Arrange
    stack: int = 0  # matrices of a source that is a stack, each arranged by itself


@dataclass(frozen=True)
class ConvertedTensor:
    """A GGUF tensor and the pieces whose rows, one after another, are its rows."""

    info: TensorInfo
    dtype: str  # of its sources
    pieces: tuple[Piece, ...]
    compute: Compute | None = None
    scale: Array | None = None  # a factor a row
    columns: Arrange | None = None


@dataclass(frozen=True)
class Member:
    """A stored tensor among those that become one: its name, and its place in a stack."""

    source: str
    stored: Stored
    index: int = 0
    stack: Stack | None = None


def convert_tensors(
    config: Config, row: ConversionRow, stored: Mapping[str, Stored]
) -> list[ConvertedTensor]:
    """Return every GGUF tensor of the model, in file order.

    Raises FormatError where tensors are missing or contradict the config, UnsupportedError for a
    tensor that the architecture does not have.
    """
    names = name_map(row.architecture, config.layers + config.draft_layers)
    found = renamed_tensors(config, row, stored, names)
    _check_complete(config, row, found)
    return sorted(found.values(), key=lambda tensor: _file_order(tensor.info.name))


def renamed_tensors(
    config: Config,
    row: ConversionRow,
    stored: Mapping[str, Stored],
    names: Callable[[str], str | None],
) -> dict[str, ConvertedTensor]:
    """Return what stored tensors and constants become, by name in GGUF.

    `names` says so where no rule does. Raises FormatError, UnsupportedError.
    """
    found: dict[str, ConvertedTensor] = {}
    for name, members in _gathered(config, row, stored).items():
        _check_alike(config, name, members)
        for part, gguf_name in _parts(config, row, name, members[0].stored.dtype, names):
            if gguf_name in found:
                raise FormatError(
                    f"{config.folder}: {name} and another tensor are both {gguf_name}. "
                    "Download the model again."
                )
            found[gguf_name] = _converted(config, gguf_name, part, members)
    for gguf_name, values in row.constants(config).items():
        info = TensorInfo(gguf_name, values.shape, "F32")
        piece = Piece("", info.rows, always(values))
        found.setdefault(gguf_name, ConvertedTensor(info, "F32", (piece,)))
    return found


def _gathered(
    config: Config, row: ConversionRow, stored: Mapping[str, Stored]
) -> dict[str, list[Member]]:
    """Map each name, experts stacked under one, to what is stored of it, in order."""
    found: dict[str, list[Member]] = {}
    for source, tensor in stored.items():
        if IGNORED.search(source) or (source in HEADS and row.is_tied(config)):
            continue
        name = row.rename(plain_name(source, row.prefixes), config)
        if not row.keeps_drafts and _drafts(config, name):
            continue
        for stack in row.stacks:
            if match := re.fullmatch(stack.pattern, name):
                member = Member(source, tensor, int(match[2]), stack)
                found.setdefault(match[1] + match[3], []).append(member)
                break
        else:
            found[name] = [Member(source, tensor)]
    return {name: sorted(m, key=lambda one: one.index) for name, m in found.items()}


def _drafts(config: Config, name: str) -> bool:
    """Return whether a tensor is of a layer after the last, where the config has such layers."""
    match = LAYER.fullmatch(name)
    return match is not None and 0 <= int(match[1]) - config.layers < config.draft_layers


def _parts(
    config: Config,
    row: ConversionRow,
    name: str,
    dtype: str,
    names: Callable[[str], str | None],
) -> list[tuple[Part, str]]:
    """Return the parts that a stored tensor makes, with their names in GGUF."""
    for rule in row.rules:
        match = re.fullmatch(rule.pattern, name)
        if match is None or not rule.applies(config) or dtype not in (rule.dtypes or (dtype,)):
            continue
        found = []
        for part in rule.parts:
            asked = match.expand(part.name) if part.name else name
            gguf_name = asked if is_gguf_name(asked) else names(asked)
            found.append((part, gguf_name or _no_place(config, row, asked)))
        return found
    return [(Part(), names(name) or _no_place(config, row, name))]


def _no_place(config: Config, row: ConversionRow, name: str) -> str:
    raise UnsupportedError(
        f"{config.folder}: tensor {name} has no place in a {row.architecture} model."
    )


def _check_alike(config: Config, name: str, members: list[Member]) -> None:
    if members[0].stack is None:
        return
    count = members[0].stack.count(config)
    if [member.index for member in members] != list(range(count)):
        raise FormatError(
            f"{config.folder}: {name}: {len(members)} are stored, but the config has {count}. "
            "Download the missing shards."
        )
    first = members[0].stored
    if any((m.stored.shape, m.stored.dtype) != (first.shape, first.dtype) for m in members):
        raise FormatError(
            f"{config.folder}: {name}: its matrices differ in shape or type. "
            "Download the model again."
        )


def _converted(config: Config, name: str, part: Part, members: list[Member]) -> ConvertedTensor:
    first = members[0].stored
    if first.dtype not in GGUF_TYPE_OF_DTYPE:
        raise UnsupportedError(
            f"{config.folder}: tensor {members[0].source} is stored as {first.dtype}; "
            f"{', '.join(GGUF_TYPE_OF_DTYPE)} can be converted. Use the model's 16-bit files."
        )

    if part.columns and first.dtype in BLOCKS:
        raise UnsupportedError(
            f"{config.folder}: tensor {members[0].source} is stored as {first.dtype}, whose "
            "columns cannot be moved. Use the model's 16-bit files."
        )
    stack = first.shape[0] if len(first.shape) == 3 and not part.whole else 0
    given = first.shape[1:] if stack else first.shape
    runs = [_bound(arrange, config) for arrange in (part.arrange, *part.below)]
    columns = _bound(part.columns, config) if part.columns else None
    try:
        shapes = [_merged(run(_zeros(given)).shape, part.dimensions or len(given)) for run in runs]
        shape = _joined(shapes)
        if columns:
            columns(_zeros((1, shape[-1])))
    except (ValueError, IndexError, ZeroDivisionError):
        raise FormatError(
            f"{config.folder}: tensor {members[0].source} has shape {list(first.shape)}, which "
            "config.json contradicts. Download the model again."
        ) from None
    rows = math.prod(shape[:-1])
    pieces = tuple(
        Piece(m.source, math.prod(each[:-1]) * max(stack, 1), run, stack)
        for m in members
        for run, each in zip(runs, shapes, strict=True)
    )
    if stack:
        shape = (stack, *shape)
    if members[0].stack is not None:
        shape = (len(members), *shape)
    if len(shape) == 3 and "_exps." in name and shape[0] != config.experts:
        raise FormatError(
            f"{config.folder}: tensor {members[0].source} has {shape[0]} experts, config.json "
            f"{config.experts}. Download the model again."
        )
    is_changed = part.compute is not None or part.scale is not None
    in_full = is_changed or is_kept_in_full(name, shape)
    type_name = "F32" if in_full else GGUF_TYPE_OF_DTYPE[first.dtype]
    if part.rows is not None and (missing := part.rows(config) - rows) > 0:
        bits = np.float32 if type_name == "F32" else np.uint16
        pieces += (Piece("", missing, always(_zeros((missing, shape[-1]), bits))),)
        shape = (rows + missing, shape[-1])
    info = TensorInfo(name, shape, type_name)
    scale = np.empty(info.rows, np.float32) if part.scale else None
    if scale is not None and part.scale:
        scale[:] = part.scale(config, info.rows)
    return ConvertedTensor(info, first.dtype, pieces, part.compute, scale, columns)


def _bound(arrange: Arrangement, config: Config) -> Arrange:
    return lambda values: arrange(values, config)


def _joined(shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the shape of arrays one below the other."""
    if any(shape[1:] != shapes[0][1:] for shape in shapes):
        raise ValueError("rows of different widths")
    return (sum(shape[0] for shape in shapes), *shapes[0][1:]) if len(shapes) > 1 else shapes[0]


def _merged(shape: tuple[int, ...], dimensions: int) -> tuple[int, ...]:
    """Return a shape whose leading axes count as one, so that so many are left."""
    kept = len(shape) - dimensions + 1
    return (math.prod(shape[:kept]), *shape[kept:]) if kept > 1 else shape


def _zeros(shape: tuple[int, ...], dtype: type = np.uint8) -> Array:
    """Return an array of a shape that takes no memory, to see what an arrangement makes of it."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def always(constant: Array) -> Arrange:
    return lambda _: constant


def _check_complete(
    config: Config, row: ConversionRow, found: Mapping[str, ConvertedTensor]
) -> None:
    embedding = found.get("token_embd.weight")
    if embedding is None:
        raise FormatError(f"{config.folder}: the token embedding is missing. Download every shard.")
    if embedding.info.shape != (config.vocabulary, config.hidden_size):
        raise FormatError(
            f"{config.folder}: the embedding has shape {embedding.info.shape}, but config.json "
            f"says {(config.vocabulary, config.hidden_size)}. Download the model again."
        )
    if not row.is_tied(config) and "output.weight" not in found:
        raise FormatError(f"{config.folder}: lm_head.weight is missing. Download every shard.")
    for name, tensor in found.items():
        if "_exps." in name and tensor.info.shape[0] != config.experts:
            raise FormatError(
                f"{config.folder}: {name} is of {tensor.info.shape[0]} experts, but config.json "
                f"says {config.experts}. Download the model again."
            )
    first_of_kind: dict[Any, tuple[int, set[str]]] = {}
    for layer in range(config.layers):
        here = _roles_of_layer(found, layer)
        kind = row.layer_kind(config, layer)
        first, expected = first_of_kind.setdefault(kind, (layer, here))
        for role in sorted(expected ^ here) or ([] if here else ["every tensor"]):
            raise FormatError(
                f"{config.folder}: {role} of layer {layer} or {first} is missing. "
                "Download every shard."
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
