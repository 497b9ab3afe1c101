"""What docs/conversion.md says: which models convert, however they are stored and tokenized."""

from __future__ import annotations

import textwrap

from snugfit.archs.conversion.projectors import PROJECTORS
from snugfit.archs.conversion.rows import CONVERSIONS
from snugfit.archs.conversion.rules import ConversionRow
from snugfit.archs.conversion.tokenizers.pre_tokenizers import OTHER_NAMES
from snugfit.archs.pre_tokenizers import PRE_TOKENIZERS
from snugfit.formats.packed import METHODS

# Class whose config chooses a row -> the architectures that it may be.
CHOSEN = {"GraniteMoeHybridForCausalLM": ("granitehybrid", "granitemoe", "granite")}
# quant_method of config.json -> what is read of it.
PACKED = {
    "fp8": "8-bit floats with scales of blocks, rows or tensors; experts in MXFP4, bit for bit",
    "fbgemm_fp8": "8-bit floats with a scale a row",
    "modelopt": "NVIDIA's FP8 and NVFP4, from `hf_quant_config.json` too",
    "mxfp4": "gpt-oss: experts stay MXFP4, bit for bit",
    "gptq": "2, 3, 4 and 8 bits, with or without `desc_act`; AutoRound's files too",
    "awq": "4 bits, version gemm; AutoRound's files too",
    "compressed-tensors": "packed integers of 1 to 8 bits, plain ones, FP8, NVFP4, MXFP4 and MXFP8",
    "bitsandbytes": "NF4 and FP4, doubly quantized or not, and 8-bit integers",
}
# Files of a tokenizer -> what they become: `tokenizer.ggml.model`, and what is special.
TOKENIZERS = {
    "`tokenizer.json`, byte-level pairs": (
        "gpt2",
        "how text is split is recognised by its expressions, never guessed; see below",
    ),
    "`tokenizer.json`, pairs with tokens for bytes": (
        "llama",
        "scores follow from the order of merges; Gemma 3's are `gpt2`, Gemma 4's `gemma4`",
    ),
    "`tokenizer.model`, pairs of SentencePiece": ("llama", "counts before such a tokenizer.json"),
    "`tokenizer.model`, unigrams of SentencePiece": ("t5", "its normalizer is kept"),
    "`tekken.json`": ("gpt2", "Mistral's, where there is no other"),
}
HEAD = """# Conversion

`snugfit convert`, `quantize`, `calibrate` and `fit` read the folder of a Hugging Face model, or its
name on the Hub, as if it were a GGUF file: names, shapes and metadata are those that llama.cpp's
own converter gives. `snugfit convert MODEL -o OUT.gguf` writes it without quantizing;
`snugfit convert MODEL --mmproj -o OUT.gguf` writes its towers for pictures and sound, which
llama.cpp loads beside it. A model whose config asks for what llama.cpp does not do is refused.

## Models

| class in config.json | GGUF architecture | `--mmproj` |
|---|---|---|
"""
PACKED_HEAD = """
A projector is F16, BF16, F32 or Q8_0; by default the 16 bits that it is stored in. What llama.cpp
multiplies in no other type stays F32 or F16, whatever is asked for.

## Weights that are stored quantized

They are read as what they stand for, and then converted or quantized like others.

| `quant_method` | what is read |
|---|---|
"""
TOKENIZER_HEAD = """
## Tokenizers

| files | `tokenizer.ggml.model` | |
|---|---|---|
"""
SPLITS = (
    "Ways to split text that are recognised, by llama.cpp's names: {recognised}.",
    "A tokenizer that splits otherwise is refused, for other tokens than those of training make a "
    "model worse without a word. Who knows the right name gives it to `convert`, `quantize` or "
    "`fit` with `--pre NAME`: one of those, or {others}.",
)
FALLBACK = "default"  # of llama.cpp, for files that say nothing


def conversion_page() -> str:
    assert set(CHOSEN) == {n for n, r in CONVERSIONS.items() if not isinstance(r, ConversionRow)}
    assert list(PACKED) == list(METHODS)
    assert set(PROJECTORS) <= set(CONVERSIONS)
    lines = []
    for name, row in CONVERSIONS.items():
        found = (row.architecture,) if isinstance(row, ConversionRow) else CHOSEN[name]
        towers = "yes" if name in PROJECTORS else ""
        lines.append(f"| {name} | {', '.join(found)} | {towers} |\n")
    packed = [f"| `{name}` | {text} |\n" for name, text in PACKED.items()]
    kinds = [f"| {files} | `{model}` | {text} |\n" for files, (model, text) in TOKENIZERS.items()]
    names = {"recognised": {*PRE_TOKENIZERS} - {FALLBACK}, "others": OTHER_NAMES | {FALLBACK}}
    splits = {key: ", ".join(f"`{one}`" for one in sorted(each)) for key, each in names.items()}
    wrapped = (textwrap.fill(text.format(**splits), 100, break_on_hyphens=False) for text in SPLITS)
    tables = (HEAD, *lines, PACKED_HEAD, *packed, TOKENIZER_HEAD, *kinds)
    return "".join(tables) + "".join(f"\n{paragraph}\n" for paragraph in wrapped)
