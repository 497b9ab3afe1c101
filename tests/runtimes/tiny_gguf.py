"""Writes two-layer GGUF models of random weights, under a megabyte, that the real engine runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True)
class TinyShape:
    """Shape of a tiny model; key and value widths are `kv_heads * head_size` elements a token."""

    layers: int = 2
    hidden_size: int = 64
    heads: int = 4
    kv_heads: int = 2
    head_size: int = 32
    feed_forward_size: int = 96
    context_length: int = 2048
    experts: int = 0  # 0 for a dense model; two are used for a token

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_size


def byte_alphabet() -> list[str]:
    """The 256 printable characters that stand for bytes in GPT-2's byte-level BPE."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in kept]
    character = {byte: chr(byte) for byte in kept}
    character.update({byte: chr(256 + index) for index, byte in enumerate(moved)})
    return [character[byte] for byte in range(256)]


def write_tiny_gguf(
    path: Path,
    shape: TinyShape | None = None,
    *,
    seed: int = 0,
    chat_template: str = CHAT_TEMPLATE,
    repeat_penalty: float = 1.0,
) -> Path:
    """Write a qwen3 (or, with experts, qwen3moe) model to `path` and return the path."""
    shape = shape or TinyShape()
    writer = gguf.GGUFWriter(path, "qwen3moe" if shape.experts else "qwen3")
    _add_shape(writer, shape)
    writer.add_sampling_penalty_repeat(repeat_penalty)  # a default that the file recommends
    vocabulary = _add_tokenizer(writer, chat_template)
    for name, values in _random_tensors(shape, vocabulary, np.random.default_rng(seed)).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_shape(writer: gguf.GGUFWriter, shape: TinyShape) -> None:
    writer.add_name("tiny")
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.context_length)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_feed_forward_length(shape.feed_forward_size)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_size)
    writer.add_value_length(shape.head_size)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(2)
        writer.add_expert_feed_forward_length(shape.feed_forward_size)


def _add_tokenizer(writer: gguf.GGUFWriter, chat_template: str) -> int:
    """Add a byte-level BPE vocabulary with a few merges and one end token; return its size."""
    merges = ["t h", "th e", "Ġ t", "i n"]
    tokens = [*byte_alphabet(), *(merge.replace(" ", "") for merge in merges), "<|end|>"]
    types = [gguf.TokenType.NORMAL] * (len(tokens) - 1) + [gguf.TokenType.CONTROL]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_add_bos_token(False)
    if chat_template:
        writer.add_chat_template(chat_template)
    return len(tokens)


def _random_tensors(
    shape: TinyShape, vocabulary: int, generator: np.random.Generator
) -> dict[str, NDArray[np.float16] | NDArray[np.float32]]:
    def matrix(*sizes: int) -> NDArray[np.float16]:
        return (generator.standard_normal(sizes) / sizes[-1] ** 0.5).astype(np.float16)

    hidden, query_width = shape.hidden_size, shape.heads * shape.head_size
    # Greedy answers stay in ASCII and never end: the other tokens' scores are always 0.
    output = matrix(vocabulary, hidden)
    output[[*range(128, 256), vocabulary - 1]] = 0
    tensors: dict[str, NDArray[np.float16] | NDArray[np.float32]] = {
        "token_embd.weight": matrix(vocabulary, hidden),
        "output.weight": output,
        "output_norm.weight": np.ones(hidden, np.float32),
    }
    for layer in range(shape.layers):
        block = f"blk.{layer}"
        tensors |= {
            f"{block}.attn_norm.weight": np.ones(hidden, np.float32),
            f"{block}.attn_q.weight": matrix(query_width, hidden),
            f"{block}.attn_k.weight": matrix(shape.kv_width, hidden),
            f"{block}.attn_v.weight": matrix(shape.kv_width, hidden),
            f"{block}.attn_output.weight": matrix(hidden, query_width),
            f"{block}.attn_q_norm.weight": np.ones(shape.head_size, np.float32),
            f"{block}.attn_k_norm.weight": np.ones(shape.head_size, np.float32),
            f"{block}.ffn_norm.weight": np.ones(hidden, np.float32),
        }
        suffix, lead = ("_exps", (shape.experts,)) if shape.experts else ("", ())
        if shape.experts:
            tensors[f"{block}.ffn_gate_inp.weight"] = matrix(shape.experts, hidden).astype(
                np.float32
            )
        tensors[f"{block}.ffn_gate{suffix}.weight"] = matrix(*lead, shape.feed_forward_size, hidden)
        tensors[f"{block}.ffn_up{suffix}.weight"] = matrix(*lead, shape.feed_forward_size, hidden)
        tensors[f"{block}.ffn_down{suffix}.weight"] = matrix(*lead, hidden, shape.feed_forward_size)
    return tensors
