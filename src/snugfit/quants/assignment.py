"""Which type a mix gives every tensor: what was asked for, the mix's rules, what fills the row."""

from __future__ import annotations

from collections.abc import Sequence

from snugfit.quants.overrides import NONE, Overrides
from snugfit.quants.positions import EMBEDDINGS, HEAD, Placed, in_falcon
from snugfit.quants.recipes import ANY_ROLE, Recipe, Rule, recipe_named
from snugfit.quants.types import TYPES

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
# A type that is garbage without importance -> the smallest larger one that is not.
WITHOUT_IMPORTANCE = {
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S"), "Q2_K"),
    "IQ3_XXS": "IQ3_S",
}


def assign_types(
    mix: str,
    tensors: Sequence[Placed],
    *,
    has_importance: bool = True,
    overrides: Overrides = NONE,
) -> dict[str, str]:
    """Return the type name that `mix` gives each tensor, as llama-quantize does.

    What a user asks for of single tensors comes first; the mix, for the others; then whatever
    fills the row. Only tensors that mixes quantize take part.
    """
    recipe = recipe_named(mix)
    rules = _rules_by_role(recipe, has_importance)
    chosen = {}
    for tensor in tensors:
        if tensor.is_left:
            chosen[tensor.name] = tensor.stored
            continue
        asked = overrides.type_of(tensor.name, tensor.stored) if overrides is not NONE else ""
        chosen[tensor.name] = asked or _mixed(tensor, recipe, rules, overrides)
    return chosen


Rules = dict[str, list[Rule]]


def _mixed(tensor: Placed, recipe: Recipe, rules: Rules, overrides: Overrides) -> str:
    base = TYPES[recipe.base]
    if not base.is_quantized:
        return recipe.base
    if overrides is not NONE and (asked := overrides.pattern_type(tensor.name)):
        return fitting_type(asked, tensor.columns)
    if overrides.pure:
        return fitting_type(recipe.base, tensor.columns)
    if tensor.has_eight_bits:
        return fitting_type("Q8_0", tensor.columns)
    if tensor.role == "head":
        head = recipe.head
        if in_falcon(tensor.at) or tensor.columns % base.block_weights:
            head = "Q8_0"
        return fitting_type(overrides.head or head, tensor.columns)
    by_rule = recipe.base
    if tensor.role == "token_embd" and recipe.embedding:
        by_rule = recipe.embedding
    else:
        for rule in rules.get(tensor.role) or rules[ANY_ROLE]:
            if rule.where(tensor.at):
                by_rule = rule.type_name or recipe.base
                break
    return fitting_type(by_rule, tensor.columns)


def needs_importance(tensor: str, type_name: str, mix: str) -> bool:
    """Return whether a tensor is garbage in this type without importance, as llama-quantize says.

    Embeddings and the output matrix are not; Q2_K is in Q2_K_S alone.
    """
    if tensor == HEAD or tensor in EMBEDDINGS:
        return False
    return type_name in WITHOUT_IMPORTANCE or (type_name == "Q2_K" and mix == "Q2_K_S")


def type_without_importance(type_name: str, mix: str, columns: int) -> str:
    """Return what a tensor gets for a type that needs importance, where it has none."""
    if mix == "Q2_K_S":  # whose Q2_K needs it too
        return fitting_type("Q3_K", columns)
    return fitting_type(WITHOUT_IMPORTANCE[type_name], columns)


def fitting_type(type_name: str, columns: int) -> str:
    """Return `type_name`, or the fallback whose blocks fill a row of `columns` weights."""
    while columns % TYPES[type_name].block_weights:
        type_name = FALLBACKS.get(type_name, "F16")
    return type_name


def _rules_by_role(recipe: Recipe, has_importance: bool) -> Rules:
    """Return the rules that hold, by role; those of any role belong to each."""
    rules: Rules = {ANY_ROLE: []}
    for rule in recipe.rules:
        if rule.importance in (None, has_importance):
            rules.setdefault(rule.role, []).append(rule)
    for role, own in rules.items():
        if role != ANY_ROLE:
            own += rules[ANY_ROLE]
    return rules
