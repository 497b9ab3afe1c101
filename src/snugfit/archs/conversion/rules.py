"""What a row of the conversion table is made of: rules for tensors that are more than renamed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from snugfit.archs.conversion.config import Config

Array = np.ndarray[Any, Any]
Arrange = Callable[[Array], Array]
Arrangement = Callable[[Array, Config], Array]
Compute = Callable[[Array], Array]


def unchanged(values: Array, _config: Config) -> Array:
    return values


def always(_config: Config) -> bool:
    return True


@dataclass(frozen=True)
class Part:
    """One GGUF tensor, or a part of one, that a stored tensor makes.

    `name` is a template of the rule's match, as r"blk.\\1.attn_k_b.weight": a name in GGUF, or one
    of Hugging Face that gguf's map knows; empty for the stored one. `arrange` moves values without
    changing them: slices, transposes and reshapes are views, so that only the rows that are asked
    for are read. A stack [n, rows, columns] is arranged matrix by matrix unless it is taken
    `whole`. `below` are further arrangements of the same values, whose rows follow; `columns` moves
    values within the rows that are read. `compute` changes each value by itself, in float32;
    `scale` gives the factor of each of so many rows, or one for all. A matrix with fewer than
    `rows` gets rows of zeros after its own.
    """

    name: str = ""
    arrange: Arrangement = unchanged
    compute: Compute | None = None
    whole: bool = False
    dimensions: int = 0
    scale: Callable[[Config, int], Array | float] | None = None
    rows: Callable[[Config], int] | None = None
    below: tuple[Arrangement, ...] = ()
    columns: Arrangement | None = None


@dataclass(frozen=True)
class Stack:
    """Stored matrices that are one tensor in GGUF, stacked in the order of their numbers.

    `pattern` matches a name from end to end; its groups are what stands before the number, the
    number, and what stands after it.
    """

    pattern: str
    count: Callable[[Config], int]


EXPERTS = Stack(r"(.+\.experts)\.(\d+)(\..+)", lambda config: config.experts)


@dataclass(frozen=True)
class Rule:
    """What becomes of tensors whose name matches `pattern` from end to end; no parts: nothing.

    Names are those of a model of text alone, as model.layers.0.mlp.experts.down_proj.weight, where
    a stack of matrices, as of all experts, counts as one tensor under the name without a number.
    """

    pattern: str
    parts: tuple[Part, ...] = ()
    applies: Callable[[Config], bool] = always
    dtypes: tuple[str, ...] = ()  # of the stored tensors that it is for; empty: any


def no_constants(_config: Config) -> dict[str, Array]:
    return {}


def one_kind(_config: Config, _layer: int) -> Hashable:
    return ""


def same_name(name: str, _config: Config) -> str:
    return name


@dataclass(frozen=True)
class ConversionRow:
    """What a model class of transformers needs beyond gguf's name map.

    The first rule that matches a tensor decides; `constants` are tensors that follow from the
    config, where they are not stored; layers of one `layer_kind` have the same tensors; `rename`
    gives tensors outside the decoder's layers a name among them, as draft layers need one.
    """

    architecture: str
    metadata: Callable[[Config], dict[str, Any]]  # keys without the architecture's prefix
    rules: tuple[Rule, ...] = ()
    constants: Callable[[Config], dict[str, Array]] = no_constants
    layer_kind: Callable[[Config, int], Hashable] = one_kind
    stacks: tuple[Stack, ...] = (EXPERTS,)
    prefixes: tuple[str, ...] = ()  # of names, beyond those that all models have
    tied_by_default: bool = False  # transformers' default, where the config does not say
    keeps_drafts: bool = False  # the layers after the last, which only draft tokens (MTP)
    rename: Callable[[str, Config], str] = same_name

    def is_tied(self, config: Config) -> bool:
        """Return whether the embedding serves as the head.

        Of a model of several kinds of input, the config around the language model's decides.
        """
        said = config.outer.get("tie_word_embeddings")
        if said is None:
            return config.flag("tie_word_embeddings", self.tied_by_default)
        return bool(said)


@dataclass(frozen=True)
class ProjectorRow:
    """What becomes of the towers of a model class, for pictures and sound.

    `metadata` returns whole keys; rules name every tensor of a tower. `layers` says which there
    are of each kind, by the start of their names in GGUF; no projector is without those `needed`.
    `rename` comes before the rules.
    """

    metadata: Callable[[Config], dict[str, Any]]
    rules: tuple[Rule, ...]
    layers: Callable[[Config], Mapping[str, Sequence[int]]]
    needed: tuple[str, ...]
    rename: Callable[[str, Config], str] = same_name
