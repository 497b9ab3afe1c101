"""Types that a user asks for of single tensors, beside a mix, in llama-quantize's words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from snugfit.errors import UsageError
from snugfit.quants.positions import EMBEDDINGS, HEAD
from snugfit.quants.types import TYPES

# Classes of characters of ECMAScript's expressions that Python's lack.
POSIX_CLASSES = {
    "[:digit:]": r"\d",
    "[:alpha:]": "a-zA-Z",
    "[:alnum:]": "a-zA-Z0-9",
    "[:lower:]": "a-z",
    "[:upper:]": "A-Z",
    "[:space:]": r"\s",
    "[:punct:]": r"!-/:-@\[-`{-~",
    "[:xdigit:]": "0-9a-fA-F",
}
LONGEST_FILE = 2**24


@dataclass(frozen=True)
class Overrides:
    """What is asked for of single tensors; an empty type leaves a tensor to the mix."""

    patterns: tuple[tuple[re.Pattern[str], str], ...] = ()  # searched for in order
    head: str = ""
    embedding: str = ""
    leave_head: bool = False
    pure: bool = False  # no mix: the base type for all

    def type_of(self, name: str, stored: str) -> str:
        """Return the type of an embedding or the head that was asked for, or an empty text."""
        if name == HEAD:
            return stored if self.leave_head else self.head
        # Embeddings of layers are a large table of their own, which a pattern may name.
        if name in EMBEDDINGS and (name == EMBEDDINGS[0] or not self.pattern_type(name)):
            return self.embedding
        return ""

    def pattern_type(self, name: str) -> str:
        """Return the type of the first pattern that is found in the name, or an empty text."""
        return next((given for pattern, given in self.patterns if pattern.search(name)), "")


NONE = Overrides()


def overrides_from(
    patterns: Iterable[str] = (),
    pattern_file: Path | None = None,
    *,
    head: str = "",
    embedding: str = "",
    leave_head: bool = False,
    pure: bool = False,
) -> Overrides:
    """Read what options say. Raises UsageError.

    As for llama-quantize, a file's patterns are those of its words, and come after the others.
    """
    texts = [*patterns, *(_words(pattern_file) if pattern_file else ())]
    return Overrides(
        tuple(_pattern(text) for text in texts),
        _type("--output-tensor-type", head),
        _type("--token-embedding-type", embedding),
        leave_head,
        pure,
    )


def _words(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            content = file.read(LONGEST_FILE + 1)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}).") from None
    if len(content) > LONGEST_FILE:
        raise UsageError(f"{path}: is far longer than a list of REGEX=TYPE.")
    try:
        return content.decode().split()
    except UnicodeDecodeError:
        raise UsageError(f"{path}: is no text. It lists REGEX=TYPE, one a line.") from None


def _pattern(text: str) -> tuple[re.Pattern[str], str]:
    """Read REGEX=TYPE. The expression is lower-cased, as llama-quantize does, and searched for."""
    expression, separator, type_name = text.partition("=")
    if not (expression and separator and type_name):
        raise UsageError(rf"--tensor-type takes REGEX=TYPE, as 'blk\.0\.ffn=q6_k', not '{text}'.")
    expression = expression.lower()
    for posix, python in POSIX_CLASSES.items():
        expression = expression.replace(posix, python)
    try:
        return re.compile(expression), _type("--tensor-type", type_name)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(f"--tensor-type '{text}': the expression is wrong ({error}).") from None


def _type(option: str, name: str) -> str:
    if name and name.upper() not in TYPES:
        raise UsageError(f"{option}: '{name}' is not a tensor type. Known: {', '.join(TYPES)}.")
    return name.upper()
