"""Where in a model a tensor stands, and the questions that rules of mixes ask about it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache

LAYER = re.compile(r"blk\.(\d{1,9})\.")
EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")
HEAD = "output.weight"
# Part of a name -> the role that rules know it by; the first that is found decides.
ROLES = (
    ("attn_qkv.weight", "attn_v"),
    ("attn_kv_b.weight", "attn_v"),
    ("attn_v.weight", "attn_v"),
    ("attn_k.weight", "attn_k"),
    ("attn_q.weight", "attn_q"),
    ("attn_output.weight", "attn_output"),
    ("ffn_up", "ffn_up"),
    ("ffn_gate", "ffn_gate"),
    ("ffn_down", "ffn_down"),
)
COUNTED = ("attn_v", "ffn_down", "ffn_gate", "ffn_up")
# Stored in F32 by converters.
KEPT_IN_FULL = re.compile(
    r"_norm|ffn_gate_inp|\.bias$|rope_freqs|ssm_conv1d|_compressor_ape|hc_(?:\w+_)?fn"
    r"|altup_(?:correct|predict)_coef"
    r"|shortconv\.conv|^position_embd|^token_types|time_mix_(?:first|w1|w2|decay_w[12]|lerp_fused)"
)
# Left by llama-quantize as they are stored: small, and much depends on them.
LEFT = re.compile(
    r"(?<!weight)$|_norm\.weight|ffn_gate_inp\.weight|ffn_gate_tid2eid\.weight|altup|laurel"
    r"|per_layer_model_proj|^position_embd\.weight$|^token_types\.weight$|ssm_conv1d"
    r"|shortconv\.conv\.weight|indexer\.[kq]_proj\.weight"
    r"|time_mix_(?:first|[wva][012]|g[12]|decay_w[12]|lerp_fused)\.weight|attn_rel_b\.weight"
    r"|\.position_embd|sam\.pos_embd|sam\.neck\.|sam\.net_|\.rel_pos|\.patch_embd|\.patch_merger"
    r"|a\.rvq\.codebook|mm\.a\.code_embd"
)
LEFT_IN = {
    "glm5-next": re.compile(
        r"hc_|indexer\.(?:attn_q_b|attn_k|proj)|indexer_compressor_(?:gate|ape)"
        r"|ssm_(?:f_a|f_b|g_a|g_b|beta)\.weight|attn_(?:kv_a_mqa|k_b|v_b)\.weight"
    )
}
# These get 8 bits whatever the mix, if it quantizes at all.
EIGHT_BITS_IN = {"glm5-next": re.compile(r"attn_q_[ab]|nextn\.eh_proj")}
# Architecture -> the layers of what llama.cpp counts as its model of 70 billion.
SEVENTY_BILLION = {"llama": 80, "llama-embed": 80, "deci": 80, "qwen2": 80, "olmo": 80, "jais2": 68}
# Names are the same for every mix, and planning asks of all mixes.
KEPT = 2**14  # more than any model has tensors


@dataclass(frozen=True)
class Layout:
    """What rules ask of a model; heads are those of its first layer, 0 without attention there."""

    architecture: str
    layers: int  # that draft tokens counted
    experts: int = 0
    heads: int = 0
    key_value_heads: int = 0
    drafting: int = 0  # of the layers, the last

    @property
    def shared_heads(self) -> int:
        """Query heads that share one key and value head."""
        return self.heads // self.key_value_heads if self.key_value_heads else 0

    @property
    def is_seventy_billion(self) -> bool:
        grouped = not self.architecture.startswith("llama") or self.heads != self.key_value_heads
        trunk = self.layers - self.drafting
        return trunk == SEVENTY_BILLION.get(self.architecture) and grouped


@dataclass(frozen=True, eq=False)
class Position:
    """Where a tensor stands, as far as rules ask: the how manieth of its role, of how many."""

    layout: Layout
    order: int  # counted over the tensors of its role, as their names sort
    place: int  # the same, but the layer for the parts of a model with experts
    places: int
    matrices: int  # one an expert, where they are stacked


@dataclass(frozen=True)
class Placed:
    """A tensor as mixes see it. One that is left keeps the type that it is stored in."""

    name: str
    columns: int
    stored: str
    role: str
    at: Position
    is_left: bool
    has_eight_bits: bool


Where = Callable[[Position], bool]
Tensor = tuple[str, tuple[int, ...], str]  # name, shape [..., rows, columns], type as stored


def placed(
    tensors: Sequence[Tensor], layout: Layout, uncounted: AbstractSet[str] = frozenset()
) -> tuple[Placed, ...]:
    """Return the tensors of a model, placed.

    Those that are `uncounted` get their type from elsewhere: the rest is counted without them.
    """
    is_tied = all(name != HEAD for name, _, _ in tensors)
    eight_bits = EIGHT_BITS_IN.get(layout.architecture)
    orders = _orders(tensors, layout, uncounted)
    values = sum(role_of(name, is_tied) == "attn_v" for name, _, _ in tensors)
    found = []
    for name, shape, stored in tensors:
        role, order = role_of(name, is_tied), orders.get(name, 0)
        place, places = order, layout.layers
        if role == "attn_v":
            places = values
        elif layout.experts > 1 and (match := LAYER.match(name)):
            place = int(match[1])
        at = Position(layout, order, place, places, shape[-3] if len(shape) > 2 else 1)
        is_left = is_left_alone(name, shape, layout.architecture)
        has_eight_bits = eight_bits is not None and eight_bits.search(name) is not None
        found.append(Placed(name, shape[-1], stored, role, at, is_left, has_eight_bits))
    return tuple(found)


def _orders(
    tensors: Iterable[Tensor], layout: Layout, uncounted: AbstractSet[str]
) -> dict[str, int]:
    """Return how many of its role come before each tensor that a mix decides on."""
    counts = dict.fromkeys(COUNTED, 0)
    orders = {}
    for name, shape, _ in sorted(tensors, key=lambda tensor: _file_order(tensor[0])):
        role = role_of(name, False)
        if role not in counts or name in uncounted:
            continue
        if not is_left_alone(name, shape, layout.architecture):
            orders[name] = counts[role]
            counts[role] += 1
    return orders


def _file_order(name: str) -> tuple[int, str]:
    """llama.cpp's: by layer, then by name; first what is of no layer."""
    match = LAYER.match(name)
    return (int(match[1]) if match else -1), name


