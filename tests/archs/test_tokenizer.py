"""Tokenizers built from GGUF keys, against the tokenizer.json they came from and llama.cpp's."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from llama_tokenize import Engine
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from snugfit.archs.pre_tokenizers import BEHAVIOURS, PRE_TOKENIZERS
from snugfit.archs.tokenizer import tokenizer_of
from snugfit.errors import FormatError, UnsupportedError

TEXTS = [
    "Hello, world!  Two spaces, then a\ttab.\n\n\nThree newlines.   \n  ends in blanks   ",
    "it's we'll I'D they'Re 'x don''t",
    "1234567 3.14159 0x1F 12 123 1234 ½ ² Ⅷ ٣٤٥",
    "def f(x):\r\n    return x**2  # naïve café, Ærøskøbing\r\n",
    "漢字かな交じり文。한국어 русский язык ελληνικά עברית العربية हिन्दी",
    "emoji 😀👩‍👩‍👧 $100 <a href='x'>&amp;</a> a+b=c ^~| {}[]",
    "e\u0301 zero\u200bwidth nbsp\u00a0here \u2028line",
    "<|stop|> and <|user|> are names here, <tool> is not",
    "<s>a</s> b and <unk>",
    " leading space",
    "x",
    "",
]


def random_texts() -> list[str]:
    chance = random.Random(3)
    pieces = [*" \n\t'.,-$+<0123456789aZé漢😀\u0301\u00a0", *("the", "'s", "  ", "\r\n", "12345")]
    return ["".join(chance.choices(pieces, k=chance.randrange(1, 60))) for _ in range(300)]


def trained(pre: str, *, ignore_merges: bool = False) -> tokenizers.Tokenizer:
    """A byte-level BPE like Hugging Face's fast tokenizers, with control and added tokens."""
    tokenizer = tokenizers.Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if pre == "gpt-2":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        digits = {"qwen2": "", "llama-bpe": "{1,3}"}[pre]
        split = (
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + digits + "| "
            r"?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(split), "isolated"), to_bytes]
        )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([Path(__file__).read_text(encoding="utf-8"), *TEXTS], trainer)
    tokenizer.add_special_tokens(["<|stop|>", "<|user|>"])
    tokenizer.add_tokens([tokenizers.AddedToken("<tool>", normalized=False)])
    return tokenizer


def trained_with_fallback() -> tokenizers.Tokenizer:
    """A BPE with byte fallback, as transformers saves Llama 2's and Mistral's."""
    tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    words = Path(__file__).read_text(encoding="utf-8").replace(" ", "▁")
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        limit_alphabet=80,
        show_progress=False,
    )
    # Pieces of a few words, as the trainer keeps whole sentences in one.
    parts = [words[start : start + 40] for start in range(0, len(words), 40)]
    tokenizer.train_from_iterator(parts, trainer)
    return tokenizer


def metadata_of(tokenizer: tokenizers.Tokenizer, pre: str) -> dict[str, Any]:
    """What a converter makes of a tokenizer.json."""
    described = json.loads(tokenizer.to_str())
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    types = np.ones(len(tokens), np.int32)
    for added in described["added_tokens"]:
        types[added["id"]] = 3 if added["special"] else 4
    keys: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
    }
    if pre == "spm":
        types[:3], types[3:259] = [2, 3, 3], 6
        keys |= {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.pre": "default",
            "tokenizer.ggml.scores": -np.arange(len(tokens), dtype=np.float32),
            "tokenizer.ggml.bos_token_id": np.uint32(1),
            "tokenizer.ggml.eos_token_id": np.uint32(2),
            "tokenizer.ggml.unknown_token_id": np.uint32(0),
        }
    else:
        keys["tokenizer.ggml.merges"] = [" ".join(pair) for pair in described["model"]["merges"]]
        keys["tokenizer.ggml.bos_token_id"] = np.uint32(vocabulary["<|stop|>"])
        keys["tokenizer.ggml.eos_token_id"] = np.uint32(vocabulary["<|stop|>"])
    return keys | {"tokenizer.ggml.token_type": types}


