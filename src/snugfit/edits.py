"""Models that differ from the one that was opened: without some layers, with other metadata."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from snugfit.errors import UnsupportedError, UsageError
from snugfit.formats.imatrix import Importance
from snugfit.models import Model

LAYER = re.compile(r"blk\.(\d{1,9})\.")
COUNTS_OF_FIRST = ("leading_dense_block_count", "hash_layer_count")
# llama.cpp tells by a layer's number whether it is recurrent, unless a file says it of each.
RECURRENT_BY_NUMBER = ("qwen3next", "qwen35", "qwen35moe")
RECURRENT = "attention.recurrent_layers"
# Keys with one number a layer, where they have as many as the model has layers.
EACH_LAYER = (
    "attention.head_count",
    "attention.head_count_kv",
    "attention.compress_ratios",
    "attention.indexer.types",
    RECURRENT,
    "attention.sliding_window_pattern",
    "expert_feed_forward_length",
    "expert_used_count",
    "feed_forward_length",
    "swiglu_clamp_exp",
    "swiglu_clamp_shexp",
)
# One tensor with numbers of all layers in each row.
OF_ALL_LAYERS = "per_layer_token_embd.weight"
# llama.cpp's limits of a key and of a text.
LONGEST = 127
KEY = re.compile(r"[\w.-]{1,127}")
# What describes a file rather than a model: the writer says it.
OF_THE_FILE = ("general.alignment", "split.no", "split.count", "split.tensors.count")


# Layers


def layers_from(text: str) -> tuple[int, ...]:
    """Read numbers of layers, as 1,2,3. Raises UsageError."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and len(part) < 10 for part in parts):
        raise UsageError(f"--prune-layers takes numbers of layers, as 20,21,22, not '{text}'.")
    return tuple(sorted({int(part) for part in parts}))


def without_layers(model: Model, pruned: Collection[int]) -> Model:
    """Return a model that lacks some layers; the others are numbered anew, in their order.

    As llama-quantize does, and further: metadata that has one number a layer loses those of the
    layers, and counts of the first and the last layers are of those that are left. llama.cpp does
    not load a file that has more. Raises UsageError for a layer that the model has not,
    UnsupportedError for a model whose layers cannot go.
    """
    found = {int(match[1]) for name in model.tensors if (match := LAYER.match(name))}
    for layer in sorted(pruned):
        if layer not in found:
            raise UsageError(
                f"--prune-layers {layer}: {model.name} has layers 0 to {max(found, default=0)}."
            )
    if OF_ALL_LAYERS in model.tensors:
        raise UnsupportedError(
            f"{model.name}: {OF_ALL_LAYERS} holds numbers of all layers; none can be pruned."
        )
    if found <= set(pruned):
        raise UsageError("--prune-layers leaves no layer. Prune fewer.")
    numbers = {old: new for new, old in enumerate(sorted(found - set(pruned)))}
    old_names = {
        new: old for old in model.tensors if (new := _renumbered(old, numbers)) is not None
    }
    tensors = {new: replace(model.tensors[old], name=new) for new, old in old_names.items()}
    return replace(
        model,
        metadata=_pruned_metadata(model, pruned, len(numbers)),
        tensors=tensors,
        read=lambda name, first, count: model.read(old_names[name], first, count),
        file_of={new: model.file_of[old] for new, old in old_names.items() if old in model.file_of},
    )


def importance_without_layers(
    importance: Importance, model: Model, pruned: Collection[int]
) -> Importance:
    """Return importance that was measured on `model` under the names of what is left of it."""
    found = {int(match[1]) for name in model.tensors if (match := LAYER.match(name))}
    numbers = {old: new for new, old in enumerate(sorted(found - set(pruned)))}
    weights = {
        new: sums
        for old, sums in importance.weights.items()
        if (new := _renumbered(old, numbers)) is not None
    }
    return replace(importance, weights=weights)


def _renumbered(name: str, numbers: Mapping[int, int]) -> str | None:
    """Return a tensor's name among the layers that are left, or None if its own is not."""
    match = LAYER.match(name)
    if match is None:
        return name
    number = numbers.get(int(match[1]))
    return None if number is None else f"blk.{number}.{name[match.end() :]}"


