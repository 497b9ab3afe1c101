"""tokenizer.json's BPE as GGUF: byte-level, with byte fallback and scores, and Gemma 4's kind."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from snugfit.archs.conversion.tokenizers.files import (
    BYTE,
    CONTROL,
    NORMAL,
    UNUSED,
    USER_DEFINED,
    AddedToken,
    TokenizerFiles,
    checked_text,
    checked_tokens,
    decoder_tokens,
    looks_special,
    numbered,
    written_tokens,
)
from snugfit.archs.conversion.tokenizers.pre_tokenizers import checked_name, pre_tokenizer_name
from snugfit.archs.conversion.tokenizers.special_tokens import ROLES, token_text
from snugfit.errors import UnsupportedError

FILE = "tokenizer.json"
ADDED_SCORE = -1_000.0
BYTE_TOKEN = re.compile("<0x[0-9A-Fa-f]{2}>")
# Tokens of Gemma 4 that a chat's reader must see, though they are special.
VISIBLE = {f"<|{name}>" for name in ("channel", "tool_call", "tool_response")}
VISIBLE |= {"<channel|>", "<tool_call|>", "<tool_response|>", '<|"|>'}
# llama.cpp does none of these to a text; without them only rare characters differ.
HARMLESS_NORMALIZERS = {"NFC", "NFKC"}


def _byte_letters() -> list[str]:
    """GPT-2's letter for each byte: itself where it prints, else from U+0100 on."""
    prints = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in prints else next(others)) for byte in range(256)]


BYTE_LETTERS = _byte_letters()
BYTE_OF_LETTER = {letter: byte for byte, letter in enumerate(BYTE_LETTERS)}


def byte_level_keys(
    files: TokenizerFiles, size: int, pre: str | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Return the keys of a byte-level vocabulary, and its tokens.

    `pre` overrides recognition. Raises FormatError, UnsupportedError.
    """
    _refuse_normalizers(files, pre)
    tokens, types = _tokens(files, size)
    keys: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": (
            checked_name(pre)
            if pre
            else pre_tokenizer_name(f"{files.folder}/{FILE}", files.tokenizer, files.model_class)
        ),
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.merges": [_merge_text(pair) for pair in _pairs(files)],
    }
    return keys, tokens


def raw_pair_keys(files: TokenizerFiles, size: int) -> tuple[dict[str, Any], list[str]]:
    """Return the keys of a Gemma 3 that has no tokenizer.model: pairs of letters, not of bytes."""
    tokens, types = _tokens(files, size)
    keys: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gemma4",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.merges": [_merge_text(pair) for pair in _pairs(files)],
    }
    return keys, tokens


def gemma4_keys(files: TokenizerFiles, size: int) -> tuple[dict[str, Any], list[str]]:
    """Return the keys of Gemma 4's vocabulary, and its tokens. Raises FormatError."""
    tokens, types = _fallback_tokens(files, size)
    types = [
        USER_DEFINED if text in VISIBLE else kind for text, kind in zip(tokens, types, strict=True)
    ]
    keys: dict[str, Any] = {
        "tokenizer.ggml.model": "gemma4",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": np.full(len(tokens), ADDED_SCORE, np.float32),
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.merges": [_merge_text(pair) for pair in _pairs(files)],
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.ggml.add_bos_token": True,
    }
    return keys, tokens


def scored_keys(files: TokenizerFiles, size: int) -> tuple[dict[str, Any], list[str]]:
    """Return the keys of a BPE with byte fallback, and its tokens. Raises FormatError.

    SentencePiece's score of a token is minus the place of its first merge; tokenizer.json has the
    merges in that order, so that the scores it leaves out can be had from them.
    """
    tokens, types = _fallback_tokens(files, size)
    made = list(dict.fromkeys(left + right for left, right in _pairs(files)))
    scores = {text: -float(place) for place, text in enumerate(made)}
    letters = iter(range(len(made), len(made) + size))
    values = [
        scores[text] if text in scores else -float(next(letters)) if kind == NORMAL else 0.0
        for text, kind in zip(tokens, types, strict=True)
    ]
    special = (CONTROL, USER_DEFINED)
    values = [
        ADDED_SCORE if kind in special else value for value, kind in zip(values, types, strict=True)
    ]
    keys: dict[str, Any] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": np.array(values, np.float32),
        "tokenizer.ggml.token_type": np.array(types, np.int32),
    }
    return keys, tokens


def described_model(files: TokenizerFiles) -> Mapping[str, Any]:
    """Return tokenizer.json's model. Raises FormatError if it is none."""
    model = files.tokenizer.get("model")
    if not isinstance(model, Mapping):
        raise files.damaged(FILE, "describes no model")
    return model


