"""Hugging Face tokenizers as GGUF keys, against llama.cpp's own converter and its tokenization."""

from __future__ import annotations

import copy
import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from llama_tokenize import Engine
from tokenizer_folders import (
    DIGITS,
    FAMILIES,
    FIRST_SPECIAL,
    SPM_WORDS,
    chained,
    family,
    plain,
    rows_of,
    sentencepiece,
    split,
    to_bytes,
    write_files,
)
from tokenizers import decoders, models, pre_tokenizers, trainers

from snugfit.archs.conversion.tokenizers.metadata import tokenizer_metadata
from snugfit.archs.conversion.tokenizers.pre_tokenizers import OTHER_NAMES, pre_tokenizer_name
from snugfit.archs.pre_tokenizers import BEHAVIOURS, LLAMA3_SPLIT, PRE_TOKENIZERS, QWEN2_SPLIT
from snugfit.archs.tokenizer import tokenizer_of
from snugfit.errors import FormatError, SnugfitError, UnsupportedError
from snugfit.folders import tokenizer_files

RECORDED: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data" / "tokenizer_keys.json").read_text(encoding="utf-8")
)
# The converter gives every token of these the same score, with which llama.cpp cannot merge.
UNSCORED = ("llama2-json", "mixtral-json")
TEXTS = [
    "Hello, world!  Two spaces, then a\ttab.\n\n\nThree newlines.   \n  ends in blanks   ",
    "it's we'll I'D they'Re 'x don''t o'clock 'Tis",
    "1234567 3.14159 0x1F 12 123 1234 1,234,567 ½ ² Ⅷ ٣٤٥",
    "def f(x):\r\n    return x**2  # naïve café, Ærøskøbing\r\n\tif (a!=b){c[0]+=1;}",
    "漢字かな交じり文、カタカナ。한국어 русский язык ελληνικά עברית العربية हिन्दी ไทย",
    "emoji 😀👩‍👩‍👧 $100 <a href='x'>&amp;</a> a+b=c ^~| {}[] http://x.y/z?q=1#2",
    "zero\u200bwidth nbsp\u00a0here \u2028line \u3000wide",
    "<|endoftext|>system<|im_start|> x<|im_end|>\n<tool>plain</tool> <|not a token|>",
    " leading", "x", "", "camelCase HTTPServer snake_case CONSTANT", "!!! ... ??? --- ===",
]  # fmt: skip


def keys_of(folder: Path, files: dict[str, Any], **options: Any) -> dict[str, Any]:
    stored = tokenizer_files(write_files(folder, files))
    return tokenizer_metadata(stored, rows_of(files), **options)


def unboxed(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


@pytest.mark.parametrize("name", FAMILIES)
def test_keys_are_those_of_llama_cpps_converter(tmp_path: Path, name: str) -> None:
    found = {key: unboxed(value) for key, value in keys_of(tmp_path, FAMILIES[name]).items()}
    expected = dict(RECORDED[name])
    if name in UNSCORED:
        # The words' true scores are those of the tokenizer.model with the same vocabulary.
        scored = dict(
            zip(found["tokenizer.ggml.tokens"], found["tokenizer.ggml.scores"], strict=True)
        )
        true = RECORDED["llama2"]
        tokens, scores = (true[f"tokenizer.ggml.{key}"] for key in ("tokens", "scores"))
        true_scores = dict(zip(tokens, scores, strict=True))
        assert {word: scored[word] for word in SPM_WORDS} == {
            word: true_scores[word] for word in SPM_WORDS
        }
        expected["tokenizer.ggml.scores"] = found["tokenizer.ggml.scores"]
    assert found == expected


def random_texts(alphabet: str) -> list[str]:
    chance = random.Random(5)
    pieces = [*alphabet, *("the", "'s", "  ", "\r\n", "12345", "\n\n")]
    return ["".join(chance.choices(pieces, k=chance.randrange(1, 50))) for _ in range(200)]


def trained(pre: Any, *, ignore_merges: bool) -> dict[str, Any]:
    """A tokenizer.json trained with this `pre_tokenizer`, with control and added tokens."""
    tokenizer = tokenizers.Tokenizer(models.BPE(ignore_merges=ignore_merges))
    described = json.loads(tokenizer.to_str()) | {"pre_tokenizer": pre}
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(described))
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=800, initial_alphabet=alphabet, show_progress=False)
    words = Path(__file__).read_text(encoding="utf-8")
    tokenizer.train_from_iterator([words, *TEXTS, "12 123 1234 12345"] * 3, trainer)
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([tokenizers.AddedToken("<tool>", normalized=False)])
    return json.loads(tokenizer.to_str())  # type: ignore[no-any-return]


