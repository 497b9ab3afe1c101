"""tekken.json: Mistral's own format, byte pairs by rank with the special tokens in front."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np

from snugfit.archs.conversion.tokenizers.byte_pairs import BYTE_LETTERS
from snugfit.archs.conversion.tokenizers.files import (
    CONTROL,
    LARGEST_VOCABULARY,
    NORMAL,
    TokenizerFiles,
    checked_text,
    checked_tokens,
)
from snugfit.archs.conversion.tokenizers.pre_tokenizers import checked_name, split_name

FILE = "tekken.json"
# Special tokens of files up to version 7, which do not list them; `<SPECIAL_n>` follow.
FIRST_SPECIAL = [
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
]
# llama.cpp has these templates built in, under these names.
TEMPLATES = {"v3": "mistral-v3-tekken", "v7": "mistral-v7-tekken"}
LONGEST_TOKEN_BYTES = 1024  # merges are found by trying every cut


def tekken_keys(
    files: TokenizerFiles, size: int, pre: str | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Return the keys of the vocabulary, and its tokens. Raises FormatError, UnsupportedError."""
    config = files.tekken.get("config")
    config = config if isinstance(config, Mapping) else {}
    specials = _specials(files, config)
    total = _count(files, config, "default_vocab_size")
    ranked = _ranked(files, total - len(specials))
    if total != size:
        raise files.damaged(FILE, f"{total} tokens, but config.json says {size}")
    tokens = specials + [_spelled(token) for token in ranked]
    checked_tokens(files, FILE, tokens)
    pattern = checked_text(files, FILE, config.get("pattern"))
    keys: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": (
            checked_name(pre) if pre else split_name(f"{files.folder}/{FILE}", pattern)
        ),
        "tokenizer.ggml.merges": _merges(files, ranked),
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": np.zeros(len(tokens), np.float32),
        "tokenizer.ggml.token_type": np.array(
            [CONTROL] * len(specials) + [NORMAL] * len(ranked), np.int32
        ),
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
    }
    return keys | _ids(files, specials) | _template(files, config), tokens


def _template(files: TokenizerFiles, config: Mapping[str, Any]) -> dict[str, Any]:
    name = TEMPLATES.get(str(config.get("version")))
    return {"tokenizer.chat_template": name} if name and not files.chat_template else {}


def _ids(files: TokenizerFiles, specials: list[str]) -> dict[str, Any]:
    numbers = {text: number for number, text in enumerate(specials)}
    missing = [text for text in ("<s>", "</s>", "<unk>") if text not in numbers]
    if missing:
        raise files.damaged(FILE, f"no special token {missing[0]}")
    return {
        "tokenizer.ggml.bos_token_id": numbers["<s>"],
        "tokenizer.ggml.eos_token_id": numbers["</s>"],
        "tokenizer.ggml.unknown_token_id": numbers["<unk>"],
        "tokenizer.ggml.padding_token_id": numbers.get("<pad>", numbers["</s>"]),
    }


def _count(files: TokenizerFiles, config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= LARGEST_VOCABULARY:
        raise files.damaged(FILE, f"{key} is {value!r}")
    return value


def _specials(files: TokenizerFiles, config: Mapping[str, Any]) -> list[str]:
    count = _count(files, config, "default_num_special_tokens")
    listed = files.tekken.get("special_tokens")
    named = dict(enumerate(FIRST_SPECIAL))
    if isinstance(listed, list):
        named = {}
        for entry in listed:
            entry = entry if isinstance(entry, Mapping) else {}
            rank = entry.get("rank")
            if not isinstance(rank, int) or not 0 <= rank < count:
                raise files.damaged(FILE, f"special token {entry!r} has no place among {count}")
            named[rank] = checked_text(files, FILE, entry.get("token_str"))
    return [named.get(number, f"<SPECIAL_{number}>") for number in range(count)]


def _ranked(files: TokenizerFiles, count: int) -> list[bytes]:
    entries = files.tekken.get("vocab")
    if not isinstance(entries, list) or not 256 <= count <= len(entries):
        raise files.damaged(FILE, f"its vocabulary cannot fill {count} ranks")
    ranked: list[bytes] = []
    for rank, entry in enumerate(entries[:count]):
        stored = entry.get("token_bytes") if isinstance(entry, Mapping) else None
        try:
            token = base64.b64decode(stored or "", validate=True)
        except (binascii.Error, ValueError, TypeError):
            token = b""
        is_byte = rank < 256
        if not 0 < len(token) <= LONGEST_TOKEN_BYTES or (is_byte and token != bytes([rank])):
            raise files.damaged(FILE, f"the token of rank {rank} is damaged")
        ranked.append(token)
    return ranked


def _spelled(token: bytes) -> str:
    return "".join(BYTE_LETTERS[byte] for byte in token)


def _merges(files: TokenizerFiles, ranked: list[bytes]) -> list[str]:
    """Every way to make a token of two others, tokens by rank and ways by the ranks of the parts.

    That is what applying ranks means: of all neighbours the pair whose union ranks first merges.
    """
    ranks = {token: rank for rank, token in enumerate(ranked)}
    merges: list[str] = []
    for token in ranked[256:]:
        cuts = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        ways = sorted((ranks[a], ranks[b], a, b) for a, b in cuts if a in ranks and b in ranks)
        if not ways:
            raise files.damaged(FILE, f"no two tokens make {token[:40]!r}")
        merges += [f"{_spelled(left)} {_spelled(right)}" for _, _, left, right in ways]
    return merges
