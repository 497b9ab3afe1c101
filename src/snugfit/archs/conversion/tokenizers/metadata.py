"""A Hugging Face tokenizer as GGUF metadata: which files count, and what a family adds.

Byte-level BPE is in `byte_pairs.py`, tokenizer.model in `sentencepiece.py`, tekken.json in
`tekken.py`; ids of special tokens and chat templates in `special_tokens.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from snugfit.archs.conversion.tokenizers.byte_pairs import (
    byte_level_keys,
    described_model,
    gemma4_keys,
    raw_pair_keys,
    scored_keys,
)
from snugfit.archs.conversion.tokenizers.files import TokenizerFiles, checked_size
from snugfit.archs.conversion.tokenizers.pre_tokenizers import maps_to_bytes
from snugfit.archs.conversion.tokenizers.sentencepiece import is_sentencepiece, sentencepiece_keys
from snugfit.archs.conversion.tokenizers.special_tokens import special_keys, template_keys
from snugfit.archs.conversion.tokenizers.tekken import tekken_keys
from snugfit.archs.pre_tokenizers import PRE_TOKENIZERS
from snugfit.errors import FormatError, UnsupportedError

__all__ = ["TokenizerFiles", "tokenizer_metadata"]

GEMMA4 = {
    "Gemma4ForCausalLM",
    "Gemma4ForConditionalGeneration",
    "Gemma4UnifiedForConditionalGeneration",
}
GEMMA3 = {
    "Gemma3ForCausalLM",
    "Gemma3ForConditionalGeneration",
    "Gemma3nForCausalLM",
    "Gemma3nForConditionalGeneration",
}
# Families whose texts do not start with a space that nobody wrote.
NO_SPACE_PREFIX = {"GemmaForCausalLM", "Gemma2ForCausalLM", *GEMMA3}
# Families whose tokenizer_config.json says so.
SPACE_PREFIX_CONFIGURED = {
    "LlamaForCausalLM",
    "LLaMAForCausalLM",
    "MistralForCausalLM",
    "MixtralForCausalLM",
    "Mistral3ForConditionalGeneration",
    "Ministral3ForCausalLM",
    "SmolLM3ForCausalLM",
    "GraniteForCausalLM",
    "GraniteMoeForCausalLM",
    "GraniteMoeSharedForCausalLM",
}
SMALL_GRANITE_VOCABULARY = 49152  # Granite's and SmolLM's code models: no BOS, whatever files say
SUPPRESSING = {"Gemma4UnifiedForConditionalGeneration"}


def tokenizer_metadata(
    files: TokenizerFiles, vocabulary: int, *, pre: str | None = None
) -> dict[str, Any]:
    """Return the `tokenizer.*` keys; `vocabulary` is the count of rows of the embedding.

    `pre` names llama.cpp's pre-tokenizer where a byte-level one is not recognised, or wrongly.
    Raises FormatError, UnsupportedError.
    """
    size = checked_size(files, vocabulary)
    keys, tokens = _vocabulary_keys(files, size, pre)
    if not files.tekken or files.tokenizer or files.sentencepiece:
        keys = {**special_keys(files, tokens), **keys}
    keys |= _family_keys(files, size, keys)
    row = PRE_TOKENIZERS.get(keys.get("tokenizer.ggml.pre", ""))
    if row and row.adds_bos and keys["tokenizer.ggml.model"] == "gpt2":
        # llama.cpp would add one of itself, which nothing in the files asks for.
        keys.setdefault("tokenizer.ggml.add_bos_token", False)
    if keys["tokenizer.ggml.model"] == "t5":
        keys = {"tokenizer.ggml.add_eos_token": False} | keys
    return {**keys, **template_keys(files)}


def _vocabulary_keys(
    files: TokenizerFiles, size: int, pre: str | None
) -> tuple[dict[str, Any], list[str]]:
    if not files.tokenizer:
        if is_sentencepiece(files.sentencepiece):
            return sentencepiece_keys(files, size)
        if files.tekken:
            return tekken_keys(files, size, pre)
        if files.sentencepiece:
            raise files.damaged("tokenizer.model", "is not a SentencePiece model")
        raise FormatError(
            f"{files.folder}: no tokenizer.json, tokenizer.model or tekken.json. Download the "
            "tokenizer too, or save it with transformers' tokenizer.save_pretrained."
        )
    model = described_model(files)
    if files.model_class in GEMMA4:
        return gemma4_keys(files, size)
    is_byte_level = model.get("type") == "BPE" and not _falls_back(files, model)
    if is_sentencepiece(files.sentencepiece) and not is_byte_level:
        return sentencepiece_keys(files, size)
    if model.get("type") != "BPE":
        raise UnsupportedError(
            f"{files.folder}/tokenizer.json: {str(model.get('type'))[:40]} tokenizers cannot be "
            "converted from it; BPE can, and others from a tokenizer.model."
        )
    if is_byte_level or pre:
        return byte_level_keys(files, size, pre)
    return raw_pair_keys(files, size) if files.model_class in GEMMA3 else scored_keys(files, size)


def _falls_back(files: TokenizerFiles, model: Mapping[str, Any]) -> bool:
    """Say whether the tokens are letters with a token for each byte, and not written in bytes.

    Some byte-level files have the flag set too, where it can do nothing.
    """
    in_bytes = maps_to_bytes(files.tokenizer.get("pre_tokenizer"))
    return model.get("byte_fallback") is True and not in_bytes


def _family_keys(files: TokenizerFiles, size: int, keys: Mapping[str, Any]) -> dict[str, Any]:
    family: dict[str, Any] = {}
    if files.model_class in NO_SPACE_PREFIX and keys["tokenizer.ggml.model"] == "llama":
        family["tokenizer.ggml.add_space_prefix"] = False
    prefix = files.config.get("add_prefix_space")
    if files.model_class in SPACE_PREFIX_CONFIGURED and isinstance(prefix, bool):
        family["tokenizer.ggml.add_space_prefix"] = prefix
    if files.model_class in SPACE_PREFIX_CONFIGURED and size == SMALL_GRANITE_VOCABULARY:
        family["tokenizer.ggml.add_bos_token"] = False
    suppressed = files.generation.get("suppress_tokens")
    if files.model_class in SUPPRESSING and isinstance(suppressed, list):
        ids = [number for number in suppressed if isinstance(number, int) and 0 <= number < size]
        if ids:
            family["tokenizer.ggml.suppress_tokens"] = ids
    return family