def _named(files: TokenizerFiles, size: int) -> dict[int, str]:
    vocabulary = described_model(files).get("vocab")
    if not isinstance(vocabulary, Mapping):
        raise files.damaged(FILE, "its vocabulary is no object")
    named: dict[int, str] = {}
    for text, number in vocabulary.items():
        named[numbered(files, FILE, number, size)] = text
    if len(named) != len(vocabulary):
        raise files.damaged(FILE, "two tokens have one id")
    return named


def _added(files: TokenizerFiles, size: int) -> dict[int, AddedToken]:
    """Return the added tokens by id; tokenizer_config.json has the last word on each."""
    added = {token.number: token for token in written_tokens(files, size)}
    return added | {token.number: token for token in decoder_tokens(files, size)}


def _tokens(files: TokenizerFiles, size: int) -> tuple[list[str], list[int]]:
    """Return text and type of every id, as llama.cpp takes them: added tokens as plain text."""
    named, added = _named(files, size), _added(files, size)
    tokens = [named.get(number, f"[PAD{number}]") for number in range(size)]
    types = [NORMAL if number in named else UNUSED for number in range(size)]
    for number, token in added.items():
        text = token.text if token.normalized else _decoded(files, token.text)
        if token.special or looks_special(text):
            tokens[number], types[number] = text, CONTROL
        else:
            tokens[number], types[number] = text.replace("▁", " "), USER_DEFINED
    return checked_tokens(files, FILE, tokens), types


def _decoded(files: TokenizerFiles, text: str) -> str:
    """Return what an added token decodes to: some are written in GPT-2's letters for bytes."""
    decoder = files.tokenizer.get("decoder")
    steps = decoder.get("decoders", [decoder]) if isinstance(decoder, Mapping) else []
    for step in steps if isinstance(steps, list) else []:
        kind = step.get("type") if isinstance(step, Mapping) else None
        if kind == "ByteLevel" and all(letter in BYTE_OF_LETTER for letter in text):
            text = bytes(BYTE_OF_LETTER[letter] for letter in text).decode(errors="replace")
        elif kind == "Replace":
            pattern, content = step.get("pattern"), step.get("content")
            found = pattern.get("String") if isinstance(pattern, Mapping) else None
            if isinstance(found, str) and found and isinstance(content, str):
                text = text.replace(found, content)
    return text


def _fallback_tokens(files: TokenizerFiles, size: int) -> tuple[list[str], list[int]]:
    """Return text and type of every id of a vocabulary that has a token for each byte."""
    named, added = _named(files, size), _added(files, size)
    special = _named_specials(files)
    tokens = [named.get(number, f"[PAD{number}]") for number in range(size)]
    types = [UNUSED] * size
    base = max(named, default=-1) + 1
    for number, text in named.items():
        types[number] = CONTROL if text in special else NORMAL
        if BYTE_TOKEN.fullmatch(text):
            types[number] = BYTE
    for number, token in added.items():
        tokens[number] = token.text
        if number >= base:
            types[number] = CONTROL if token.special or token.text in special else USER_DEFINED
        elif token.special:
            types[number] = CONTROL
    return checked_tokens(files, FILE, tokens), types


def _named_specials(files: TokenizerFiles) -> set[str]:
    """Return the texts of the tokens that tokenizer_config.json gives a role."""
    listed: list[Any] = []
    for key in ("additional_special_tokens", "extra_special_tokens"):
        more = files.config.get(key)
        listed += list(more.values()) if isinstance(more, Mapping) else more or []
    listed += [files.config.get(f"{role}_token") for role in (*ROLES, "cls")]
    listed.append(described_model(files).get("unk_token"))
    return {text for text in map(token_text, listed) if text}


def _pairs(files: TokenizerFiles) -> Iterator[tuple[str, str]]:
    """Yield the merges: pairs, or in older files texts with one space."""
    merges = described_model(files).get("merges") or []
    if not isinstance(merges, list):
        raise files.damaged(FILE, "its merges are no list")
    for merge in merges:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or len(parts) != 2 or "" in parts:
            raise files.damaged(FILE, f"{repr(merge)[:60]} is no pair of tokens")
        yield checked_text(files, FILE, parts[0]), checked_text(files, FILE, parts[1])


def _merge_text(pair: tuple[str, str]) -> str:
    """A space inside a token is written as GPT-2 does, since one parts the two."""
    return " ".join(part.replace(" ", "Ġ") for part in pair)


def _refuse_normalizers(files: TokenizerFiles, pre: str | None) -> None:
    described = files.tokenizer.get("normalizer")
    kinds = [
        step.get("type") if isinstance(step, Mapping) else "?"
        for step in (
            described.get("normalizers", [described]) if isinstance(described, Mapping) else []
        )
    ]
    other = [str(kind) for kind in kinds if kind not in HARMLESS_NORMALIZERS]
    if other and pre is None:
        raise UnsupportedError(
            f"{files.folder}/{FILE}: changes text ({', '.join(other)[:80]}) before it is split, "
            "which llama.cpp does not. To convert it anyway, name its pre-tokenizer with --pre."
        )
