"""One row a Hugging Face model class: its GGUF architecture, metadata and rearranged tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from snugfit.errors import FormatError, UnsupportedError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Config:
    """config.json as conversion reads it; `raw` is the whole object. Sizes in elements."""

    folder: str
    raw: Mapping[str, Any]

    def number(self, key: str, default: int | float | None = None) -> Any:
        """Return a number of the config. Raises FormatError if it is missing or not a sane one."""
        value = self.raw.get(key, default)
        if value is None:
            value = default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**40:
            raise FormatError(
                f"{self.folder}/config.json: {key} is {value!r}, not a sensible number. "
                "Download the model again."
            )
        return value

    @property
    def layers(self) -> int:
        layers = int(self.number("num_hidden_layers"))
        if not 0 < layers < 10_000:
            raise FormatError(f"{self.folder}/config.json: {layers} layers cannot be right.")
        return layers

    @property
    def hidden_size(self) -> int:
        return int(self.number("hidden_size"))

    @property
    def vocabulary(self) -> int:
        return int(self.number("vocab_size"))

    @property
    def heads(self) -> int:
        return max(1, int(self.number("num_attention_heads")))

    @property
    def key_value_heads(self) -> int:
        return int(self.number("num_key_value_heads", self.heads))

    @property
    def head_size(self) -> int:
        return int(self.number("head_dim", self.hidden_size // self.heads))

    @property
    def experts(self) -> int:
        return int(self.number("num_experts", self.number("num_local_experts", 0)))

    @property
    def tied(self) -> bool:
        return bool(self.raw.get("tie_word_embeddings", False))

    @property
    def rope(self) -> Mapping[str, Any]:
        """Rope parameters, from transformers 5's `rope_parameters` or the older pair of keys."""
        found = self.raw.get("rope_parameters") or self.raw.get("rope_scaling") or {}
        theta = found.get("rope_theta", self.raw.get("rope_theta", 10_000.0))
        kind = found.get("rope_type", found.get("type", "default"))
        return {**found, "rope_theta": theta, "rope_type": kind}


@dataclass(frozen=True)
class ConversionRow:
    """What a model class needs beyond gguf's name map."""

    architecture: str
    metadata: Callable[[Config], dict[str, Any]]
    arrange: Callable[[str, Config], Callable[[Array], Array]]
    constants: Callable[[Config], dict[str, Array]]


def attention_metadata(config: Config) -> dict[str, Any]:
    """Keys that every decoder has, without the architecture's prefix."""
    rope = config.rope
    keys = {
        "vocab_size": config.vocabulary,
        "context_length": int(config.number("max_position_embeddings")),
        "embedding_length": config.hidden_size,
        "block_count": config.layers,
        "feed_forward_length": int(config.number("intermediate_size")),
        "attention.head_count": config.heads,
        "attention.head_count_kv": config.key_value_heads,
        "attention.key_length": config.head_size,
        "attention.value_length": config.head_size,
        "attention.layer_norm_rms_epsilon": float(config.number("rms_norm_eps", 1e-6)),
        "rope.freq_base": float(rope["rope_theta"]),
        "rope.dimension_count": config.head_size,
    }
    return keys | _rope_scaling(config)


def _rope_scaling(config: Config) -> dict[str, Any]:
    rope = config.rope
    match rope["rope_type"]:
        case "default" | "llama3":  # llama3's factors become a tensor, see llama_constants
            return {}
        case "linear":
            return {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}
        case "yarn":
            original = rope.get("original_max_position_embeddings") or config.number(
                "max_position_embeddings"
            )
            return {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": float(rope["factor"]),
                "rope.scaling.original_context_length": int(original),
            }
    raise UnsupportedError(
        f"{config.folder}/config.json: rope type {rope['rope_type']!r} cannot be converted yet; "
        "default, linear, llama3 and yarn can."
    )


def full_attention_metadata(config: Config) -> dict[str, Any]:
    """Keys of a decoder whose layers all see the whole context; else UnsupportedError."""
    if config.raw.get("use_sliding_window"):
        raise UnsupportedError(
            f"{config.folder}/config.json: use_sliding_window is on; llama.cpp runs this "
            "architecture with full attention only."
        )
    return attention_metadata(config)


def expert_metadata(config: Config) -> dict[str, Any]:
    used = int(config.number("num_experts_per_tok"))
    if not 0 < used <= config.experts:
        raise FormatError(
            f"{config.folder}/config.json: {used} of {config.experts} experts used cannot be right."
        )
    return full_attention_metadata(config) | {
        "expert_count": config.experts,
        "expert_used_count": used,
        "expert_feed_forward_length": int(config.number("moe_intermediate_size")),
    }


def keep_rows(_name: str, _config: Config) -> Callable[[Array], Array]:
    return lambda values: values


def interleave_heads(name: str, config: Config) -> Callable[[Array], Array]:
    """llama.cpp rotates neighbouring pairs of a llama head; Hugging Face rotates its two halves."""
    if name.endswith(("q_proj.weight", "q_proj.bias")):
        return lambda values: _interleaved(values, config.heads)
    if name.endswith(("k_proj.weight", "k_proj.bias")):
        return lambda values: _interleaved(values, config.key_value_heads)
    return lambda values: values


def _interleaved(values: Array, heads: int) -> Array:
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def no_constants(_config: Config) -> dict[str, Array]:
    return {}


def llama_constants(config: Config) -> dict[str, Array]:
    """Frequency divisors of Llama 3.1's long context (transformers' `llama3` rope type)."""
    rope = config.rope
    if rope["rope_type"] != "llama3":
        return {}
    factor, low, high = (
        float(rope[key]) for key in ("factor", "low_freq_factor", "high_freq_factor")
    )
    original = float(rope["original_max_position_embeddings"])
    size = config.head_size
    exponents = np.arange(0, size, 2, dtype=np.float32) / size
    wavelength = 2 * math.pi * float(rope["rope_theta"]) ** exponents
    smooth = (original / wavelength - low) / (high - low)
    blended = 1 / ((1 - smooth) / factor + smooth)
    divisors = np.where(wavelength < original / high, 1.0, blended)
    divisors = np.where(wavelength > original / low, factor, divisors)
    return {"rope_freqs.weight": divisors.astype(np.float32)}


LLAMA = ConversionRow("llama", attention_metadata, interleave_heads, llama_constants)
QWEN2 = ConversionRow("qwen2", full_attention_metadata, keep_rows, no_constants)
QWEN3 = ConversionRow("qwen3", full_attention_metadata, keep_rows, no_constants)
QWEN3_MOE = ConversionRow("qwen3moe", expert_metadata, keep_rows, no_constants)

CONVERSIONS: dict[str, ConversionRow] = {
    "LlamaForCausalLM": LLAMA,
    "MistralForCausalLM": LLAMA,
    "Qwen2ForCausalLM": QWEN2,
    "Qwen3ForCausalLM": QWEN3,
    "Qwen3MoeForCausalLM": QWEN3_MOE,
}


def row_of(config: Config) -> ConversionRow:
    """Return the row of the config's model class. Raises FormatError, UnsupportedError."""
    classes = config.raw.get("architectures")
    if not isinstance(classes, list) or not classes or not isinstance(classes[0], str):
        raise FormatError(
            f"{config.folder}/config.json: no 'architectures'; it is not a language model's config."
        )
    row = CONVERSIONS.get(classes[0])
    if row is None:
        raise UnsupportedError(
            f"{config.folder}: the architecture {classes[0]} is unknown. "
            f"Known: {', '.join(CONVERSIONS)}."
        )
    return row
