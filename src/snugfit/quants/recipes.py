"""Named mixes as data: which tensor type each role and layer gets.

The mixes are those of `llama-quantize`, so that `Q4_K_M` means here what it means everywhere: the
letter after K names the mix (small, medium, large), nothing else. A mix is a base type and rules;
the first rule that matches a tensor decides. A few rules hold only with importance, or without.
Nothing here measures error: that is allocation.
"""

from __future__ import annotations

from dataclasses import dataclass

from snugfit.errors import UnsupportedError
from snugfit.quants.positions import (
    Where,
    anywhere,
    eight_experts,
    eight_experts_and_more_bits,
    first_eighth,
    first_eighth_as_counted,
    first_four,
    first_sixteenth,
    first_two,
    four_share_values,
    four_share_values_in_seventy_billion,
    in_falcon,
    in_falcon_first_sixteenth,
    in_falcon_more_bits,
    many_read_values,
    middle,
    more_bits,
    projection_in_bailing,
    seventy_billion,
    stacked,
)

ANY_ROLE = "*"
# llama-quantize's name for copying every tensor as it is: no mix.
COPY = "COPY"


@dataclass(frozen=True)
class Rule:
    role: str
    type_name: str  # empty for the mix's base
    where: Where = anywhere
    importance: bool | None = None  # if it holds only with, or only without


@dataclass(frozen=True)
class Recipe:
    """A mix. `file_type` is llama.cpp's number for it, stored as `general.file_type`."""

    base: str
    file_type: int
    head: str  # the output matrix, or the embedding where it serves as one
    rules: tuple[Rule, ...] = ()
    embedding: str = ""  # where it is not the head; else the base, or what rules say
    # llama-quantize refuses these without importance: most of what they keep is chosen by it.
    needs_importance: bool = False
    last_resort: bool = False  # loses so much that only models that fit no other way take it
    # Another of these bytes or fewer loses less (benchmarks/quality.py): never the best choice.
    by_name_only: bool = False


_SMALL_ATTENTION = (Rule("attn_v", "Q8_0", eight_experts), Rule("attn_k", "Q8_0", eight_experts))

# Falcon's attention output has the base type.
_FALCON_OUTPUT = Rule("attn_output", "", in_falcon)
_FIVE_BITS_FOR_OUTPUT = Rule("attn_output", "Q5_K", eight_experts)
_OUTPUT = (_FALCON_OUTPUT, _FIVE_BITS_FOR_OUTPUT)

# Shared by the mixes of 3 bits: values that many heads read are worth more.
_IQ3_VALUES = (
    *_SMALL_ATTENTION,
    *_OUTPUT,
    Rule("attn_v", "Q5_K", four_share_values_in_seventy_billion),
    Rule("attn_v", "Q4_K", four_share_values),
)


def _below_three_bits(small: str, output: str) -> tuple[Rule, ...]:
    """The rules of IQ1 and IQ2 mixes: `small` for the few tensors that matter most."""
    return (
        Rule("attn_v", "Q4_K", many_read_values),
        Rule("attn_v", small),
        Rule("attn_k", "Q4_K", eight_experts),
        Rule("ffn_down", small, first_eighth_as_counted),
        _FIVE_BITS_FOR_OUTPUT,
        Rule("attn_output", output),
    )