FALCON = [{"type": "Punctuation", "behavior": "Contiguous"}, to_bytes(use_regex=True)]
FALCON += [{"type": "Digits", "individual_digits": False}, split("[0-9][0-9][0-9]")]
# A tokenizer.json's own words where they are not a chain of expressions.
WRITTEN = {
    "falcon": {"type": "Sequence", "pretokenizers": FALCON},
    "starcoder": DIGITS,
    "gpt-2": to_bytes(use_regex=True),
}
# Where llama.cpp itself splits otherwise than the tokenizers library: a mark on a letter, or a
# letter outside ASCII whose case matters.
CASES = {"gpt-4o", "tekken"}


@pytest.mark.parametrize(
    "pre", [name for name in BEHAVIOURS if name not in ("default", "superbpe")]
)
def test_ids_are_the_same_before_and_after(tmp_path: Path, engine: Engine, pre: str) -> None:
    row = BEHAVIOURS[pre]
    described = WRITTEN.get(pre) or chained(*(row.written[0] if row.written else row.splits))
    tokenizer = trained(described, ignore_merges=row.ignore_merges)
    size = len(tokenizer["model"]["vocab"]) + len(tokenizer["added_tokens"])
    folder = family("LlamaForCausalLM", tokenizer, {"eos_token": "<|im_end|>"})
    folder["config.json"]["vocab_size"] = size
    keys = keys_of(tmp_path, folder)
    assert PRE_TOKENIZERS[keys["tokenizer.ggml.pre"]] == row or pre in ("glm4", "bailingmoe")
    original = tokenizers.Tokenizer.from_str(json.dumps(tokenizer))
    letters = " \n\t'.,-$+<0123456789aZ漢" + ("" if pre in CASES else "é\u0301\u00a0😀²")
    texts = [*TEXTS, *random_texts(letters)]
    for text, ids in zip(texts, engine(keys, texts, True), strict=True):
        if pre not in CASES or not {*"Æ\u093f\u0902\u0e44"} & {*text}:
            expected = original.encode(text, add_special_tokens=False).ids
            assert (text, ids) == (text, expected)


@pytest.mark.parametrize("name", ["llama2", "llama2-json", "gemma4", "gemma3-json", "gemma2"])
def test_ids_of_pieces_are_those_of_the_library(tmp_path: Path, engine: Engine, name: str) -> None:
    """SentencePiece's vocabulary, from either file, merges in llama.cpp as in tokenizers."""
    keys = keys_of(tmp_path, FAMILIES[name])
    like = {"llama2": "llama2-json"}.get(name, "gemma4" if "gemma" in name else name)
    described = copy.deepcopy(FAMILIES[like]["tokenizer.json"])
    described["added_tokens"] = [token for token in described["added_tokens"] if token["id"] < 3]
    original = tokenizers.Tokenizer.from_str(json.dumps(described))
    shift = keys["tokenizer.ggml.tokens"].index("<0x00>") - original.token_to_id("<0x00>")
    texts = [" the and  thing", "in the land", "an ant\nand\n\ttea", "é日本 hand in hand", "a"]
    for text, ids in zip(texts, engine(keys, texts, False), strict=True):
        expected = original.encode(text, add_special_tokens=False).ids
        assert (text, ids) == (text, [number + shift for number in expected])
        assert tokenizer_of(keys).encode(text) == ids


@pytest.mark.parametrize("name", ["tekken-v3", "deepseek-v3", "command-r", "glm4-moe"])
def test_the_engine_takes_the_keys(tmp_path: Path, engine: Engine, name: str) -> None:
    keys = keys_of(tmp_path, FAMILIES[name])
    (ids,) = engine(keys, [" the and thin"], False)
    tokens = keys["tokenizer.ggml.tokens"]
    assert "".join(tokens[number] for number in ids).replace("Ġ", " ") == " the and thin"


def test_every_name_is_one_that_the_engine_knows(tmp_path: Path, engine: Engine) -> None:
    keys = keys_of(tmp_path, FAMILIES["gpt2"])
    for name in {*PRE_TOKENIZERS, *OTHER_NAMES}:
        engine(keys | {"tokenizer.ggml.pre": name}, ["a"], False)


def test_a_template_file_is_newer_than_the_configuration(tmp_path: Path) -> None:
    """As in transformers, which writes new templates there; llama.cpp's converter differs."""
    files = changed("chat_template.jinja", "newer")
    files |= {"additional_chat_templates/tool use.jinja": "tools"}
    keys = keys_of(tmp_path, files)
    assert keys["tokenizer.chat_template"] == "newer"
    assert keys["tokenizer.chat_templates"] == ["tool_use"]
    assert keys["tokenizer.chat_template.tool_use"] == "tools"


