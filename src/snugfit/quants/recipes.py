"""Named mixes as data: which tensor type each role and layer gets.

The mixes are those of `llama-quantize`, so that `Q4_K_M` means here what it means everywhere: the
letter after K names the mix (small, medium, large), nothing else. A mix is a base type and rules;
the first rule that matches a tensor decides. Nothing here measures error: that is allocation.

llama-quantize lets a few mixes depend on whether there is an importance matrix. Here a mix is the
same either way: the IQ4 ones as llama-quantize has them with importance, Q4_0 and Q5_0 as without.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from snugfit.errors import UnsupportedError
from snugfit.quants.types import TYPES


@dataclass(frozen=True)
class Position:
    """Where a tensor stands, as far as rules ask: its layer, of how many, beside experts."""

    layer: int
    layers: int
    experts: int
    shared_heads: int  # query heads that share one key and value head


Where = Callable[[Position], bool]


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


@dataclass(frozen=True)
class Rule:
    role: str
    type_name: str
    where: Where = anywhere


@dataclass(frozen=True)
class Recipe:
    """A mix. `file_type` is llama.cpp's number for it, stored as `general.file_type`."""

    base: str
    file_type: int
    head: str  # the output matrix, or the embedding where it serves as one
    rules: tuple[Rule, ...] = ()
    # Another of these bytes or fewer loses less (benchmarks/quality.py): never the best choice.
    by_name_only: bool = False


_SMALL_ATTENTION = (
    Rule("attn_v", "Q8_0", eight_experts),
    Rule("attn_k", "Q8_0", eight_experts),
)

_IQ4_RULES = (
    *_SMALL_ATTENTION,
    Rule("attn_output", "Q5_K", eight_experts),
    Rule("attn_v", "Q5_K", four_share_values),
)

# From the largest to the smallest.
RECIPES: dict[str, Recipe] = {
    "F32": Recipe("F32", 0, "F32"),
    "BF16": Recipe("BF16", 32, "BF16"),
    "F16": Recipe("F16", 1, "F16"),
    "Q8_0": Recipe("Q8_0", 7, "Q8_0"),
    "Q6_K": Recipe("Q6_K", 18, "Q6_K", _SMALL_ATTENTION),
    "Q5_K_M": Recipe(
        "Q5_K",
        17,
        "Q6_K",
        (
            *_SMALL_ATTENTION,
            Rule("attn_v", "Q6_K", more_bits),
            Rule("attn_qkv", "Q6_K"),
            Rule("ffn_down", "Q6_K", more_bits),
        ),
    ),
    "Q5_K_S": Recipe("Q5_K", 16, "Q6_K", _SMALL_ATTENTION),
    "Q5_0": Recipe("Q5_0", 8, "Q6_K", _SMALL_ATTENTION, by_name_only=True),
    "Q4_K_M": Recipe(
        "Q4_K",
        15,
        "Q6_K",
        (
            *_SMALL_ATTENTION,
            Rule("attn_output", "Q5_K", eight_experts),
            Rule("attn_v", "Q6_K", more_bits),
            Rule("attn_v", "Q5_K", seventy_billion),
            Rule("attn_qkv", "Q5_K"),
            Rule("ffn_down", "Q6_K", more_bits),
        ),
    ),
    "Q4_K_S": Recipe(
        "Q4_K",
        14,
        "Q6_K",
        (
            *_SMALL_ATTENTION,
            Rule("attn_output", "Q5_K", eight_experts),
            Rule("attn_v", "Q5_K", first_four),
            Rule("attn_v", "Q5_K", seventy_billion),
            Rule("ffn_down", "Q5_K", first_eighth),
        ),
    ),
    "Q4_0": Recipe("Q4_0", 2, "Q6_K", _SMALL_ATTENTION, by_name_only=True),
    "IQ4_NL": Recipe("IQ4_NL", 25, "Q6_K", _IQ4_RULES),
    "IQ4_XS": Recipe("IQ4_XS", 30, "Q6_K", _IQ4_RULES),
    "Q3_K_L": Recipe(
        "Q3_K",
        13,
        "Q6_K",
        (
            *_SMALL_ATTENTION,
            Rule("attn_output", "Q3_K", eight_experts),
            Rule("attn_output", "Q5_K"),
            Rule("attn_v", "Q5_K"),
            Rule("attn_qkv", "Q4_K"),
            Rule("ffn_down", "Q5_K"),
        ),
        by_name_only=True,
    ),
    "Q3_K_M": Recipe(
        "Q3_K",
        12,
        "Q6_K",
        (
            *_SMALL_ATTENTION,
            Rule("attn_output", "Q5_K", eight_experts),
            Rule("attn_output", "Q4_K"),
            Rule("attn_v", "Q5_K", first_two),
            Rule("attn_v", "Q5_K", seventy_billion),
            Rule("attn_v", "Q4_K"),
            Rule("attn_qkv", "Q4_K"),
            Rule("ffn_down", "Q5_K", first_sixteenth),
            Rule("ffn_down", "Q4_K"),
        ),
    ),
    "Q3_K_S": Recipe(
        "Q3_K",
        11,
        "Q6_K",
        (
            *_SMALL_ATTENTION,
            Rule("attn_output", "Q5_K", eight_experts),
            Rule("attn_v", "Q5_K", seventy_billion),
        ),
    ),
    "Q2_K": Recipe(
        "Q2_K",
        10,
        "Q6_K",
        (
            *_SMALL_ATTENTION,
            Rule("attn_output", "Q5_K", eight_experts),
            Rule("attn_output", "Q3_K"),
            Rule("attn_v", "Q5_K", seventy_billion),
            Rule("attn_v", "Q4_K", four_share_values),
            Rule("attn_v", "Q3_K"),
            Rule("ffn_down", "Q3_K"),
        ),
    ),
}

