"""One row an architecture, and a model's shapes read off its metadata with its row.

Metadata comes from strangers' files: every number is checked before anything is computed from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from snugfit.archs.cache import AttentionShape, CacheRule, grouped_query
from snugfit.core import LayerCache, ModelSpec, TensorInfo
from snugfit.errors import FormatError


@dataclass(frozen=True)
class Architecture:
    """A kind of model, by its name in GGUF."""

    name: str
    cache: CacheRule
    has_experts: bool = False  # always; llama has them in Mixtral only


_TABLE = (
    Architecture("llama", grouped_query),
    Architecture("qwen2", grouped_query),
    Architecture("qwen3", grouped_query),
    Architecture("qwen3moe", grouped_query, has_experts=True),
)

ARCHITECTURES: dict[str, Architecture] = {row.name: row for row in _TABLE}

# Far above any model that exists, and far below what overflows a sum of products.
MOST_LAYERS, MOST_HEADS, MOST_EXPERTS = 4096, 2**14, 2**16
WIDEST, LONGEST = 2**20, 2**31 - 1
BLOCK = re.compile(r"blk\.(\d{1,4})\.(.+)")
REMEDY = "Download the file again, or convert the model anew."


def spec_of(
    name: str,
    metadata: Mapping[str, Any],
    tensors: Sequence[TensorInfo],
    *,
    file_bytes: int,
    header_bytes: int,
) -> ModelSpec:
    """Return the shapes of a model from GGUF metadata (key -> Python or numpy value) and tensors.

    An unknown architecture is sized from its tensors alone, with `cache_basis` "estimated". Raises
    FormatError where metadata is missing, absurd or at odds with the tensors.
    """
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise FormatError(f"{name}: general.architecture is missing. {REMEDY}")
    reader = _Reader(name, architecture, metadata)
    row = ARCHITECTURES.get(architecture)
    layers = _layers(reader, tensors, known=row is not None)
    vocabulary = _rows_of(tensors, "token_embd.weight")
    caches = _cache_by_rule(reader, row, layers, tensors) if row else _cache_by_tensors(tensors)
    return ModelSpec(
        name=name,
        architecture=architecture,
        layers=layers,
        hidden_size=reader.whole("embedding_length", 1, WIDEST),
        context_length=reader.whole("context_length", 1, LONGEST),
        vocabulary=vocabulary or reader.whole("vocab_size", 1, LONGEST),
        heads=max(
            reader.each_layer("attention.head_count", layers, 0, MOST_HEADS, None if row else 0)
        ),
        experts=reader.whole(
            "expert_count", 1 if row and row.has_experts else 0, MOST_EXPERTS, default=0
        ),
        experts_used=reader.whole("expert_used_count", 0, MOST_EXPERTS, default=0),
        caches=caches,
        tensors=tuple(tensors),
        file_bytes=file_bytes,
        cache_basis="exact" if row else "estimated",
        header_bytes=header_bytes,
    )


@dataclass(frozen=True)
class _Reader:
    """Checked numbers out of one model's metadata; `key` lacks the architecture's prefix."""

    name: str
    architecture: str
    metadata: Mapping[str, Any]

    def whole(self, key: str, lowest: int, highest: int, default: int | None = None) -> int:
        value = self.metadata.get(f"{self.architecture}.{key}", default)
        return self._checked(key, value, lowest, highest)

    def each_layer(
        self,
        key: str,
        layers: int,
        lowest: int,
        highest: int,
        default: Sequence[int] | int | None = None,
    ) -> tuple[int, ...]:
        """Return one number a layer: the file has an array of them, or one for all layers."""
        value = self.metadata.get(f"{self.architecture}.{key}", default)
        if not isinstance(value, np.ndarray | list | tuple):
            return (self._checked(key, value, lowest, highest),) * layers
        if len(value) != layers:
            raise self.fault(key, f"has {len(value)} numbers for {layers} layers")
        return tuple(self._checked(key, one, lowest, highest) for one in value)

    def _checked(self, key: str, value: object, lowest: int, highest: int) -> int:
        if value is None:
            raise self.fault(key, "is missing")
        if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
            raise self.fault(key, f"is not a whole number but {str(value)[:40]!r}")
        if not lowest <= int(value) <= highest:
            raise self.fault(key, f"is {value}, not between {lowest} and {highest}")
        return int(value)

    def fault(self, key: str, what: str) -> FormatError:
        return FormatError(f"{self.name}: {self.architecture}.{key} {what}. {REMEDY}")


def _layers(reader: _Reader, tensors: Sequence[TensorInfo], *, known: bool) -> int:
    blocks = {int(match[1]) for tensor in tensors if (match := BLOCK.fullmatch(tensor.name))}
    found = max(blocks, default=-1) + 1
    layers = reader.whole("block_count", 1, MOST_LAYERS, default=None if known else found)
    if layers != found:
        raise reader.fault("block_count", f"is {layers}, but the tensors are of {found} layers")
    return layers


def _cache_by_rule(
    reader: _Reader, row: Architecture, layers: int, tensors: Sequence[TensorInfo]
) -> tuple[LayerCache, ...]:
    heads = reader.each_layer("attention.head_count", layers, 1, MOST_HEADS)
    heads_kv = reader.each_layer("attention.head_count_kv", layers, 1, MOST_HEADS, default=heads)
    head_size = reader.whole("embedding_length", 1, WIDEST) // heads[0]
    shape = AttentionShape(
        heads_kv,
        reader.whole("attention.key_length", 1, WIDEST, default=head_size),
        reader.whole("attention.value_length", 1, WIDEST, default=head_size),
    )
    caches = row.cache(shape)
    # What the metadata says must be what the tensors compute, or an exact number would be a lie.
    stored = {tensor.name: tensor.rows for tensor in tensors}
    for cache in caches:
        for letter, width in (("k", cache.key_width), ("v", cache.value_width)):
            tensor = f"blk.{cache.layer}.attn_{letter}.weight"
            if stored.get(tensor, width) != width:
                raise reader.fault(
                    "attention.head_count_kv",
                    f"makes {width} columns of cache, but {tensor} computes {stored[tensor]}",
                )
    return caches


def _cache_by_tensors(tensors: Sequence[TensorInfo]) -> tuple[LayerCache, ...]:
    """Take the outputs of key and value matrices for the cache: plain attention would keep them.

    A window, a compressed or a recurrent cache is smaller; shared caches are counted twice.
    """
    parts: dict[int, dict[str, TensorInfo]] = {}
    for tensor in tensors:
        if match := BLOCK.fullmatch(tensor.name):
            parts.setdefault(int(match[1]), {})[match[2]] = tensor
    caches = []
    for layer, part in sorted(parts.items()):
        key, value = part.get("attn_k.weight"), part.get("attn_v.weight")
        fused, output = part.get("attn_qkv.weight"), part.get("attn_output.weight")
        if key is not None:
            caches.append(LayerCache(layer, key.rows, (value or key).rows))
        elif fused is not None and output is not None and fused.rows > output.columns:
            width = (fused.rows - output.columns) // 2
            caches.append(LayerCache(layer, width, width))
    return tuple(caches)


def _rows_of(tensors: Sequence[TensorInfo], name: str) -> int:
    return next((tensor.rows for tensor in tensors if tensor.name == name), 0)