@pytest.mark.parametrize("pre", ["qwen2", "llama-bpe", "gpt-2"])
def test_ids_are_those_of_the_original(pre: str) -> None:
    original = trained(pre, ignore_merges=PRE_TOKENIZERS[pre].ignore_merges)
    rebuilt = tokenizer_of(metadata_of(original, pre))
    assert rebuilt.vocabulary == original.get_vocab_size()
    for text in [*TEXTS, *random_texts()]:
        original.encode_special_tokens = False
        expected = original.encode(text, add_special_tokens=False).ids
        assert rebuilt.encode(text, special=True) == expected
        original.encode_special_tokens = True
        expected = original.encode(text, add_special_tokens=False).ids
        assert rebuilt.encode(text) == expected
        assert rebuilt.decode(expected) == text


def test_control_tokens_are_text_unless_asked_for_and_added_ones_never() -> None:
    original = trained("qwen2")
    rebuilt = tokenizer_of(metadata_of(original, "qwen2"))
    end, tool = original.token_to_id("<|stop|>"), original.token_to_id("<tool>")
    assert end not in rebuilt.encode("a<|stop|>b<tool>")
    assert tool in rebuilt.encode("a<|stop|>b<tool>")
    assert end in rebuilt.encode("a<|stop|>b", special=True)
    assert rebuilt.decode([end]) == "<|stop|>"


def test_byte_fallback_ids_are_those_of_the_original() -> None:
    original = trained_with_fallback()
    rebuilt = tokenizer_of(metadata_of(original, "spm"))
    original.encode_special_tokens = True
    for text in [text for text in TEXTS if text]:
        ids = rebuilt.encode(text)
        assert ids == original.encode(text, add_special_tokens=False).ids
        assert rebuilt.decode(ids) == text


def test_bos_is_added_by_flag_or_by_custom() -> None:
    keys = metadata_of(trained("qwen2"), "qwen2")
    assert tokenizer_of(keys).bos_id is None
    bos = int(keys["tokenizer.ggml.bos_token_id"])
    assert tokenizer_of(keys | {"tokenizer.ggml.add_bos_token": np.True_}).bos_id == bos
    assert tokenizer_of(keys | {"tokenizer.ggml.pre": "llama-bpe"}).bos_id == bos
    assert tokenizer_of(metadata_of(trained_with_fallback(), "spm")).bos_id == 1


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"model": "t5"}, UnsupportedError, "t5.*gpt2, llama"),
        ({"pre": "viking"}, UnsupportedError, "viking.*llama-bpe.*gpt-2"),
        ({"tokens": None}, FormatError, "tokens: missing"),
        ({"merges": ["ab"]}, FormatError, "no pair"),
        ({"merges": ["qqq zzz"]}, FormatError, "qqq"),
        ({"token_type": np.ones(3, np.int32)}, FormatError, "3 for"),
        ({"add_bos_token": True, "bos_token_id": 10**6}, FormatError, "1000000"),
    ],
)
def test_damage_is_said_in_one_line(changes: Any, kind: type[Exception], words: str) -> None:
    keys = metadata_of(trained("qwen2"), "qwen2")
    keys |= {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    with pytest.raises(kind, match=words) as caught:
        tokenizer_of(keys)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pre", [*BEHAVIOURS, "spm"])
def test_ids_are_those_of_the_engine(pre: str, engine: Engine) -> None:
    original = trained_with_fallback() if pre == "spm" else trained("gpt-2")
    keys = metadata_of(original, pre)
    # A token that no merge makes: some vocabularies are searched for whole pieces first.
    unmade = "zq" * 2
    keys["tokenizer.ggml.tokens"].append(unmade)
    for key in {"tokenizer.ggml.token_type", "tokenizer.ggml.scores"} & keys.keys():
        keys[key] = np.append(keys[key], keys[key].dtype.type(1 if "type" in key else -1000))
    rebuilt = tokenizer_of(keys)
    texts = [*TEXTS, *random_texts(), f"{unmade} {unmade}"]
    for special in (False, True):
        expected = engine(keys, texts, special)
        for text, ids in zip(texts, expected, strict=True):
            assert (text, rebuilt.encode(text, special=special)) == (text, ids)
