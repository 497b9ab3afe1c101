"""The pre-tokenizer of a tokenizer.json, recognised: llama.cpp's name for the same behaviour.

A tokenizer.json says in words how it splits text; the words become a chain of steps, and the chain
is looked up in `archs/pre_tokenizers.py`. One that is not there is refused, never guessed: a wrong
split gives other tokens than the model was trained on, silently.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from snugfit.archs.pre_tokenizers import (
    BEHAVIOURS,
    CLASS_NAMES,
    GPT2_SPLIT,
    PRE_TOKENIZERS,
    SAME_AS,
    PreTokenizer,
)
from snugfit.errors import UnsupportedError

Chain = tuple[str, ...]
# Names that llama.cpp knows and no row has: good for an override, not for calibration here.
OTHER_NAMES = {
    "viking",
    "bloom",
    "poro-chat",
    "gpt3-finnish",
    "chameleon",
    "exaone-moe",
    "kimi-k2",
    "youtu",
    "spark2_5",
    "laguna",
    "afmoe",
    "tiny_aya",
    "cohere2moe",
    "ufakzeka",
    "sarvam-moe",
    "gemma4",
    "roberta-bpe",
    "jina-v1-en",
    "jina-v2-code",
    "jina-v2-es",
    "jina-v2-de",
    "jina-es",
    "jina-de",
    "granite-embed-multi-97m",
    "granite-embed-multi-311m",
    "whitespace",
}
# Control characters that some files write out and others escape.
ESCAPED = str.maketrans({"\r": r"\r", "\n": r"\n", "\t": r"\t"})
DEEPEST = 8  # nested sequences


def pre_tokenizer_name(where: str, tokenizer: Mapping[str, Any], model_class: str = "") -> str:
    """Return `tokenizer.ggml.pre` of a byte-level tokenizer.json; `where` is its path.

    Raises UnsupportedError for a chain that no row has.
    """
    described = tokenizer.get("pre_tokenizer")
    chain = chain_of(described)
    rows = BEHAVIOURS.items() if maps_to_bytes(described) else ()
    matching = [name for name, row in rows if chain in _chains(row)]
    if not matching:
        said = " then ".join(chain) or "no split"
        raise UnsupportedError(
            f"{where}: splits text by {said[:300]}, which no pre-tokenizer of llama.cpp known here "
            "does. If you know the one that does, name it with --pre NAME (of convert, quantize or "
            "fit)."
        )
    model = tokenizer.get("model")
    ignores = isinstance(model, Mapping) and model.get("ignore_merges") is True
    alike = [name for name in matching if BEHAVIOURS[name].ignore_merges == ignores] or matching
    for name in CLASS_NAMES.get(model_class, ()):
        if SAME_AS.get(name, name) in alike:
            return name
    return alike[0]


def checked_name(name: str) -> str:
    """Return an override's name. Raises UnsupportedError if llama.cpp does not know it."""
    if name not in PRE_TOKENIZERS and name not in OTHER_NAMES:
        raise UnsupportedError(
            f"--pre {name}: llama.cpp knows no such pre-tokenizer. It knows "
            f"{', '.join(sorted([*PRE_TOKENIZERS, *OTHER_NAMES]))}."
        )
    return name


def split_name(where: str, split: str, model_class: str = "") -> str:
    """Return the name of one expression, as tekken.json has it. Raises UnsupportedError."""
    step = {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated"}
    steps = {"type": "Sequence", "pretokenizers": [step, {"type": "ByteLevel", "use_regex": False}]}
    described = {"pre_tokenizer": steps, "model": {"ignore_merges": True}}
    return pre_tokenizer_name(where, described, model_class)


def chain_of(described: Any) -> Chain:
    """Return the steps of a `pre_tokenizer` object, before the final mapping to bytes."""
    return tuple(step for step in _steps(described, 0) if step != "ByteLevel")


def maps_to_bytes(described: Any) -> bool:
    """Say whether a `pre_tokenizer` object writes text in GPT-2's letters for bytes."""
    return "ByteLevel" in tuple(_steps(described, 0))


def _chains(row: PreTokenizer) -> tuple[Chain, ...]:
    # llama.cpp's "default" is a fallback of its own; no file means it by these words.
    return () if row is BEHAVIOURS["default"] else (row.splits, *row.written)


def _steps(described: Any, depth: int) -> Iterator[str]:
    if not isinstance(described, Mapping) or depth > DEEPEST:
        yield f"{described!r}"[:80]
        return
    kind = described.get("type")
    if kind == "Sequence":
        inner = described.get("pretokenizers")
        for step in inner if isinstance(inner, list) else [inner]:
            yield from _steps(step, depth + 1)
    elif kind == "Split":
        yield _split(described)
    elif kind == "Digits":
        yield r"\p{N}" if described.get("individual_digits") is True else r"\p{N}+"
    elif kind == "ByteLevel" and not described.get("add_prefix_space"):
        # tokenizers' default is to split like GPT-2 on the way.
        if described.get("use_regex", True):
            yield GPT2_SPLIT
        yield "ByteLevel"
    else:
        extra = described.get("behavior", "with a space before" if kind == "ByteLevel" else "")
        yield f"{kind} {extra}".strip()


def _split(described: Mapping[str, Any]) -> str:
    pattern = described.get("pattern")
    pattern = pattern if isinstance(pattern, Mapping) else {}
    expression, behavior = pattern.get("Regex"), described.get("behavior")
    if not isinstance(expression, str):
        return f"Split {pattern} {behavior}"
    expression = expression.translate(ESCAPED)
    # An expression that matches everything, as those that end in whitespace do, leaves nothing
    # between its matches; then it is the same to remove what is between them.
    keeps_all = behavior == "Removed" and described.get("invert") is True
    if behavior == "Isolated" or (keeps_all and expression.endswith(r"\s+")):
        return expression
    return f"{behavior} {expression}"
