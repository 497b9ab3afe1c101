"""tokenizer.model, read: the pieces, scores and types of a SentencePiece vocabulary.

The file is one protocol buffer (sentencepiece_model.proto), of which a vocabulary needs a dozen
fields; they are read here, with every length checked, because files come from strangers.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from snugfit.archs.conversion.tokenizers.files import (
    BYTE,
    CONTROL,
    LARGEST_VOCABULARY,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    TokenizerFiles,
    Vocabulary,
    checked_text,
    checked_tokens,
    decoder_tokens,
    looks_special,
    numbered,
    written_tokens,
)

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
FIXED_LENGTHS = {FIXED64: 8, FIXED32: 4}
UNIGRAM, PAIRS = 1, 2  # TrainerSpec.model_type
# SentencePiece's type of a piece -> GGUF's; what a user defined is an ordinary piece to llama.cpp's
# converter, as its score decides.
TYPES = {1: NORMAL, 2: UNKNOWN, 3: CONTROL, 4: NORMAL, 5: UNUSED, 6: BYTE}
PADDING_SCORE, ADDED_SCORE = -10_000.0, -1_000.0
# Classes whose added tokens of tokenizer.json count too, each as special as it says itself.
PHI3 = {"Phi3ForCausalLM", "PhiMoEForCausalLM", "Phi4ForCausalLMV"}
FILE = "tokenizer.model"


@dataclass
class PieceModel:
    """A SentencePiece model: what its file says, defaults filled in."""

    pieces: list[tuple[str, float, int]] = field(default_factory=list)  # text, score, GGUF's type
    kind: int = UNIGRAM
    normalization: bytes = b""  # SentencePiece's compiled map of characters
    adds_space: bool = True
    removes_spaces: bool = True


def is_sentencepiece(data: bytes) -> bool:
    """Say whether a tokenizer.model is SentencePiece's: some are other programs' text files."""
    return data[:1] == b"\x0a"  # field 1, bytes: the first piece


def read_pieces(files: TokenizerFiles) -> PieceModel:
    """Return what tokenizer.model holds. Raises FormatError if it is damaged."""
    model = PieceModel()
    try:
        for number, value in _fields(files.sentencepiece):
            if number == 1:
                model.pieces.append(_piece(files, _bytes(value)))
                if len(model.pieces) > LARGEST_VOCABULARY:
                    raise ValueError("too many pieces")
            elif number == 2:
                model.kind = next((v for n, v in _fields(_bytes(value)) if n == 3), UNIGRAM)
            elif number == 3:
                _normalizer(model, _bytes(value))
    except (ValueError, struct.error, TypeError) as error:
        raise files.damaged(FILE, f"is not a sound SentencePiece model ({error})") from None
    if not model.pieces:
        raise files.damaged(FILE, "holds no pieces")
    if model.kind not in (UNIGRAM, PAIRS):
        raise files.damaged(FILE, f"model type {model.kind} is neither unigram nor BPE")
    return model


def sentencepiece_keys(files: TokenizerFiles, size: int) -> tuple[dict[str, Any], list[str]]:
    """Return the keys of the vocabulary, and its tokens. Raises FormatError."""
    model = read_pieces(files)
    vocabulary = Vocabulary.of_size(size, PADDING_SCORE)
    for number, (text, score, kind) in enumerate(model.pieces[:size]):
        vocabulary.put(number, text, kind, score)
    _put_added(files, vocabulary, size)
    tokens = checked_tokens(files, FILE, vocabulary.tokens)
    keys: dict[str, Any] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": np.array(vocabulary.scores, np.float32),
        "tokenizer.ggml.token_type": np.array(vocabulary.types, np.int32),
    }
    return keys | (_unigram_keys(model) if model.kind == UNIGRAM else {}), tokens


def _unigram_keys(model: PieceModel) -> dict[str, Any]:
    """llama.cpp's name for a unigram model is that of the first that it knew."""
    keys: dict[str, Any] = {
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.add_space_prefix": model.adds_space,
        "tokenizer.ggml.remove_extra_whitespaces": model.removes_spaces,
    }
    if model.normalization:
        compiled = np.frombuffer(model.normalization, np.uint8)
        keys["tokenizer.ggml.precompiled_charsmap"] = compiled
    return keys


def _put_added(files: TokenizerFiles, vocabulary: Vocabulary, size: int) -> None:
    for text, number in files.added.items():
        if isinstance(number, int) and number >= size:
            continue  # the model has no row for it
        number = numbered(files, "added_tokens.json", number, size)
        text = checked_text(files, "added_tokens.json", text)
        vocabulary.put(number, text, USER_DEFINED, ADDED_SCORE)
    is_phi3 = files.model_class in PHI3
    for token in decoder_tokens(files, size):
        if token.special or (not is_phi3 and looks_special(token.text)):
            vocabulary.put(token.number, token.text, CONTROL, ADDED_SCORE)
        else:
            text = token.text if is_phi3 else token.text.replace("▁", " ")
            vocabulary.put(token.number, text, USER_DEFINED, ADDED_SCORE)
    for token in written_tokens(files, size) if is_phi3 else ():
        kind = CONTROL if token.special else USER_DEFINED
        vocabulary.put(token.number, token.text, kind, ADDED_SCORE)


def _piece(files: TokenizerFiles, data: bytes) -> tuple[str, float, int]:
    text, score, kind = "", 0.0, 1
    for number, value in _fields(data):
        if number == 1:
            text = _bytes(value).decode()
        elif number == 2:
            (score,) = struct.unpack("<f", _bytes(value))
        elif number == 3:
            kind = value if isinstance(value, int) else 0
    if not text or kind not in TYPES or not -1e9 < score < 1e9:
        raise ValueError(f"piece {text[:40]!r} has score {score} and type {kind}")
    if kind == 6 and not re.fullmatch("<0x[0-9A-F]{2}>", text):
        raise ValueError(f"piece {text[:40]!r} is no byte")
    return checked_text(files, FILE, text), score, TYPES[kind]


def _normalizer(model: PieceModel, data: bytes) -> None:
    for number, value in _fields(data):
        if number == 2:
            model.normalization = _bytes(value)
        elif number == 3:
            model.adds_space = bool(value)
        elif number == 4:
            model.removes_spaces = bool(value)


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yield field number and value: an int of a varint, else the bytes. Raises ValueError."""
    position = 0
    while position < len(data):
        tag = data[position]
        if tag < 0x80:  # as nearly all are; there are a million in a large vocabulary
            position += 1
        else:
            tag, position = _varint(data, position)
        wire = tag & 7
        if wire == VARINT:
            value, position = _varint(data, position)
            yield tag >> 3, value
            continue
        length = FIXED_LENGTHS.get(wire, -1)
        if wire == BYTES:
            length, position = _varint(data, position)
        if not 0 <= length <= len(data) - position:
            raise ValueError(f"a field at byte {position} reaches past the end")
        yield tag >> 3, data[position : position + length]
        position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError(f"a number at byte {position} has no end")


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a field has another type")
    return value
