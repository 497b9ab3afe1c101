"""llama.cpp's own tokenization, through the symbols that the pinned wheel exports."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from snugfit.core import TensorInfo
from snugfit.formats.gguf_writer import GgufWriter


class Opaque(ctypes.Structure):
    """llama.cpp's parameters, by value: larger than any version's, filled by its defaults."""

    _fields_ = (("bytes", ctypes.c_uint8 * 512),)


Engine = Callable[[dict[str, Any], list[str], bool], list[list[int]]]


def write_smallest_model(path: Path, keys: dict[str, Any]) -> None:
    """A llama model of one layer of width 32: the engine takes no vocabulary without a model."""
    sizes = {"block_count": 1, "context_length": 32, "embedding_length": 32}
    sizes |= {"feed_forward_length": 32, "attention.head_count": 1}
    metadata: dict[str, Any] = {"general.architecture": "llama"}
    metadata |= {f"llama.{key}": np.uint32(value) for key, value in sizes.items()}
    metadata["llama.attention.layer_norm_rms_epsilon"] = np.float32(1e-5)
    vocabulary = len(keys["tokenizer.ggml.tokens"])
    shapes = {"token_embd.weight": (vocabulary, 32), "output_norm.weight": (32,)}
    for role in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        shapes[f"blk.0.{role}.weight"] = (32, 32)
    shapes |= {"blk.0.attn_norm.weight": (32,), "blk.0.ffn_norm.weight": (32,)}
    tensors = [TensorInfo(name, shape, "F32") for name, shape in shapes.items()]
    with GgufWriter(path, metadata | keys, tensors) as writer:
        for tensor in tensors:
            writer.write(tensor.name, np.zeros(tensor.size_bytes, np.uint8))
