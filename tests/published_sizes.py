"""Published sizes of files, and which of them a named mix of llama-quantize explains.

Used by the tests and by benchmarks/plan_accuracy.py.
"""

from __future__ import annotations

from measured_rows import read, spec_in

from snugfit.quants.recipes import RECIPES
from snugfit.quants.types import TYPES
from snugfit.units import parse_size

MODELS = {
    "Qwen3.6-27B": "qwen3.6-27b",
    "Qwen3.5-27B": "qwen3.5-27b",
    "Gemma 4 E2B": "gemma-4-e2b",
    "Gemma 4 E4B": "gemma-4-e4b",
    "Gemma 4 31B": "gemma-4-31b",
    "DeepSeek V4 Flash": "deepseek-v4-flash",
    "DeepSeek V4 Pro": "deepseek-v4-pro",
}
# Rows of published_vram_tables.csv with a plain name that are the mixes of one vendor, Unsloth.
# Files of the same models and names by others agree with us: plain_file_sizes.csv.
WIDER_SSM = "linear attention has more bits: this Q6_K stores 6.70 a weight, Q6_K's blocks 6.5625"
LESS_EMBEDDING = "the embedding has the base type, where llama-quantize gives it the output's"
OTHER_TABLES = "tables of embeddings have other types: this Q6_K stores 7.75 bits a weight"
VENDORS_OWN = {
    "Qwen3.6-27B": (
        ("Q3_K_S", "Q3_K_M", "IQ4_XS", "IQ4_NL", "Q4_K_M", "Q6_K"),
        WIDER_SSM,
    ),
    "Gemma 4 31B": (("Q3_K_S", "Q3_K_M", "IQ4_XS", "Q4_K_M"), LESS_EMBEDDING),
    "Gemma 4 E2B": (
        ("Q3_K_M", "IQ4_XS", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0"),
        OTHER_TABLES,
    ),
}
# Files that were made before llama-quantize gave joined queries, keys and values what it gives
# values: by mix, the type that they have instead.
JOINED_BEFORE = {
    ("Qwen3.6-27B", "Q5_K_M"): "Q6_K",
    ("Qwen3.5-27B", "IQ4_XS"): "IQ4_XS",
}
NO_FILE = "no file: the official weights times a number of bits over eight"
OFFICIAL = "safetensors in 8 and 4 bits, not a mix"


def reason_of(row: dict[str, str]) -> str:
    """Return why a published row is no plain mix, empty for one that is."""
    model, name = row["model"], row["quantization"]
    if name.startswith("UD-"):
        return "a vendor's own mix, by its name"
    if name.startswith("FP8"):
        return OFFICIAL
    if name not in RECIPES:
        return NO_FILE
    names, reason = VENDORS_OWN.get(model, ((), ""))
    return reason if name in names else ""


def published() -> list[dict[str, str]]:
    return read("published_vram_tables.csv")


def plain_files() -> list[dict[str, str]]:
    return read("plain_file_sizes.csv")


def predicted_bytes(model: str, mix: str) -> int:
    """Return the bytes of a plain mix as it was when the published file was made."""
    spec = spec_in(MODELS[model], mix)
    before = JOINED_BEFORE.get((model, mix))
    if before is None:
        return spec.file_bytes
    joined = [tensor for tensor in spec.tensors if tensor.name.endswith("attn_qkv.weight")]
    now = sum(tensor.size_bytes for tensor in joined)
    return spec.file_bytes - now + sum(TYPES[before].tensor_bytes(t.shape) for t in joined)


def size_of(row: dict[str, str]) -> int:
    return parse_size(row.get("weight_size") or row["size"])


def with_embedding_as_the_rest(model: str, mix: str) -> int:
    """Return the file's bytes if its embedding had the mix's base type."""
    spec = spec_in(MODELS[model], mix)
    embedding = next(tensor for tensor in spec.tensors if tensor.name == "token_embd.weight")
    base = TYPES[RECIPES[mix].base].tensor_bytes(embedding.shape)
    return spec.file_bytes - embedding.size_bytes + base
