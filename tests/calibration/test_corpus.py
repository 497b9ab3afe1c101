"""Text cut into sequences, as llama.cpp's tools cut it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from snugfit.calibration.corpus import read_text, sequences_of
from snugfit.errors import FormatError, UsageError


@dataclass(frozen=True)
class Letters:
    """One token a letter."""

    bos_id: int | None = None

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]


def test_a_rest_that_fills_no_sequence_is_dropped() -> None:
    found = sequences_of("abcdefgh", Letters(), length=3)
    assert found.dtype == "int64"
    assert found.tolist() == [[97, 98, 99], [100, 101, 102]]


def test_bos_comes_before_the_text_and_in_place_of_later_first_tokens() -> None:
    found = sequences_of("abcdefgh", Letters(bos_id=7), length=3)
    assert found.tolist() == [[7, 97, 98], [7, 100, 101], [7, 103, 104]]


def test_at_most_as_many_as_asked_for() -> None:
    assert sequences_of("abcdefgh", Letters(), length=2, most=3).shape == (3, 2)
    assert sequences_of("abcdefgh", Letters(), length=2, most=30).shape == (4, 2)


def test_a_text_shorter_than_a_sequence_is_an_error() -> None:
    with pytest.raises(UsageError, match="has 8 tokens, but one sequence takes 512"):
        sequences_of("abcdefgh", Letters())


def test_a_file_is_read_as_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes("é\r\n".encode())
    assert read_text(path) == "é\r\n"
    path.write_bytes(b"ok \xff")
    with pytest.raises(FormatError, match=r"text.txt: not UTF-8 text \(byte 3\)"):
        read_text(path)
    with pytest.raises(FormatError, match="cannot be read"):
        read_text(tmp_path / "none.txt")
