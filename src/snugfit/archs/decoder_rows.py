"""One row an architecture that torch can run: its transformers config and the names of its weights.

To add one: a row in `DECODERS`, and in `LAYER_PARAMETERS` the parameters that no other has yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from snugfit.errors import FormatError, UnsupportedError

LARGEST_NUMBER = 2**31  # of a size in the metadata; more is damage


@dataclass(frozen=True)
class DecoderRow:
    """How an architecture of GGUF is spelled in transformers."""

    model_type: str  # transformers' name of the architecture
    sizes: Mapping[str, str]  # config field -> metadata key after "{architecture}."
    fixed: Mapping[str, Any] = field(default_factory=dict)  # what GGUF takes for granted
    # llama.cpp rotates neighbouring pairs of these models, transformers the two halves of a head,
    # so the converter reorders the rows of queries and keys.
    interleaved_heads: bool = False
    optional_bias: bool = False  # attention has biases in some of its models


COMMON_SIZES = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "max_position_embeddings": "context_length",
}
DENSE_SIZES = COMMON_SIZES | {"intermediate_size": "feed_forward_length"}
EXPERT_SIZES = COMMON_SIZES | {
    "moe_intermediate_size": "expert_feed_forward_length",
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
}

DECODERS: dict[str, DecoderRow] = {
    "llama": DecoderRow("llama", DENSE_SIZES, interleaved_heads=True, optional_bias=True),
    "qwen2": DecoderRow("qwen2", DENSE_SIZES, {"use_sliding_window": False}),
    "qwen3": DecoderRow("qwen3", DENSE_SIZES, {"use_sliding_window": False}),
    # llama.cpp always divides the chosen weights by their sum, and every layer has experts.
    "qwen3moe": DecoderRow(
        "qwen3_moe",
        EXPERT_SIZES,
        {"norm_topk_prob": True, "decoder_sparse_step": 1, "use_sliding_window": False},
    ),
}

# Parameter of a transformers decoder layer -> the tensors of `blk.N.` that make it, by rows.
LAYER_PARAMETERS: dict[str, tuple[str, ...]] = {
    "input_layernorm.weight": ("attn_norm.weight",),
    "self_attn.q_proj.weight": ("attn_q.weight",),
    "self_attn.q_proj.bias": ("attn_q.bias",),
    "self_attn.k_proj.weight": ("attn_k.weight",),
    "self_attn.k_proj.bias": ("attn_k.bias",),
    "self_attn.v_proj.weight": ("attn_v.weight",),
    "self_attn.v_proj.bias": ("attn_v.bias",),
    "self_attn.o_proj.weight": ("attn_output.weight",),
    "self_attn.o_proj.bias": ("attn_output.bias",),
    "self_attn.q_norm.weight": ("attn_q_norm.weight",),
    "self_attn.k_norm.weight": ("attn_k_norm.weight",),
    "post_attention_layernorm.weight": ("ffn_norm.weight",),
    "mlp.gate_proj.weight": ("ffn_gate.weight",),
    "mlp.up_proj.weight": ("ffn_up.weight",),
    "mlp.down_proj.weight": ("ffn_down.weight",),
    "mlp.gate.weight": ("ffn_gate_inp.weight",),
    "mlp.experts.gate_up_proj": ("ffn_gate_exps.weight", "ffn_up_exps.weight"),
    "mlp.experts.down_proj": ("ffn_down_exps.weight",),
}
# Parameters whose rows are interleaved -> the config field that counts their heads.
INTERLEAVED = {
    "self_attn.q_proj": "num_attention_heads",
    "self_attn.k_proj": "num_key_value_heads",
}
EMBEDDING, NORM, HEAD, ROPE_FACTORS = (
    "token_embd.weight",
    "output_norm.weight",
    "output.weight",
    "rope_freqs.weight",
)
GLOBAL_TENSORS = {EMBEDDING, NORM, HEAD, ROPE_FACTORS}


def row_of(metadata: Mapping[str, Any]) -> DecoderRow:
    """Return the row of a model's architecture. Raises UnsupportedError."""
    architecture = metadata.get("general.architecture")
    if architecture not in DECODERS:
        raise UnsupportedError(
            f"architecture {architecture}: cannot be calibrated or evaluated here; "
            f"{', '.join(DECODERS)} can."
        )
    return DECODERS[architecture]