@lru_cache(maxsize=KEPT)
def role_of(name: str, is_tied: bool) -> str:
    """Return a tensor's role; an embedding that serves as the output matrix is the head."""
    if name == HEAD:
        return "head"
    if name in EMBEDDINGS:
        return "head" if is_tied else "token_embd"
    return next((role for part, role in ROLES if part in name), "")


@lru_cache(maxsize=KEPT)
def is_kept_in_full(name: str, shape: tuple[int, ...]) -> bool:
    """Vectors, norms and routers are stored in F32: they are tiny, everything depends on them."""
    return len(shape) < 2 or not name.endswith("weight") or KEPT_IN_FULL.search(name) is not None


@lru_cache(maxsize=KEPT)
def is_left_alone(name: str, shape: tuple[int, ...], architecture: str) -> bool:
    """Return whether no mix quantizes the tensor."""
    if all(size == 1 for size in shape[:-1]):
        return True
    special = LEFT_IN.get(architecture)
    return LEFT.search(name) is not None or (special is not None and bool(special.search(name)))


# The questions


def anywhere(_: Position) -> bool:
    return True


def more_bits(at: Position) -> bool:
    """The first and last eighth of the layers, and every third between them."""
    eighth = at.places // 8
    return at.place < eighth or at.place >= 7 * at.places // 8 or (at.place - eighth) % 3 == 2


def first_eighth(at: Position) -> bool:
    return at.place < at.places // 8


def first_eighth_as_counted(at: Position) -> bool:
    """Shared experts are counted beside the others here: the eighth ends sooner."""
    return at.order < at.places // 8


def first_sixteenth(at: Position) -> bool:
    return at.place < at.places // 16


def first_two(at: Position) -> bool:
    return at.place < 2


def first_four(at: Position) -> bool:
    return at.place < 4


def four_share_values(at: Position) -> bool:
    """Values are small then, and every one of them serves many heads."""
    return at.layout.shared_heads >= 4


def seventy_billion(at: Position) -> bool:
    """The shape of Llama 2 70B and later: a few key and value heads in eighty layers."""
    return at.layout.is_seventy_billion


def four_share_values_in_seventy_billion(at: Position) -> bool:
    return four_share_values(at) and seventy_billion(at)


def eight_experts(at: Position) -> bool:
    """Mixtral's shape, where attention is a tiny part of the file."""
    return at.layout.experts == 8


def eight_experts_and_more_bits(at: Position) -> bool:
    return eight_experts(at) and more_bits(at)


def many_read_values(at: Position) -> bool:
    return four_share_values(at) or at.layout.experts >= 4


def middle(at: Position) -> bool:
    """All layers but the first and the last eighth."""
    return at.places // 8 <= at.place < 7 * at.places // 8


def in_falcon(at: Position) -> bool:
    return at.layout.architecture == "falcon"


def in_falcon_first_sixteenth(at: Position) -> bool:
    return in_falcon(at) and first_sixteenth(at)


def in_falcon_more_bits(at: Position) -> bool:
    return in_falcon(at) and more_bits(at)


def stacked(at: Position) -> bool:
    """One matrix an expert, in one tensor."""
    return at.matrices > 1


def projection_in_bailing(at: Position) -> bool:
    """There, a head's projections are stacked too."""
    return at.layout.architecture == "bailingmoe3" and stacked(at)