_IQ4_RULES = (
    *_SMALL_ATTENTION,
    *_OUTPUT,
    Rule("attn_v", "Q5_K", four_share_values),
    Rule("ffn_down", "Q5_K", first_eighth, importance=False),
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
            Rule("ffn_down", "Q6_K", more_bits),
        ),
    ),
    "Q5_1": Recipe("Q5_1", 9, "Q6_K", _SMALL_ATTENTION, by_name_only=True),
    "Q5_K_S": Recipe("Q5_K", 16, "Q6_K", _SMALL_ATTENTION),
    "Q5_0": Recipe(
        "Q5_0",
        8,
        "Q6_K",
        (*_SMALL_ATTENTION, Rule("ffn_down", "Q5_1", first_eighth, importance=True)),
        by_name_only=True,
    ),
    "Q4_1": Recipe("Q4_1", 3, "Q6_K", _SMALL_ATTENTION, by_name_only=True),
    "Q4_K_M": Recipe(
        "Q4_K",
        15,
        "Q6_K",
        (
            *_SMALL_ATTENTION,
            *_OUTPUT,
            Rule("attn_v", "Q6_K", more_bits),
            Rule("attn_v", "Q5_K", seventy_billion),
            Rule("ffn_down", "Q6_K", in_falcon_first_sixteenth),
            Rule("ffn_down", "Q5_K", in_falcon_more_bits),
            Rule("ffn_down", "", in_falcon),
            Rule("ffn_down", "Q6_K", more_bits),
        ),
    ),
    "Q4_K_S": Recipe(
        "Q4_K",
        14,
        "Q6_K",
        (
            *_SMALL_ATTENTION,
            *_OUTPUT,
            Rule("attn_v", "Q5_K", first_four),
            Rule("attn_v", "Q5_K", seventy_billion),
            Rule("ffn_down", "", in_falcon),
            Rule("ffn_down", "Q5_K", first_eighth),
        ),
    ),
    "Q4_0": Recipe(
        "Q4_0",
        2,
        "Q6_K",
        (*_SMALL_ATTENTION, Rule("ffn_down", "Q4_1", first_eighth, importance=True)),
        by_name_only=True,
    ),
    "IQ4_NL": Recipe("IQ4_NL", 25, "Q6_K", _IQ4_RULES),
    "IQ4_XS": Recipe("IQ4_XS", 30, "Q6_K", _IQ4_RULES),
    "Q3_K_L": Recipe(
        "Q3_K",
        13,
        "Q6_K",
        (
            *_SMALL_ATTENTION,
            Rule("attn_output", "Q4_K", in_falcon),
            Rule("attn_output", "", eight_experts),
            Rule("attn_output", "Q5_K"),
            Rule("attn_v", "Q5_K"),
            Rule("ffn_down", "Q4_K", in_falcon),
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
            *_OUTPUT,
            Rule("attn_output", "Q4_K"),
            Rule("attn_v", "Q5_K", first_two),
            Rule("attn_v", "Q5_K", seventy_billion),
            Rule("attn_v", "Q4_K"),
            Rule("ffn_down", "Q5_K", first_sixteenth),
            Rule("ffn_down", "Q4_K", in_falcon_more_bits),
            Rule("ffn_down", "", in_falcon),
            Rule("ffn_down", "Q4_K"),
        ),
    ),
    "IQ3_M": Recipe(
        "IQ3_S",
        27,
        "Q6_K",
        (
            *_SMALL_ATTENTION,
            *_OUTPUT,
            Rule("attn_output", "Q4_K"),
            Rule("attn_v", "Q5_K", seventy_billion),
            Rule("attn_v", "Q4_K"),
            Rule("ffn_down", "Q4_K", first_eighth),
            Rule("ffn_down", "Q4_K", eight_experts_and_more_bits),
        ),
    ),
    "IQ3_S": Recipe("IQ3_S", 26, "Q6_K", _IQ3_VALUES),
    "Q3_K_S": Recipe(
        "Q3_K",
        11,
        "Q6_K",
        (*_SMALL_ATTENTION, *_OUTPUT, Rule("attn_v", "Q5_K", seventy_billion)),
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
            Rule("attn_v", "IQ3_S", importance=False),
            Rule("ffn_down", "Q4_K", first_eighth, importance=False),
            Rule("ffn_down", "Q3_K", importance=False),
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
            *_OUTPUT,
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
            Rule("attn_v", "Q5_K", four_share_values_in_seventy_billion),
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
        "MXFP4",
        38,
        "Q8_0",
        (
            Rule("ffn_gate", "MXFP4", stacked),
            Rule("ffn_up", "MXFP4", stacked),
            Rule("ffn_down", "MXFP4", stacked),
            Rule(ANY_ROLE, "Q8_0", projection_in_bailing),
            Rule(ANY_ROLE, "MXFP4", stacked),
            Rule(ANY_ROLE, "Q8_0"),
        ),
        by_name_only=True,
    ),
    "Q2_0": Recipe("Q2_0", 41, "Q6_K", _SMALL_ATTENTION, embedding="Q4_K", by_name_only=True),
    "TQ2_0": Recipe("TQ2_0", 37, "Q6_K", _SMALL_ATTENTION, embedding="Q4_K", by_name_only=True),
    "TQ1_0": Recipe("TQ1_0", 36, "Q6_K", _SMALL_ATTENTION, embedding="Q4_K", by_name_only=True),
    "Q1_0": Recipe("Q1_0", 40, "Q6_K", _SMALL_ATTENTION, by_name_only=True),
}

# llama-quantize's shorter names.
ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
MIX_OF_FILE_TYPE = {recipe.file_type: name for name, recipe in RECIPES.items()}


def mix_named(name: str) -> str:
    """Return a mix's own name for a name in any case, an alias, or llama.cpp's file type number.

    Raises UnsupportedError with the known names.
    """
    text = name.upper()
    text = ALIASES.get(text, text)
    if text.isdecimal():
        text = MIX_OF_FILE_TYPE.get(int(text[:9]), text)
    if text not in RECIPES:
        raise UnsupportedError(f"'{name}' is not a known mix. Known: {', '.join(RECIPES)}.")
    return text


def is_mix(name: str) -> bool:
    """Return whether `name` is a mix as `mix_named` reads it, or COPY."""
    text = name.upper()
    number = int(text[:9]) if text.isdecimal() else -1
    return text == COPY or text in RECIPES or text in ALIASES or number in MIX_OF_FILE_TYPE


def recipe_named(name: str) -> Recipe:
    """Return the mix called `name`. Raises UnsupportedError with the known names."""
    return RECIPES[mix_named(name)]
