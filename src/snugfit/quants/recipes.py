"""Named mixes as data: which tensor type each role and layer gets.

The mixes are those of `llama-quantize`, so that `Q4_K_M` means here what it means everywhere: the
letter after K names the mix (small, medium, large), nothing else. A mix is a base type and rules;
the first rule that matches a tensor decides. Nothing here measures error: that is allocation.

llama-quantize lets a few mixes depend on whether there is an importance matrix. Here a mix is the
same either way: the IQ4 ones as llama-quantize has them with importance, Q4_0 and Q5_0 as without.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from snugfit.errors import UnsupportedError
from snugfit.quants.positions import (
    Where,
    anywhere,
    eight_experts,
    eight_experts_and_more_bits,
    first_eighth,
    first_four,
    first_sixteenth,
    first_two,
    four_share_values,
    in_experts,
    is_left_at_16_bits,
    is_never_quantized,
    many_read_values,
    middle,
    more_bits,
    part_of,
    position,
    seventy_billion,
)
from snugfit.quants.types import TYPES


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
    embedding: str = ""  # where it is not the head; else the base
    # llama-quantize refuses these without importance: most of what they keep is chosen by it.
    needs_importance: bool = False
    last_resort: bool = False  # loses so much that only models that fit no other way take it
    # Another of these bytes or fewer loses less (benchmarks/quality.py): never the best choice.
    by_name_only: bool = False


_SMALL_ATTENTION = (Rule("attn_v", "Q8_0", eight_experts), Rule("attn_k", "Q8_0", eight_experts))

_FIVE_BITS_FOR_OUTPUT = Rule("attn_output", "Q5_K", eight_experts)

# Shared by the mixes of 3 bits: values that many heads read are worth more.
_IQ3_VALUES = (
    *_SMALL_ATTENTION,
    _FIVE_BITS_FOR_OUTPUT,
    Rule("attn_v", "Q5_K", seventy_billion),
    Rule("attn_v", "Q4_K", four_share_values),
)


def _below_three_bits(small: str, output: str) -> tuple[Rule, ...]:
    """The rules of IQ1 and IQ2 mixes: `small` for the few tensors that matter most."""
    return (
        Rule("attn_v", "Q4_K", many_read_values),
        Rule("attn_v", small),
        Rule("attn_k", "Q4_K", eight_experts),
        Rule("ffn_down", small, first_eighth),
        _FIVE_BITS_FOR_OUTPUT,
        Rule("attn_output", output),
    )


_IQ4_RULES = (
    *_SMALL_ATTENTION,
    _FIVE_BITS_FOR_OUTPUT,
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
    "Q5_1": Recipe("Q5_1", 9, "Q6_K", _SMALL_ATTENTION, by_name_only=True),
    "Q5_K_S": Recipe("Q5_K", 16, "Q6_K", _SMALL_ATTENTION),
    "Q5_0": Recipe("Q5_0", 8, "Q6_K", _SMALL_ATTENTION, by_name_only=True),
    "Q4_1": Recipe("Q4_1", 3, "Q6_K", _SMALL_ATTENTION, by_name_only=True),
    "Q4_K_M": Recipe(
        "Q4_K",
        15,
        "Q6_K",
        (
            *_SMALL_ATTENTION,
            _FIVE_BITS_FOR_OUTPUT,
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
            _FIVE_BITS_FOR_OUTPUT,
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
            _FIVE_BITS_FOR_OUTPUT,
            Rule("attn_output", "Q4_K"),
            Rule("attn_v", "Q5_K", first_two),
            Rule("attn_v", "Q5_K", seventy_billion),
            Rule("attn_v", "Q4_K"),
            Rule("attn_qkv", "Q4_K"),
            Rule("ffn_down", "Q5_K", first_sixteenth),
            Rule("ffn_down", "Q4_K"),
        ),
    ),
    "IQ3_M": Recipe(
        "IQ3_S",
        27,
        "Q6_K",
        (
            *_SMALL_ATTENTION,
            _FIVE_BITS_FOR_OUTPUT,
            Rule("attn_output", "Q4_K"),
            Rule("attn_v", "Q5_K", seventy_billion),
            Rule("attn_v", "Q4_K"),
            Rule("attn_qkv", "Q4_K"),
            Rule("ffn_down", "Q4_K", first_eighth),
            Rule("ffn_down", "Q4_K", eight_experts_and_more_bits),
        ),
    ),
    "IQ3_S": Recipe("IQ3_S", 26, "Q6_K", _IQ3_VALUES),
    "Q3_K_S": Recipe(
        "Q3_K",
        11,
        "Q6_K",
        (*_SMALL_ATTENTION, _FIVE_BITS_FOR_OUTPUT, Rule("attn_v", "Q5_K", seventy_billion)),
    ),
    "IQ3_XS": Recipe(
        "IQ3_S",
        22,
        "Q6_K",
        (
            *_IQ3_VALUES,
            Rule("attn_q", "IQ3_XXS"),
            Rule("attn_k", "IQ3_XXS"),
            Rule("ffn_gate", "IQ3_XXS", middle),
            Rule("ffn_up", "IQ3_XXS", middle),
        ),
    ),
    "IQ3_XXS": Recipe(
        "IQ3_XXS",
        23,
        "Q5_K",
        (
            *_IQ3_VALUES,
            Rule("attn_q", "IQ2_S"),
            Rule("attn_k", "IQ2_S"),
            Rule("attn_output", "IQ3_S"),
        ),
        embedding="IQ3_S",
        needs_importance=True,
    ),
    "Q2_K": Recipe(
        "Q2_K",
        10,
        "Q6_K",
        (
            *_SMALL_ATTENTION,
            _FIVE_BITS_FOR_OUTPUT,
            Rule("attn_output", "Q3_K"),
            Rule("attn_v", "Q5_K", seventy_billion),
            Rule("attn_v", "Q4_K", four_share_values),
            Rule("attn_v", "Q3_K"),
            Rule("ffn_down", "Q3_K"),
        ),
    ),
    "Q2_K_S": Recipe(
        "Q2_K",
        21,
        "Q6_K",
        (
            *_SMALL_ATTENTION,
            Rule("attn_v", "Q5_K", seventy_billion),
            Rule("attn_v", "Q4_K", four_share_values),
            Rule("ffn_down", "Q4_K", first_eighth),
        ),
        needs_importance=True,
    ),
    "IQ2_M": Recipe(
        "IQ2_S",
        29,
        "Q5_K",
        _below_three_bits("IQ3_S", "IQ3_S"),
        embedding="IQ3_S",
        needs_importance=True,
    ),
    "IQ2_S": Recipe(
        "IQ2_XS",
        28,
        "Q5_K",
        _below_three_bits("IQ3_S", "IQ3_S"),
        embedding="IQ3_S",
        needs_importance=True,
        last_resort=True,
    ),
    "IQ2_XS": Recipe(
        "IQ2_XS",
        20,
        "Q5_K",
        _below_three_bits("Q2_K", "IQ2_XS"),
        embedding="Q2_K",
        needs_importance=True,
        last_resort=True,
    ),
    "IQ2_XXS": Recipe(
        "IQ2_XXS",
        19,
        "Q5_K",
        _below_three_bits("Q2_K", "IQ2_XXS"),
        embedding="Q2_K",
        needs_importance=True,
        last_resort=True,
    ),
    "IQ1_M": Recipe(
        "IQ1_M",
        31,
        "Q5_K",
        _below_three_bits("Q2_K", "IQ2_XXS"),
        embedding="Q2_K",
        needs_importance=True,
        last_resort=True,
    ),
    "IQ1_S": Recipe(
        "IQ1_S",
        24,
        "Q5_K",
        _below_three_bits("Q2_K", "IQ2_XXS"),
        embedding="Q2_K",
        needs_importance=True,
        last_resort=True,
    ),
    # For models trained to hold no more than these values.
    "MXFP4_MOE": Recipe(
        "Q8_0",
        38,
        "Q8_0",
        (
            Rule("ffn_gate", "MXFP4", in_experts),
            Rule("ffn_up", "MXFP4", in_experts),
            Rule("ffn_down", "MXFP4", in_experts),
        ),
        by_name_only=True,
    ),
    "Q2_0": Recipe("Q2_0", 41, "Q6_K", _SMALL_ATTENTION, embedding="Q4_K", by_name_only=True),
    "TQ2_0": Recipe("TQ2_0", 37, "Q6_K", _SMALL_ATTENTION, embedding="Q4_K", by_name_only=True),
    "TQ1_0": Recipe("TQ1_0", 36, "Q6_K", _SMALL_ATTENTION, embedding="Q4_K", by_name_only=True),
    "Q1_0": Recipe("Q1_0", 40, "Q6_K", _SMALL_ATTENTION, by_name_only=True),
}

# A row that a type's blocks do not fill takes the nearest type of 32-weight blocks, then F16.
FALLBACKS = {
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
    "TQ1_0": "Q4_0",
    "TQ2_0": "Q4_0",
    "Q2_0": "Q4_0",
    **dict.fromkeys(
        ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"
    ),
}
EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")


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
    heads = ("output.weight",) if "output.weight" in shapes else EMBEDDINGS
    rules = _rules_by_role(recipe)
    chosen = {}
    for name, shape in shapes.items():
        if is_kept_in_full(name, shape):
            chosen[name] = "F32"
        elif is_left_at_16_bits(name):
            chosen[name] = "BF16" if TYPES[recipe.base].is_quantized else recipe.base
        elif name in heads:
            fits = shape[-1] % TYPES[recipe.base].block_weights == 0
            chosen[name] = fitting_type(recipe.head if fits else "Q8_0", shape[-1])
        elif name in EMBEDDINGS:
            chosen[name] = fitting_type(recipe.embedding or recipe.base, shape[-1])
        else:
            role, layer, stacked = part_of(name)
            by_rule = recipe.base
            if role in rules:
                at = position(layer, layers, experts, shared_heads, stacked)
                by_rule = next((r.type_name for r in rules[role] if r.where(at)), recipe.base)
            chosen[name] = fitting_type(by_rule, shape[-1])
    return chosen


def is_kept_in_full(name: str, shape: tuple[int, ...]) -> bool:
    """Vectors, norms and routers stay in F32: they are tiny and everything depends on them."""
    return len(shape) < 2 or is_never_quantized(name)


def fitting_type(type_name: str, columns: int) -> str:
    """Return `type_name`, or the fallback whose blocks fill a row of `columns` weights."""
    while columns % TYPES[type_name].block_weights:
        type_name = FALLBACKS.get(type_name, "F16")
    return type_name


def _rules_by_role(recipe: Recipe) -> dict[str, list[Rule]]:
    rules: dict[str, list[Rule]] = {}
    for rule in recipe.rules:
        rules.setdefault(rule.role, []).append(rule)
    return rules
