"""tokenizer.json as GGUF metadata: byte-level BPE, and scored BPE with byte fallback."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from snugfit.errors import FormatError, UnsupportedError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
# The split expression decides which of llama.cpp's pre-tokenizers is the same.
PRE_TOKENIZER_OF_SPLIT = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+": "qwen2",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+": "llama-bpe",
}


@dataclass(frozen=True)
class TokenizerFiles:
    """The JSON files of a Hugging Face directory that describe its tokenizer."""

    folder: str
    tokenizer: Mapping[str, Any]
    config: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)
    chat_template: str = ""


def tokenizer_metadata(files: TokenizerFiles, vocabulary: int) -> dict[str, Any]:
    """Return the `tokenizer.*` keys. Raises FormatError, UnsupportedError."""
    model = files.tokenizer.get("model")
    if not isinstance(model, Mapping) or model.get("type") != "BPE":
        kind = model.get("type") if isinstance(model, Mapping) else None
        raise UnsupportedError(
            f"{files.folder}/tokenizer.json: {kind} tokenizers cannot be converted; BPE can."
        )
    tokens, types = _tokens(files, model, vocabulary)
    keys: dict[str, Any] = {"tokenizer.ggml.tokens": tokens}
    if model.get("byte_fallback"):
        keys |= {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.pre": "default",
            # Merges are learnt in order of use, so a token's rank serves as its score.
            "tokenizer.ggml.scores": -np.arange(len(tokens), dtype=np.float32),
        }
    else:
        keys |= {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": _pre_tokenizer(files),
            "tokenizer.ggml.merges": _merges(model),
        }
    keys["tokenizer.ggml.token_type"] = np.array(types, np.int32)
    return keys | _special_tokens(files, tokens)


def _tokens(
    files: TokenizerFiles, model: Mapping[str, Any], vocabulary: int
) -> tuple[list[str], list[int]]:
    named: dict[int, tuple[str, int]] = {}
    for text, number in model.get("vocab", {}).items():
        is_byte = model.get("byte_fallback") and text.startswith("<0x") and len(text) == 6
        named[int(number)] = text, BYTE if is_byte else NORMAL
    for added in files.tokenizer.get("added_tokens", []):
        kind = CONTROL if added.get("special") else USER_DEFINED
        named[int(added["id"])] = added["content"], kind
    for number, (text, _) in list(named.items()):
        if text == model.get("unk_token"):
            named[number] = text, UNKNOWN
    if named and not 0 <= max(named) < vocabulary:
        raise FormatError(
            f"{files.folder}/tokenizer.json: token id {max(named)} is past the vocabulary of "
            f"{vocabulary} in config.json. Download both again."
        )
    filled = [named.get(number, (f"[PAD{number}]", UNUSED)) for number in range(vocabulary)]
    return [text for text, _ in filled], [kind for _, kind in filled]


def _merges(model: Mapping[str, Any]) -> list[str]:
    """Merges are stored as pairs, or in older files as text with one space."""
    return [
        merge if isinstance(merge, str) else " ".join(merge) for merge in model.get("merges", [])
    ]


def _pre_tokenizer(files: TokenizerFiles) -> str:
    described = files.tokenizer.get("pre_tokenizer") or {}
    steps = described.get("pretokenizers", [described])
    for step in steps:
        pattern = step.get("pattern", {})
        if step.get("type") == "Split" and pattern.get("Regex") in PRE_TOKENIZER_OF_SPLIT:
            return PRE_TOKENIZER_OF_SPLIT[pattern["Regex"]]
    only = steps[0]
    if len(steps) == 1 and only.get("type") == "ByteLevel" and only.get("use_regex", True):
        return "gpt-2"
    raise UnsupportedError(
        f"{files.folder}/tokenizer.json: its way of splitting text is none that llama.cpp is known "
        f"to share ({', '.join(PRE_TOKENIZER_OF_SPLIT.values())}, gpt-2)."
    )


def _special_tokens(files: TokenizerFiles, tokens: list[str]) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    for role, key in (
        ("bos", "bos_token_id"),
        ("eos", "eos_token_id"),
        ("unk", "unknown_token_id"),
    ):
        number = _token_id(files, role, tokens)
        if number is not None:
            keys[f"tokenizer.ggml.{key}"] = number
    padding = _token_id(files, "pad", tokens)
    if padding is not None:
        keys["tokenizer.ggml.padding_token_id"] = padding
    keys["tokenizer.ggml.add_bos_token"] = _adds_bos(files)
    if files.chat_template:
        keys["tokenizer.chat_template"] = files.chat_template
    return keys


def _token_id(files: TokenizerFiles, role: str, tokens: list[str]) -> int | None:
    named = files.config.get(f"{role}_token")
    if isinstance(named, Mapping):
        named = named.get("content")
    if isinstance(named, str) and named in tokens:
        return tokens.index(named)
    number = files.generation.get(f"{role}_token_id")
    if isinstance(number, list):
        number = number[0] if number else None
    return number if isinstance(number, int) and 0 <= number < len(tokens) else None


def _adds_bos(files: TokenizerFiles) -> bool:
    """Llama's tokenizers put a BOS before a text, by flag or by their post-processor."""
    if "add_bos_token" in files.config:
        return bool(files.config["add_bos_token"])
    processor = files.tokenizer.get("post_processor") or {}
    steps = processor.get("processors", [processor])
    return any(
        isinstance(piece, Mapping) and "SpecialToken" in piece
        for step in steps
        if step.get("type") == "TemplateProcessing"
        for piece in step.get("single", [])[:1]
    )