def config_fields(
    metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    """Return the fields of the transformers config that `metadata` describes.

    Raises FormatError for missing or absurd numbers, UnsupportedError for rope that is not known.
    """
    row = row_of(metadata)
    read = _Reader(metadata)
    fields: dict[str, Any] = {name: read.size(key) for name, key in row.sizes.items()}
    heads = fields["num_attention_heads"]
    head_size = read.size("attention.key_length", fields["hidden_size"] // heads)
    if read.size("attention.value_length", head_size) != head_size:
        raise UnsupportedError(f"{read.architecture}: keys and values of different lengths.")
    if read.size("rope.dimension_count", head_size) != head_size:
        raise UnsupportedError(f"{read.architecture}: rope over a part of each head.")
    if read.number("expert_count", 0) > 0 and "num_experts" not in fields:
        raise UnsupportedError(f"{read.architecture}: a model of this architecture with experts.")
    if row.optional_bias:
        fields["attention_bias"] = "blk.0.attn_q.bias" in shapes
    return fields | {
        "vocab_size": shapes[EMBEDDING][0] if EMBEDDING in shapes else 1,
        "head_dim": head_size,
        "num_key_value_heads": read.size("attention.head_count_kv", heads),
        "rms_norm_eps": read.number("attention.layer_norm_rms_epsilon"),
        "rope_parameters": _rope(read, fields["max_position_embeddings"]),
        # The head is loaded under its own name, tied or not.
        "tie_word_embeddings": False,
        **row.fixed,
    }


def _rope(read: _Reader, context_length: int) -> dict[str, Any]:
    """llama3's scaling is not here: converters put it into the tensor rope_freqs.weight."""
    rope: dict[str, Any] = {
        "rope_type": "default",
        "rope_theta": read.number("rope.freq_base", 10000.0),
    }
    kind = read.metadata.get(f"{read.architecture}.rope.scaling.type", "none")
    factor = read.number("rope.scaling.factor", 1.0)
    if kind == "none":
        return rope
    if kind == "linear":
        return rope | {"rope_type": "linear", "factor": factor}
    if kind == "yarn" and read.number("rope.scaling.attn_factor", 1.0) == 1:
        original = read.size("rope.scaling.original_context_length", context_length)
        return rope | {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": original,
        }
    raise UnsupportedError(
        f"{read.architecture}: rope scaling of type {kind}; linear and yarn are read."
    )


@dataclass(frozen=True)
class _Reader:
    """Numbers of `{architecture}.*`, checked: they come from strangers."""

    metadata: Mapping[str, Any]

    @property
    def architecture(self) -> str:
        return str(self.metadata["general.architecture"])

    def number(self, key: str, default: float | None = None) -> float:
        full_key = f"{self.architecture}.{key}"
        value = self.metadata.get(full_key, default)
        if value is None:
            raise FormatError(f"metadata: {full_key} is missing. Convert the model again.")
        if np.ndim(value):
            if len(set(np.asarray(value).tolist())) != 1:
                raise UnsupportedError(f"metadata: {full_key} differs between layers.")
            value = np.asarray(value).flat[0]
        if isinstance(value, str | bool) or not 0 <= value < LARGEST_NUMBER:
            raise FormatError(f"metadata: {full_key} is {value!r}. Convert the model again.")
        return float(value)

    def size(self, key: str, default: int | None = None) -> int:
        value = self.number(key, default)
        if value < 1 or value != int(value):
            raise FormatError(
                f"metadata: {self.architecture}.{key} is {value:g}. Convert the model again."
            )
        return int(value)
