"""Where in a model a tensor stands, and the questions that rules of mixes ask about it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

TENSOR_NAME = re.compile(r"blk\.(\d+)\.(\w+)\.weight")
NEVER_QUANTIZED = re.compile(
    r"_norm|ffn_gate_inp|\.bias$|rope_freqs|ssm_conv1d|shortconv\.conv|_compressor_ape|hc_(?:\w+_)?fn"
)
# llama-quantize leaves these as converters store them.
LEFT_AT_16_BITS = re.compile(r"per_layer_model_proj|altup|laurel")
# Names and positions are the same for every mix, and planning asks of all mixes.
KEPT = 2**14  # more than any model has tensors


@dataclass(frozen=True)
class Position:
    """Where a tensor stands, as far as rules ask: its layer, of how many, beside experts."""

    layer: int
    layers: int
    experts: int
    shared_heads: int  # query heads that share one key and value head
    stacked: bool  # whether the tensor holds one matrix an expert


Where = Callable[[Position], bool]
position = lru_cache(maxsize=KEPT)(Position)


@lru_cache(maxsize=KEPT)
def part_of(name: str) -> tuple[str, int, bool]:
    """Return a tensor's role, its layer, and whether it holds one matrix an expert."""
    match = TENSOR_NAME.fullmatch(name)
    if match is None:
        return "", 0, False
    role = match[2].removesuffix("_exps")
    return role, int(match[1]), role != match[2]


@lru_cache(maxsize=KEPT)
def is_never_quantized(name: str) -> bool:
    return not name.endswith("weight") or NEVER_QUANTIZED.search(name) is not None


@lru_cache(maxsize=KEPT)
def is_left_at_16_bits(name: str) -> bool:
    return LEFT_AT_16_BITS.search(name) is not None


# The questions


def anywhere(_: Position) -> bool:
    return True


def more_bits(at: Position) -> bool:
    """The first and last eighth of the layers, and every third between them."""
    eighth = at.layers // 8
    return at.layer < eighth or at.layer >= 7 * at.layers // 8 or (at.layer - eighth) % 3 == 2


def first_eighth(at: Position) -> bool:
    return at.layer < at.layers // 8


def first_sixteenth(at: Position) -> bool:
    return at.layer < at.layers // 16


def first_two(at: Position) -> bool:
    return at.layer < 2


def four_share_values(at: Position) -> bool:
    """Values are small then, and every one of them serves many heads."""
    return at.shared_heads >= 4


def seventy_billion(at: Position) -> bool:
    """The shape of Llama 2 70B and later: a few key and value heads in eighty layers."""
    return at.layers == 80 and at.shared_heads > 1


def first_four(at: Position) -> bool:
    return at.layer < 4


def eight_experts(at: Position) -> bool:
    """Mixtral's shape, where attention is a tiny part of the file."""
    return at.experts == 8


def eight_experts_and_more_bits(at: Position) -> bool:
    return eight_experts(at) and more_bits(at)


def many_read_values(at: Position) -> bool:
    return four_share_values(at) or at.experts >= 4


def middle(at: Position) -> bool:
    """All layers but the first and the last eighth."""
    return at.layers // 8 <= at.layer < 7 * at.layers // 8


def in_experts(at: Position) -> bool:
    return at.stacked