# A row that a type's blocks do not fill takes the nearest type of 32-weight blocks, then F16.
FALLBACKS = {
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
    "IQ4_XS": "IQ4_NL",
}
NEVER_QUANTIZED = re.compile(
    r"_norm|ffn_gate_inp|\.bias$|rope_freqs|ssm_conv1d|_compressor_ape|hc_(?:\w+_)?fn"
)
TENSOR_NAME = re.compile(r"blk\.(\d+)\.(\w+)\.weight")


def recipe_named(name: str) -> Recipe:
    """Return the mix called `name`, in any case. Raises UnsupportedError with the known names."""
    found = RECIPES.get(name.upper())
    if found is None:
        raise UnsupportedError(f"'{name}' is not a known mix. Known: {', '.join(RECIPES)}.")
    return found


def assign_types(
    mix: str,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    layers: int,
    experts: int,
    shared_heads: int,
) -> dict[str, str]:
    """Return the type name that `mix` gives each tensor; `shapes` maps GGUF names to shapes.

    `shared_heads` is how many query heads share one key and value head.
    """
    recipe = recipe_named(mix)
    head = "output.weight" if "output.weight" in shapes else "token_embd.weight"
    chosen = {}
    for name, shape in shapes.items():
        if is_kept_in_full(name, shape):
            chosen[name] = "F32"
        elif name == head:
            chosen[name] = fitting_type(recipe.head, shape[-1])
        else:
            by_rule = _type_by_rule(recipe, name, layers, experts, shared_heads)
            chosen[name] = fitting_type(by_rule, shape[-1])
    return chosen


def is_kept_in_full(name: str, shape: tuple[int, ...]) -> bool:
    """Vectors, norms and routers stay in F32: they are tiny and everything depends on them."""
    return len(shape) < 2 or not name.endswith("weight") or bool(NEVER_QUANTIZED.search(name))


def fitting_type(type_name: str, columns: int) -> str:
    """Return `type_name`, or the fallback whose blocks fill a row of `columns` weights."""
    while columns % TYPES[type_name].block_weights:
        type_name = FALLBACKS.get(type_name, "F16")
    return type_name


def _type_by_rule(recipe: Recipe, name: str, layers: int, experts: int, shared_heads: int) -> str:
    match = TENSOR_NAME.fullmatch(name)
    if match is None:
        return recipe.base
    role = match[2].removesuffix("_exps")
    at = Position(int(match[1]), layers, experts, shared_heads)
    for rule in recipe.rules:
        if rule.role == role and rule.where(at):
            return rule.type_name
    return recipe.base
