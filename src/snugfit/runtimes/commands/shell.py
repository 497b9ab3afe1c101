"""Lines for a POSIX shell that mean the same once copied, whatever a file is called."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from snugfit.errors import UnsupportedError

END_OF_FILE = "SNUGFIT_END"


def command(*words: object, environment: Mapping[str, object] | None = None) -> str:
    """Return one line that runs `words`. Raises UnsupportedError for text with control letters."""
    set_before = [f"{name}={quoted(value)}" for name, value in (environment or {}).items()]
    return " ".join([*set_before, *map(quoted, words)])


def quoted(value: object) -> str:
    """Return a word of a shell line. Raises UnsupportedError where it cannot be one safely."""
    return shlex.quote(printed(str(value)))


def printed(text: str) -> str:
    """Return `text` if it can be shown and copied as it is. Raises UnsupportedError if not.

    Line breaks, escape sequences and letters that reverse a line's direction cannot.
    """
    if not text.isprintable():
        raise UnsupportedError(
            f"{text}: a name with control letters cannot be a command's. Rename it."
        )
    return text


def path_word(path: str) -> str:
    """Return a path that no program takes for an option."""
    return f"./{path}" if path.startswith("-") else path


def here_document(name: str, text: str) -> str:
    """Return the lines that write `text` to a file as it is, nothing in it expanded."""
    assert END_OF_FILE not in text.splitlines()
    return f"cat > {quoted(name)} <<'{END_OF_FILE}'\n{text.rstrip()}\n{END_OF_FILE}"
