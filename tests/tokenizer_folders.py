"""Tokenizer folders of each family in miniature: the files it publishes, a few dozen tokens."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from snugfit.archs.conversion.tokenizers.byte_pairs import BYTE_LETTERS
from snugfit.archs.pre_tokenizers import (
    BEHAVIOURS,
    DEEPSEEK_CODER,
    DEEPSEEK_LLM,
    GPT2_SPLIT,
    GPT4O_SPLIT,
    LLAMA3_SPLIT,
    QWEN2_SPLIT,
    QWEN35_SPLIT,
    TEKKEN_SPLIT,
)

# A published file's name -> its content: an object to write as JSON, text or bytes.
Folder = dict[str, Any]
LETTERS = [*"abcdefghilmnorstuwy.,!Ġ", "Ċ", "Ã", "©"]
MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("a", "n"), ("an", "d"), ("Ġ", "and"), ("i", "n")]
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def split(expression: str) -> dict[str, Any]:
    pattern = {"Regex": expression}
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


def to_bytes(*, use_regex: bool = False) -> dict[str, Any]:
    flags = {"add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}
    return {"type": "ByteLevel", **flags}


def chained(*expressions: str) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": [*map(split, expressions), to_bytes()]}


DIGITS = {
    "type": "Sequence",
    "pretokenizers": [{"type": "Digits", "individual_digits": True}, to_bytes(use_regex=True)],
}


def added(number: int, text: str, *, special: bool = True, **flags: Any) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": number, "content": text, **plain, "special": special} | flags


def starts_with(text: str, number: int, *, pair: bool = True) -> dict[str, Any]:
    """A post-processor that puts one token before each text."""
    token = {"SpecialToken": {"id": text, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [token, first],
        "pair": [token, first, token, second] if pair else [token, first, second],
        "special_tokens": {text: {"id": text, "ids": [number], "tokens": [text]}},
    }


def byte_level(
    pre: Mapping[str, Any],
    specials: list[str],
    *,
    more: list[dict[str, Any]] | None = None,
    post: Any = None,
    normalizer: Any = None,
    ignore_merges: bool = False,
    old_merges: bool = False,
) -> dict[str, Any]:
    """A tokenizer.json of byte-level BPE, whose special tokens follow the others."""
    words = [*LETTERS, *(left + right for left, right in MERGES)]
    tokens = [added(len(words) + place, text) for place, text in enumerate(specials)]
    merges = [" ".join(pair) if old_merges else list(pair) for pair in MERGES]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": tokens + (more or []),
        "normalizer": normalizer,
        "pre_tokenizer": pre,
        "post_processor": post if post else to_bytes(),
        "decoder": to_bytes(use_regex=True),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": ignore_merges,
            "vocab": {text: number for number, text in enumerate(words)},
            "merges": merges,
        },
    }


FIRST_SPECIAL = len(LETTERS) + len(MERGES)
SIZE = FIRST_SPECIAL + 10  # a few rows more than tokens, as publishers pad


def family(model_class: str, tokenizer: Any, config: Mapping[str, Any], **files: Any) -> Folder:
    model = {"architectures": [model_class], "vocab_size": SIZE, **files.pop("model", {})}
    generation = files.pop("generation", {"eos_token_id": FIRST_SPECIAL})
    folder = {
        "config.json": model,
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": {
            key: value
            for key, value in {"tokenizer_class": "PreTrainedTokenizerFast", **config}.items()
            if value is not None
        },
        "generation_config.json": generation,
        **files,
    }
    return {name: content for name, content in folder.items() if content is not None}


def plain(
    model_class: str,
    pre: Mapping[str, Any],
    changes: Mapping[str, Any] | None = None,
    **options: Any,
) -> Folder:
    """A family whose files hold nothing unusual: one token ends texts, and one pads."""
    tokenizer = byte_level(pre, ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<pad>"], **options)
    roles = {"eos_token": "<|im_end|>", "pad_token": "<pad>", "bos_token": "<|endoftext|>"}
    model = {"vocab_size": 48}  # a multiple of 16, to which Mamba's are padded
    config = {**roles, "chat_template": TEMPLATE, **(changes or {})}
    return family(model_class, tokenizer, config, model=model)


def piece(text: str, score: float, kind: int = 1) -> bytes:
    """One piece of a SentencePiece model, as its protocol buffer writes it."""
    encoded = text.encode()
    body = b"\x0a" + bytes([len(encoded)]) + encoded + b"\x15" + struct.pack("<f", score)
    body += b"\x18" + bytes([kind]) if kind != 1 else b""
    return b"\x0a" + bytes([len(body)]) + body


SPM_WORDS = ["▁t", "he", "▁the", "in", "▁a", "an", "nd", "▁and", "ing"]
SPM_LETTERS = [*"▁etaoinshrdlucgd"[:-1], "é"]


def sentencepiece(*, kind: int = 2, first: tuple[str, ...] = ("<unk>", "<s>", "</s>")) -> bytes:
    """A tokenizer.model: control tokens, bytes, words by merge and letters, as its trainer has."""
    data = b"".join(piece(text, 0.0, 2 if text == "<unk>" else 3) for text in first)
    data += b"".join(piece(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256))
    words = [*SPM_WORDS, *SPM_LETTERS]
    data += b"".join(piece(word, -float(place)) for place, word in enumerate(words))
    data += piece("<unused0>", 0.0, 4)
    trainer = b"\x18" + bytes([kind]) + b"\x98\x02\x01"
    normalizer = b"\x0a\x08identity\x18\x01\x20\x00"
    return (
        data
        + b"\x12"
        + bytes([len(trainer)])
        + trainer
        + b"\x1a"
        + bytes([len(normalizer)])
        + normalizer
    )


SPM_SIZE = 3 + 256 + len(SPM_WORDS) + len(SPM_LETTERS) + 1 + 4


def with_fallback(
    specials: tuple[str, ...], more: list[dict[str, Any]], prepend: bool = True
) -> dict[str, Any]:
    """The same vocabulary as a tokenizer.json, with merges for scores."""
    words = [*specials, *(f"<0x{byte:02X}>" for byte in range(256)), *SPM_WORDS, *SPM_LETTERS]
    known = set(words)
    merges = [
        [word[:cut], word[cut:]]
        for word in SPM_WORDS
        for cut in range(1, len(word))
        if word[:cut] in known and word[cut:] in known
    ]
    steps: list[Any] = [{"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    steps = [{"type": "Prepend", "prepend": "▁"}, *steps] if prepend else steps
    restored = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added(place, text) for place, text in enumerate(specials)] + more,
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": None,
        "post_processor": starts_with("<s>" if "<s>" in specials else "<bos>", 1),
        "decoder": {
            "type": "Sequence",
            "decoders": [restored, {"type": "ByteFallback"}, {"type": "Fuse"}],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {text: number for number, text in enumerate(words)},
            "merges": merges,
        },
    }


def tekken(version: str, count: int = 24, **changes: Any) -> dict[str, Any]:
    """A tekken.json: bytes by rank, a few words, special tokens in front of both."""
    words = [bytes([byte]) for byte in range(256)]
    words += [b"th", b"the", b" the", b"an", b"and", b" and", "é".encode(), b"ing"[:2], b"ing"]
    vocabulary = [
        {"rank": rank, "token_bytes": base64.b64encode(word).decode(), "token_str": None}
        for rank, word in enumerate(words)
    ]
    return {
        "config": {
            "pattern": TEKKEN_SPLIT,
            "num_vocab_tokens": len(words),
            "default_vocab_size": len(words) + count - 1,  # the last word is cut off
            "default_num_special_tokens": count,
            "version": version,
        },
        "vocab": vocabulary,
    } | changes


TEKKEN_SIZE = 256 + 9 - 1 + 24
LLAMA_TOKENS = ["<|begin_of_text|>", "<|eot_id|>", "<|finetune_right_pad_id|>", "<|eom_id|>"]
LLAMA3 = family(
    "LlamaForCausalLM",
    byte_level(
        chained(LLAMA3_SPLIT),
        LLAMA_TOKENS,
        post={
            "type": "Sequence",
            "processors": [to_bytes(), starts_with("<|begin_of_text|>", FIRST_SPECIAL)],
        },
        ignore_merges=True,
    ),
    {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "chat_template": TEMPLATE},
    model={"bos_token_id": FIRST_SPECIAL, "eos_token_id": [FIRST_SPECIAL + 1, FIRST_SPECIAL + 3]},
)
GLM_TOKENS = ["<|endoftext|>", "[MASK]", "[gMASK]", "<sop>", "<|system|>", "<|user|>"]
GLM_TOKENS += ["<|assistant|>", "<|observation|>"]
DEEPSEEK_TOKENS = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"]
DEEPSEEK_ROLES = {
    "bos_token": {"__type": "AddedToken", "content": DEEPSEEK_TOKENS[0]},
    "eos_token": {"__type": "AddedToken", "content": DEEPSEEK_TOKENS[1]},
    "pad_token": {"__type": "AddedToken", "content": DEEPSEEK_TOKENS[2]},
    "add_bos_token": True,
    "add_eos_token": False,
}
NAMED = [{"name": "default", "template": TEMPLATE}, {"name": "tool-use", "template": "tools"}]
GEMMA = ("<pad>", "<eos>", "<bos>")
GEMMA_ROLES = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
SPM_ROLES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def glm(model_class: str) -> Folder:
    return family(
        model_class,
        byte_level(chained(LLAMA3_SPLIT), GLM_TOKENS, ignore_merges=True),
        {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
        model={"eos_token_id": [FIRST_SPECIAL, FIRST_SPECIAL + 5], "pad_token_id": FIRST_SPECIAL},
        **{"chat_template.jinja": TEMPLATE},
    )


def deepseek(model_class: str, pre: Mapping[str, Any]) -> Folder:
    tool = added(FIRST_SPECIAL + 3, "<｜tool▁call｜>", special=False)
    think = added(FIRST_SPECIAL + 4, "<think>", special=False, normalized=True)
    return family(
        model_class,
        byte_level(pre, DEEPSEEK_TOKENS, more=[tool, think]),
        {**DEEPSEEK_ROLES, "chat_template": TEMPLATE},
        model={"bos_token_id": FIRST_SPECIAL, "eos_token_id": FIRST_SPECIAL + 1},
    )


def decoder_entry(text: str, *, special: bool = True) -> dict[str, Any]:
    return {key: value for key, value in added(0, text, special=special).items() if key != "id"}


def from_model(model_class: str, first: tuple[str, ...], roles: Mapping[str, Any]) -> Folder:
    """A family with tokenizer.model, and without tokenizer.json."""
    last = SPM_SIZE - 4
    decoder = {str(place): decoder_entry(text) for place, text in enumerate(first)}
    decoder |= {str(last): decoder_entry("<|turn|>", special=False)}
    decoder |= {str(last + 1): decoder_entry("▁▁▁", special=False)}
    return family(
        model_class,
        None,
        {**roles, "added_tokens_decoder": decoder, "chat_template": NAMED},
        model={"vocab_size": SPM_SIZE, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
        **{"tokenizer.model": sentencepiece(first=first)},
    )


PHI3_MORE = [added(SPM_SIZE - 4, "<|end|>", rstrip=True), added(SPM_SIZE - 3, "<|user|>")]
FAMILIES: dict[str, Folder] = {
    "llama2": from_model("LlamaForCausalLM", ("<unk>", "<s>", "</s>"), SPM_ROLES)
    | {"added_tokens.json": {"<extra>": SPM_SIZE - 1, "<far>": SPM_SIZE + 7}},
    "llama2-json": family(
        "LlamaForCausalLM",
        with_fallback(("<unk>", "<s>", "</s>"), [added(SPM_SIZE - 5, "<tool>", special=False)]),
        {**SPM_ROLES, "add_prefix_space": True, "tokenizer_class": "LlamaTokenizer"},
        model={"vocab_size": SPM_SIZE - 4},
    ),
    "llama3": LLAMA3,
    "llama4": plain("Llama4ForCausalLM", chained(GPT4O_SPLIT)),
    "mistral-model": from_model("MistralForCausalLM", ("<unk>", "<s>", "</s>"), SPM_ROLES),
    "mixtral-json": family(
        "MixtralForCausalLM",
        with_fallback(("<unk>", "<s>", "</s>"), []),
        {**SPM_ROLES, "tokenizer_class": "LlamaTokenizer"},
        model={"vocab_size": SPM_SIZE - 5, "bos_token_id": 1, "eos_token_id": 2},
    ),
    "mistral-nemo": family(
        "MistralForCausalLM",
        byte_level(
            chained(TEKKEN_SPLIT),
            ["<unk>", "<s>", "</s>", "[INST]"],
            post=starts_with("<s>", FIRST_SPECIAL + 1),
            ignore_merges=True,
        ),
        {**SPM_ROLES, "add_prefix_space": False, "chat_template": NAMED},
    ),
    "qwen2": plain("Qwen2ForCausalLM", chained(QWEN2_SPLIT), normalizer={"type": "NFC"}),
    "qwen3-moe": plain("Qwen3MoeForCausalLM", chained(QWEN2_SPLIT), old_merges=True),
    "qwen3-next": plain("Qwen3NextForCausalLM", chained(QWEN2_SPLIT), {"chat_template": None})
    | {"chat_template.jinja": "a template of its own"},
    "qwen35": plain("Qwen3_5ForCausalLM", chained(QWEN35_SPLIT)),
    "gemma": from_model("GemmaForCausalLM", GEMMA, GEMMA_ROLES),
    "gemma2": from_model("Gemma2ForCausalLM", GEMMA, GEMMA_ROLES),
    "gemma3": from_model("Gemma3ForCausalLM", GEMMA, GEMMA_ROLES),
    "gemma3-json": family(
        "Gemma3ForCausalLM",
        with_fallback(("<pad>", "<eos>", "<bos>", "<unk>"), [], prepend=False),
        GEMMA_ROLES,
        model={"vocab_size": SPM_SIZE - 2},
    ),
    "gemma4": family(
        "Gemma4ForCausalLM",
        with_fallback(
            ("<pad>", "<eos>", "<bos>", "<unk>"),
            [added(SPM_SIZE - 4, "<|channel>"), added(SPM_SIZE - 3, "<plain>", special=False)],
            prepend=False,
        ),
        {**GEMMA_ROLES, "unk_token": "<unk>", "extra_special_tokens": {"x_token": "<|channel>"}},
        model={"vocab_size": SPM_SIZE - 2},
        **{"chat_template.jinja": TEMPLATE},
    ),
    "phi3": from_model("Phi3ForCausalLM", ("<unk>", "<s>", "</s>"), SPM_ROLES)
    | {"tokenizer.json": with_fallback(("<unk>", "<s>", "</s>"), PHI3_MORE)},
    "phi4": plain("Phi3ForCausalLM", chained(LLAMA3_SPLIT), {"tokenizer_class": "GPT2Tokenizer"}),
    "gpt-oss": plain("GptOssForCausalLM", chained(GPT4O_SPLIT)),
    "glm4": glm("Glm4ForCausalLM"),
    "glm4-moe": glm("Glm4MoeForCausalLM"),
    "glm47-flash": glm("Glm4MoeLiteForCausalLM"),
    "deepseek-v2": deepseek("DeepseekV2ForCausalLM", chained(*DEEPSEEK_LLM, r"\p{N}")),
    "deepseek-coder": deepseek("DeepseekV2ForCausalLM", chained(*DEEPSEEK_CODER)),
    "deepseek-v3": deepseek("DeepseekV3ForCausalLM", chained(*BEHAVIOURS["deepseek-v3"].splits)),
    "deepseek-v4": deepseek("DeepseekV4ForCausalLM", chained(*BEHAVIOURS["deepseek-v3"].splits)),
    "granite3": plain("GraniteForCausalLM", DIGITS),
    "granite4": plain("GraniteMoeHybridForCausalLM", chained(LLAMA3_SPLIT)),
    "olmo2": plain("Olmo2ForCausalLM", chained(LLAMA3_SPLIT)),
    "smollm3": plain("SmolLM3ForCausalLM", chained(LLAMA3_SPLIT)),
    "command-r": plain(
        "CohereForCausalLM", DIGITS, {"chat_template": None}, normalizer={"type": "NFC"}
    )
    | {"additional_chat_templates/rag.jinja": "rag", "chat_template.jinja": TEMPLATE},
    "falcon-h1": plain("FalconH1ForCausalLM", chained(LLAMA3_SPLIT), ignore_merges=True),
    "mamba2": plain("Mamba2ForCausalLM", to_bytes(use_regex=True), normalizer={"type": "NFC"}),
    "gpt2": plain("GPT2LMHeadModel", chained(GPT2_SPLIT)),
    "tekken-v3": family(
        "MistralForCausalLM",
        None,
        {},
        model={"vocab_size": TEKKEN_SIZE},
        **{"tekken.json": tekken("v3"), "tokenizer_config.json": None},
    ),
    "tekken-v7": family(
        "MistralForCausalLM",
        None,
        {},
        model={"vocab_size": TEKKEN_SIZE},
        **{"tekken.json": tekken("v7"), "tokenizer_config.json": None},
    ),
}


def write_files(folder: Path, files: Folder) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            text = content if isinstance(content, str) else json.dumps(content)
            path.write_text(text, encoding="utf-8")
    return folder


def rows_of(files: Folder) -> int:
    """The rows that the model's embedding has."""
    return int(files["config.json"]["vocab_size"])


assert BYTE_LETTERS[32] == "Ġ"