def _pruned_metadata(model: Model, pruned: Collection[int], left: int) -> dict[str, Any]:
    metadata = dict(model.metadata)
    architecture = metadata["general.architecture"]
    prefix = f"{architecture}."
    layers = int(metadata.get(f"{prefix}block_count", left + len(pruned)))
    drafting = int(metadata.get(f"{prefix}nextn_predict_layers", 0))
    kept = [layer for layer in range(layers) if layer not in pruned]
    if architecture in RECURRENT_BY_NUMBER and f"{prefix}{RECURRENT}" not in metadata:
        every = max(1, int(metadata.get(f"{prefix}full_attention_interval", 4)))
        flags = [layer < layers - drafting and (layer + 1) % every != 0 for layer in range(layers)]
        metadata[f"{prefix}{RECURRENT}"] = np.array(flags)
    for key in EACH_LAYER:
        value = metadata.get(prefix + key)
        if isinstance(value, np.ndarray | list) and len(value) in (layers, layers - drafting):
            there = [layer for layer in kept if layer < len(value)]
            metadata[prefix + key] = np.asarray(value)[there]
    for key in COUNTS_OF_FIRST:
        _reduce(metadata, prefix + key, lambda count: range(count), pruned)
    last = f"{prefix}nextn_predict_layers"
    _reduce(metadata, last, lambda count: range(layers - count, layers), pruned)
    metadata[f"{prefix}block_count"] = np.uint32(left)
    return metadata


def _reduce(
    metadata: dict[str, Any],
    key: str,
    counted: Callable[[int], range],
    pruned: Collection[int],
) -> None:
    """Take off a count of layers those that are pruned; `counted` are the layers it counts."""
    if isinstance(value := metadata.get(key), int | np.integer):
        lost = sum(layer in counted(int(value)) for layer in pruned)
        metadata[key] = type(value)(int(value) - lost)


# Metadata


def metadata_from(texts: Iterable[str]) -> dict[str, Any]:
    """Read KEY=TYPE:VALUE as llama-quantize does: int, float, bool or str. Raises UsageError.

    Whole numbers are stored as u32, as llama-quantize stores them, so that negative ones cannot be.
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, _, typed = text.partition("=")
        type_name, separator, value = typed.partition(":")
        if not separator or type_name not in READERS:
            raise UsageError(
                f"--override-kv takes KEY=TYPE:VALUE with int, float, bool or str, as "
                f"qwen3moe.expert_used_count=int:6, not '{text}'."
            )
        if not KEY.fullmatch(key):
            raise UsageError(f"--override-kv: '{key}' is no key, as general.name is one.")
        if key in OF_THE_FILE:
            raise UsageError(f"--override-kv: {key} follows from the file that is written.")
        try:
            found[key] = READERS[type_name](value)
        except (ValueError, OverflowError, KeyError):
            raise UsageError(f"--override-kv {key}: '{value}' is no {type_name}.") from None
    return found


def with_metadata(model: Model, overrides: Mapping[str, Any]) -> Model:
    """Return a model with other metadata. Raises UsageError where a key is of another kind."""
    for key, value in overrides.items():
        known = model.metadata.get(key)
        if known is not None and _kind(known) != _kind(value):
            raise UsageError(
                f"--override-kv {key}: {model.name} has {_kind(known)} there, not {_kind(value)}."
            )
    return replace(model, metadata=model.metadata | dict(overrides))


def _kind(value: Any) -> str:
    if isinstance(value, list | tuple | np.ndarray):
        return "an array"
    if isinstance(value, bool | np.bool_):
        return "a bool"
    if isinstance(value, int | np.integer):
        return "an int"
    return "a float" if isinstance(value, float | np.floating) else "a str"


def _whole(text: str) -> np.uint32:
    if not 0 <= int(text) < 2**32:
        raise OverflowError
    return np.uint32(int(text))


def _real(text: str) -> np.float32:
    value = float(text)
    if not abs(value) <= float(np.finfo(np.float32).max):
        raise ValueError
    return np.float32(value)


def _truth(text: str) -> np.bool_:
    return np.bool_({"true": True, "false": False}[text])


def _text(text: str) -> str:
    if len(text.encode()) > LONGEST:
        raise ValueError
    return text


READERS: dict[str, Callable[[str], Any]] = {
    "int": _whole,
    "float": _real,
    "bool": _truth,
    "str": _text,
}