def test_families_share_a_split_and_have_their_own_name() -> None:
    described = {"pre_tokenizer": chained(LLAMA3_SPLIT), "model": {"ignore_merges": True}}
    names = {
        "LlamaForCausalLM": "llama-bpe",
        "Glm4ForCausalLM": "glm4",
        "FalconH1ForCausalLM": "falcon-h1",
        "UnheardOfForCausalLM": "llama-bpe",
    }
    for model_class, name in names.items():
        assert pre_tokenizer_name("t", described, model_class) == name
    unmerged = described | {"model": {"ignore_merges": False}}
    assert pre_tokenizer_name("t", unmerged, "Olmo2ForCausalLM") == "dbrx"
    assert pre_tokenizer_name("t", unmerged, "ChatGLMModel") == "chatglm-bpe"


@pytest.mark.parametrize("behavior", [("Removed", True), ("Isolated", True)])
def test_other_words_for_the_same_split(behavior: tuple[str, bool]) -> None:
    step = split(QWEN2_SPLIT) | {"behavior": behavior[0], "invert": behavior[1]}
    steps = {"type": "Sequence", "pretokenizers": [step, to_bytes()]}
    assert pre_tokenizer_name("t", {"pre_tokenizer": steps}) == "qwen2"


@pytest.mark.parametrize(
    "pre",
    [
        chained(QWEN2_SPLIT.replace("'s|", "")),
        chained(QWEN2_SPLIT, r"\p{N}"),
        {"type": "Sequence", "pretokenizers": [split(QWEN2_SPLIT)]},
        {"type": "Sequence", "pretokenizers": [split(QWEN2_SPLIT) | {"behavior": "Removed"}]},
        {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True},
        {"type": "Whitespace"},
        None,
        [1],
    ],
)
def test_unknown_split_is_refused_unless_named(tmp_path: Path, pre: Any) -> None:
    files = plain("LlamaForCausalLM", pre)
    with pytest.raises(UnsupportedError, match="--pre") as caught:
        keys_of(tmp_path, files)
    assert "\n" not in str(caught.value)
    assert keys_of(tmp_path, files, pre="tekken")["tokenizer.ggml.pre"] == "tekken"
    with pytest.raises(UnsupportedError, match="knows no such pre-tokenizer"):
        keys_of(tmp_path, files, pre="tekken2")


def test_texts_that_would_be_changed_first_are_refused(tmp_path: Path) -> None:
    files = plain("LlamaForCausalLM", chained(QWEN2_SPLIT), normalizer={"type": "Lowercase"})
    with pytest.raises(UnsupportedError, match="Lowercase"):
        keys_of(tmp_path, files)


def test_bos_is_not_added_because_of_a_name(tmp_path: Path) -> None:
    """llama.cpp adds a BOS for `llama-bpe` by itself; these files ask for none."""
    files = plain("LlamaForCausalLM", chained(LLAMA3_SPLIT), ignore_merges=True)
    files["tokenizer.json"]["post_processor"] = None
    assert keys_of(tmp_path, files)["tokenizer.ggml.add_bos_token"] is False


def changed(path: str, value: Any, name: str = "qwen2") -> dict[str, Any]:
    """A family's folder with one value replaced; `path` is file/key/key."""
    folder = copy.deepcopy(FAMILIES[name])
    *parents, last = path.split("/")
    place = folder
    for key in parents:
        place = place[key]  # type: ignore[assignment]
    place[last] = value
    return folder


