"""What a Hugging Face directory says of its tokenizer, as read from disk and not yet trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from snugfit.errors import FormatError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # llama.cpp's token types
# No published vocabulary has a quarter of this; a header of it still fits in memory.
LARGEST_VOCABULARY = 2**22
LONGEST_TOKEN = 2**16
# Names of control tokens that some files do not mark as special (DeepSeek's, Gemma's, Cohere's).
CONTROL_NAMES = {"<pad>", "<mask>", "<2mass>", "[@BOS@]"}
CONTROL_BRACKETS = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))


@dataclass(frozen=True)
class TokenizerFiles:
    """The files of a Hugging Face directory that describe its tokenizer; absent ones are empty."""

    folder: str
    tokenizer: Mapping[str, Any] = field(default_factory=dict)  # tokenizer.json
    config: Mapping[str, Any] = field(default_factory=dict)  # tokenizer_config.json
    generation: Mapping[str, Any] = field(default_factory=dict)  # generation_config.json
    chat_template: str = ""  # chat_template.jinja, or what chat_template.json holds
    model: Mapping[str, Any] = field(default_factory=dict)  # config.json
    added: Mapping[str, Any] = field(default_factory=dict)  # added_tokens.json
    tekken: Mapping[str, Any] = field(default_factory=dict)  # tekken.json
    sentencepiece: bytes = b""  # tokenizer.model
    named_templates: Mapping[str, str] = field(default_factory=dict)

    @property
    def model_class(self) -> str:
        classes = self.model.get("architectures")
        first = classes[0] if isinstance(classes, list) and classes else ""
        return first if isinstance(first, str) else ""

    def damaged(self, file: str, what: str) -> FormatError:
        return FormatError(f"{self.folder}/{file}: {what}. Download it again.")


@dataclass(frozen=True)
class AddedToken:
    """A token that is found in text before anything is split."""

    number: int
    text: str
    special: bool
    normalized: bool


@dataclass
class Vocabulary:
    """Tokens by id, with what GGUF says of each; what no file names is padding."""

    tokens: list[str]
    types: list[int]
    scores: list[float]

    @classmethod
    def of_size(cls, size: int, score: float = 0.0) -> Vocabulary:
        return cls([f"[PAD{number}]" for number in range(size)], [UNUSED] * size, [score] * size)

    def put(self, number: int, text: str, kind: int, score: float = 0.0) -> None:
        self.tokens[number], self.types[number], self.scores[number] = text, kind, score


def checked_size(files: TokenizerFiles, vocabulary: int) -> int:
    """Return config.json's vocabulary. Raises FormatError if no model has one like it."""
    if not 0 < vocabulary <= LARGEST_VOCABULARY:
        raise files.damaged("config.json", f"a vocabulary of {vocabulary} cannot be right")
    return vocabulary


def checked_tokens(files: TokenizerFiles, file: str, tokens: list[str]) -> list[str]:
    """Return tokens that a GGUF file can hold. Raises FormatError.

    llama.cpp ends the process for a text that two tokens have.
    """
    if len(set(tokens)) != len(tokens):
        twice = Counter(tokens).most_common(1)[0][0]
        raise files.damaged(file, f"two tokens are {twice[:60]!r}")
    for text in tokens:
        checked_text(files, file, text)
    return tokens


def checked_text(files: TokenizerFiles, file: str, text: Any) -> str:
    """Return a text that UTF-8 can hold and that is no absurdity. Raises FormatError."""
    if not isinstance(text, str) or len(text) > LONGEST_TOKEN:
        raise files.damaged(file, f"{repr(text)[:60]} is no token")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise files.damaged(file, f"{text[:60]!r} is no text") from None
    return text


def numbered(files: TokenizerFiles, file: str, number: Any, size: int) -> int:
    """Return a token's id. Raises FormatError if it is none of `size`."""
    if isinstance(number, str) and number.isascii() and number.isdigit() and len(number) < 12:
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < size:
        raise files.damaged(
            file, f"token id {repr(number)[:40]} is past the vocabulary of {size} in config.json"
        )
    return number


def written_tokens(files: TokenizerFiles, size: int) -> Iterator[AddedToken]:
    """Yield the added tokens of tokenizer.json. Raises FormatError."""
    entries = files.tokenizer.get("added_tokens") or []
    if not isinstance(entries, list):
        raise files.damaged("tokenizer.json", "added_tokens is no list")
    for entry in entries:
        if not isinstance(entry, Mapping):
            raise files.damaged("tokenizer.json", f"{repr(entry)[:60]} is no added token")
        yield _added_token(files, "tokenizer.json", entry.get("id"), entry, size)


def decoder_tokens(files: TokenizerFiles, size: int) -> Iterator[AddedToken]:
    """Yield the added tokens of tokenizer_config.json that the model has rows for.

    Fine-tuned models name more now and then. Raises FormatError.
    """
    entries = files.config.get("added_tokens_decoder") or {}
    if not isinstance(entries, Mapping):
        raise files.damaged("tokenizer_config.json", "added_tokens_decoder is no object")
    for number, entry in entries.items():
        if not isinstance(entry, Mapping):
            raise files.damaged("tokenizer_config.json", f"{repr(entry)[:60]} is no added token")
        token = _added_token(files, "tokenizer_config.json", number, entry, LARGEST_VOCABULARY)
        if token.number < size:
            yield token


def _added_token(
    files: TokenizerFiles, file: str, number: Any, entry: Mapping[str, Any], size: int
) -> AddedToken:
    special = entry.get("special") is True
    return AddedToken(
        numbered(files, file, number, size),
        checked_text(files, file, entry.get("content")),
        special,
        bool(entry.get("normalized", not special)),
    )


def looks_special(text: str) -> bool:
    """Say whether a token that is not marked as special is one by its name."""
    return text in CONTROL_NAMES or any(
        text.startswith(start) and text.endswith(end) for start, end in CONTROL_BRACKETS
    )
