"""What can go wrong, as people read it: one line that says what, where and the remedy.

SnugfitError
├── UsageError        the command was called wrongly (exit 2)
├── FormatError       a file is not what it claims to be
├── UnsupportedError  a sound file or request that this version cannot serve
├── BudgetError       nothing fits the memory that was given
├── NetworkError      a server did not answer, refused, or answered nonsense
├── OutputError       a result could not be written
└── RuntimeFailure    the inference engine failed or went away
"""

from __future__ import annotations


class SnugfitError(Exception):
    """An expected failure. Its text is one line: `where: what. Remedy.` Exit status 1."""

    exit_status = 1

    def __init__(self, text: str) -> None:
        super().__init__(printable(text))


def printable(text: str) -> str:
    """Escape what could break the line or steer the terminal: names come from strangers' files."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


class UsageError(SnugfitError):
    """The command or function was called wrongly."""

    exit_status = 2


class FormatError(SnugfitError):
    """A file is damaged, truncated or lies about its contents."""


class UnsupportedError(SnugfitError):
    """The input is sound, but this version has no rule for it."""


class BudgetError(SnugfitError):
    """No choice meets the memory that was given."""


class NetworkError(SnugfitError):
    """A server did not answer in time, refused, or answered what cannot be right."""


class OutputError(SnugfitError):
    """A result could not be written."""


class RuntimeFailure(SnugfitError):
    """The inference engine failed, was killed, or went away."""