TOKEN = {"id": FIRST_SPECIAL, "content": "x", "special": True}
DAMAGED = {
    "not JSON": changed("tokenizer.json", "{"),
    "nested": changed("tokenizer.json", "[" * 10**5),
    "a list": changed("tokenizer.json", "[]"),
    "no model": changed("tokenizer.json/model", None),
    "vocabulary": changed("tokenizer.json/model/vocab", [1]),
    "id past": changed("tokenizer.json/model/vocab", {"a": 10**9}),
    "id negative": changed("tokenizer.json/model/vocab", {"a": -1}),
    "id text": changed("tokenizer.json/model/vocab", {"a": "zero"}),
    "id twice": changed("tokenizer.json/model/vocab", {"a": 1, "b": 1}),
    "merges": changed("tokenizer.json/model/merges", "a b"),
    "merge": changed("tokenizer.json/model/merges", [["a", "b", "c"]]),
    "merge numbers": changed("tokenizer.json/model/merges", [[1, 2]]),
    "added": changed("tokenizer.json/added_tokens", {"a": 1}),
    "added entry": changed("tokenizer.json/added_tokens", ["a"]),
    "added id": changed("tokenizer.json/added_tokens", [TOKEN | {"id": 2**70}]),
    "added huge": changed("tokenizer.json/added_tokens", [TOKEN | {"content": "x" * 10**6}]),
    "added text": changed("tokenizer.json/added_tokens", [TOKEN | {"content": None}]),
    "surrogate": changed("tokenizer.json/added_tokens", [TOKEN | {"content": "\ud800"}]),
    "same text": changed("tokenizer.json/added_tokens", [TOKEN, TOKEN | {"id": FIRST_SPECIAL + 1}]),
    "decoder": changed("tokenizer_config.json/added_tokens_decoder", [1]),
    "decoder id": changed("tokenizer_config.json/added_tokens_decoder", {"-1": TOKEN}),
    "template": changed("chat_template.jinja", "x" * (5 * 2**20)),
    "rows": changed("config.json/vocab_size", 2**40),
    "few rows": changed("config.json/vocab_size", 3),
    "empty model": changed("tokenizer.model", b"", "llama2"),
    "other model": changed("tokenizer.model", b"dGhl 1\nIGE= 2\n", "llama2"),
    "cut model": changed("tokenizer.model", sentencepiece()[:-7], "llama2"),
    "long piece": changed("tokenizer.model", b"\x0a\xff\xff\xff\xff\x7f", "llama2"),
    "endless number": changed("tokenizer.model", b"\x0a" + b"\xff" * 100, "llama2"),
    "word model": changed("tokenizer.model", sentencepiece(kind=3), "llama2"),
    "not UTF-8": changed("tokenizer.model", b"\x0a\x04\x0a\x02\xff\xfe", "llama2"),
    "added_tokens.json": changed("added_tokens.json", {"a": -3}, "llama2"),
    "tekken": changed("tekken.json", {"config": 1}, "tekken-v3"),
    "tekken vocab": changed("tekken.json/vocab", [{}] * 300, "tekken-v3"),
    "tekken special": changed("tekken.json/special_tokens", [{"rank": -1}], "tekken-v3"),
    "tekken pattern": changed("tekken.json/config/pattern", "(a+)+$", "tekken-v3"),
    "tekken size": changed("tekken.json/config/default_vocab_size", 10**12, "tekken-v3"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_one_line_and_quick(tmp_path: Path, name: str) -> None:
    start = time.monotonic()
    with pytest.raises(SnugfitError) as caught:
        keys_of(tmp_path, DAMAGED[name])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
    assert str(tmp_path) in str(caught.value)
    assert time.monotonic() - start < 5


def test_any_cut_of_a_sentencepiece_model_is_refused_or_read(tmp_path: Path) -> None:
    whole = sentencepiece()
    chance = random.Random(1)
    for _ in range(300):
        data = bytearray(whole[: chance.randrange(len(whole))])
        for _ in range(chance.randrange(4)):
            if data:
                data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            keys_of(tmp_path, changed("tokenizer.model", bytes(data), "llama2"))
        except SnugfitError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    "config",
    [
        {"bos_token": 7, "eos_token": {"content": 3}, "add_bos_token": "yes"},
        {"chat_template": {"a": 1}, "additional_special_tokens": [1, {}]},
        {"chat_template": [1, {"name": 2, "template": "x"}, {"name": "a b", "template": "y"}]},
    ],
)
def test_odd_settings_are_left_out(tmp_path: Path, config: dict[str, Any]) -> None:
    keys = keys_of(tmp_path, changed("tokenizer_config.json", config))
    assert keys["tokenizer.ggml.eos_token_id"] == FIRST_SPECIAL
    assert "tokenizer.chat_template" not in keys
    assert keys.get("tokenizer.chat_templates", ["a_b"]) == ["a_b"]


def test_a_folder_without_a_tokenizer_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"no tokenizer\.json, tokenizer\.model or tekken\.json"):
        keys_of(tmp_path, {"config.json": {"vocab_size": 10}})


def test_unigram_models_are_named_so(tmp_path: Path, engine: Engine) -> None:
    keys = keys_of(tmp_path, changed("tokenizer.model", sentencepiece(kind=1), "llama2"))
    assert keys["tokenizer.ggml.model"] == "t5"
    assert keys["tokenizer.ggml.add_eos_token"] is False
    (ids,) = engine(keys, ["the and"], False)
    # The likeliest pieces: their scores add up to -8, where merging by score would give -9.
    assert [keys["tokenizer.ggml.tokens"][number] for number in ids] == ["▁t", "he", "▁and"]
