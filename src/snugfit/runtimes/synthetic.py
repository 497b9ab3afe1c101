"""Models of random weights, written to time the engine on: any width, any type, no download.

Their data is real and as large as it says: the pages of a sparse file would all be one page of
zeros, which no memory has to be read for. Rows repeat, which no processor notices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from snugfit.core import TensorInfo
from snugfit.formats.gguf_writer import GgufWriter
from snugfit.quants.codecs import quantize_rows

RANDOM_ROWS = 32  # distinct ones of a matrix
SLAB_BYTES = 16 * 2**20
LONGEST_CONTEXT = 32768
EXPERT_PARTS = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")


@dataclass(frozen=True)
class Shape:
    """A decoder of the qwen3 family, its matrices all of one type but for the output's."""

    type_name: str
    layers: int
    hidden: int
    feed_forward: int  # of each expert, where there are experts
    heads: int = 8
    kv_heads: int = 2
    head_size: int = 64
    vocabulary: int = 4096
    experts: int = 0
    experts_used: int = 0
    output_type: str = ""  # empty: as the other matrices

    @property
    def architecture(self) -> str:
        return "qwen3moe" if self.experts else "qwen3"


def metadata_of(shape: Shape, name: str) -> dict[str, Any]:
    """Return the GGUF metadata, with a vocabulary of made-up words."""
    numbers: dict[str, Any] = {
        "context_length": LONGEST_CONTEXT,
        "embedding_length": shape.hidden,
        "block_count": shape.layers,
        "feed_forward_length": shape.feed_forward,
        "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads,
        "attention.key_length": shape.head_size,
        "attention.value_length": shape.head_size,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": 10000.0,
    }
    if shape.experts:
        numbers |= {
            "expert_count": shape.experts,
            "expert_used_count": shape.experts_used,
            "expert_feed_forward_length": shape.feed_forward,
        }
    tokens = [f"w{number}" for number in range(shape.vocabulary - 1)] + ["<|end|>"]
    return {
        "general.architecture": shape.architecture,
        "general.type": "model",
        "general.name": name,
        **{f"{shape.architecture}.{key}": value for key, value in numbers.items()},
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array([1] * (len(tokens) - 1) + [3], np.int32),
        "tokenizer.ggml.merges": ["w 0"],
        "tokenizer.ggml.eos_token_id": len(tokens) - 1,
        "tokenizer.ggml.add_bos_token": False,
    }


def tensors_of(shape: Shape) -> tuple[TensorInfo, ...]:
    """Return every tensor that the engine wants of this shape."""
    hidden, wide = shape.hidden, shape.feed_forward
    query, key = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    lead = (shape.experts,) if shape.experts else ()
    gate, up, down = EXPERT_PARTS if shape.experts else ("ffn_gate", "ffn_up", "ffn_down")
    matrices: Mapping[str, tuple[int, ...]] = {
        "attn_q": (query, hidden),
        "attn_k": (key, hidden),
        "attn_v": (key, hidden),
        "attn_output": (hidden, query),
        gate: (*lead, wide, hidden),
        up: (*lead, wide, hidden),
        down: (*lead, hidden, wide),
    }
    norms = {
        "attn_norm": hidden,
        "attn_q_norm": shape.head_size,
        "attn_k_norm": shape.head_size,
        "ffn_norm": hidden,
    }
    of_output = shape.output_type or shape.type_name
    tensors = [
        TensorInfo("token_embd.weight", (shape.vocabulary, hidden), shape.type_name),
        TensorInfo("output_norm.weight", (hidden,), "F32"),
        TensorInfo("output.weight", (shape.vocabulary, hidden), of_output),
    ]
    for layer in range(shape.layers):
        block = f"blk.{layer}"
        tensors += [TensorInfo(f"{block}.{n}.weight", (w,), "F32") for n, w in norms.items()]
        if shape.experts:
            router = (shape.experts, hidden)
            tensors.append(TensorInfo(f"{block}.ffn_gate_inp.weight", router, "F32"))
        tensors += [
            TensorInfo(f"{block}.{part}.weight", size, shape.type_name)
            for part, size in matrices.items()
        ]
    return tuple(tensors)


def write_model(path: Path, shape: Shape) -> None:
    """Write a GGUF file of random weights, for now only. Raises OutputError."""
    tensors = tensors_of(shape)
    random = np.random.default_rng(1)
    made: dict[tuple[int, str], np.ndarray[Any, Any]] = {}
    with GgufWriter(path, metadata_of(shape, path.stem), tensors, durable=False) as writer:
        for tensor in tensors:
            if tensor.type_name == "F32":
                writer.write(tensor.name, _floats(tensor, random))
                continue
            key = tensor.columns, tensor.type_name
            if key not in made:
                made[key] = _slab(*key, random)
            slab = made[key]
            for first in range(0, tensor.rows, len(slab)):
                writer.write(tensor.name, slab[: tensor.rows - first], first)


def _floats(tensor: TensorInfo, random: np.random.Generator) -> np.ndarray[Any, Any]:
    """Return a norm's ones, or the random rows of a router, as bytes."""
    values = np.ones(tensor.shape) if tensor.rows == 1 else random.normal(size=tensor.shape)
    return values.astype(np.float32).reshape(tensor.rows, -1).view(np.uint8)


def _slab(columns: int, type_name: str, random: np.random.Generator) -> np.ndarray[Any, Any]:
    """Return so many rows that writing them is fast, uint8 [rows, row_bytes]."""
    rows = random.normal(0, columns**-0.5, (RANDOM_ROWS, columns)).astype(np.float32)
    blocks = quantize_rows(rows, type_name)
    return np.tile(blocks, (max(1, SLAB_BYTES // blocks.nbytes), 1))
