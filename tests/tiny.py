"""Two-layer models of random weights: transformers' own, and the same under GGUF names.

The way from one to the other is written out here a second time, apart from the program's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

VOCABULARY, WIDTH, HEADS, KV_HEADS = 320, 256, 8, 4
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
}
EXPERTS = {
    "moe_intermediate_size": 96,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
DEFAULT_ROPE = {"rope_type": "default", "rope_theta": 5000.0}
# kind -> transformers' name, GGUF's, the config fields that are its own
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("llama", "llama", {"intermediate_size": 288}),
    "llama-bias": ("llama", "llama", {"intermediate_size": 288, "attention_bias": True}),
    "llama3": ("llama", "llama", {"intermediate_size": 288, "rope_parameters": LLAMA3_ROPE}),
    "llama-linear": (
        "llama",
        "llama",
        {"intermediate_size": 288, "rope_parameters": LINEAR_ROPE},
    ),
    "qwen2": ("qwen2", "qwen2", {"intermediate_size": 288}),
    "qwen2-yarn": ("qwen2", "qwen2", {"intermediate_size": 288, "rope_parameters": YARN_ROPE}),
    "qwen3": ("qwen3", "qwen3", {"intermediate_size": 288, "head_dim": 48}),
    "qwen3-tied": (
        "qwen3",
        "qwen3",
        {"intermediate_size": 288, "head_dim": 32, "tie_word_embeddings": True},
    ),
    "qwen3moe": ("qwen3_moe", "qwen3moe", {"head_dim": 32, **EXPERTS}),
}
ROLES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
}

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Tiny:
    """One model twice: `model` is transformers', the other three what the program works on."""

    model: Any
    metadata: dict[str, Any]
    tensors: dict[str, Array]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: array.shape for name, array in self.tensors.items()}

    @property
    def load(self) -> Callable[[str], Array]:
        return self.tensors.__getitem__

    def perturbed(self, scale: float, seed: int = 7) -> Tiny:
        """A copy whose matrices are each off by noise of `scale` times their own spread."""
        generator = torch.Generator().manual_seed(seed)
        other = type(self.model)(self.model.config).eval()
        other.load_state_dict(self.model.state_dict())
        with torch.no_grad():
            for parameter in other.parameters():
                if parameter.ndim > 1:
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter += scale * parameter.std() * noise
        tensors = gguf_tensors(other, self.metadata["general.architecture"] == "llama")
        extra = {name: self.tensors[name] for name in self.tensors.keys() - tensors.keys()}
        return Tiny(other, self.metadata, tensors | extra)


def tiny_model(kind: str, seed: int = 0) -> Tiny:
    """Build one of `KINDS`. Weights are large enough for attention and routing to matter."""
    model_type, architecture, own = KINDS[kind]
    rope = {} if "rope_parameters" in own else {"rope_parameters": DEFAULT_ROPE}
    torch.manual_seed(seed)
    config = AutoConfig.for_model(model_type, **SIZES, **rope, **own)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 1.5 * parameter.shape[-1] ** -0.5)
            else:
                parameter.normal_(0.8, 0.3)
    tensors = gguf_tensors(model, architecture == "llama")
    if kind == "llama3":
        tensors["rope_freqs.weight"] = llama3_factors(LLAMA3_ROPE, WIDTH // HEADS)
    return Tiny(model, gguf_metadata(model.config, architecture), tensors)


def gguf_tensors(model: Any, is_llama: bool) -> dict[str, Array]:
    found = {}
    for name, tensor in model.state_dict().items():
        array = tensor.numpy().copy()
        if name.startswith("model.layers."):
            _, _, index, rest = name.split(".", 3)
            found |= _layer_tensors(f"blk.{index}", rest, array, is_llama)
        elif name == "model.embed_tokens.weight":
            found["token_embd.weight"] = array
        elif name == "model.norm.weight":
            found["output_norm.weight"] = array
        elif not model.config.tie_word_embeddings:
            found["output.weight"] = array
    return found


def _layer_tensors(block: str, name: str, array: Array, is_llama: bool) -> dict[str, Array]:
    if name == "mlp.experts.gate_up_proj":
        rows = array.shape[1] // 2
        return {
            f"{block}.ffn_gate_exps.weight": array[:, :rows].copy(),
            f"{block}.ffn_up_exps.weight": array[:, rows:].copy(),
        }
    if name == "mlp.experts.down_proj":
        return {f"{block}.ffn_down_exps.weight": array}
    module, _, kind = name.rpartition(".")
    if is_llama and module.endswith(("q_proj", "k_proj")):
        array = interleaved(array, HEADS if module.endswith("q_proj") else KV_HEADS)
    return {f"{block}.{ROLES[module]}.{kind}": array}


def interleaved(rows: Array, heads: int) -> Array:
    """llama.cpp's order of a head's rows: one of the first half, one of the second, and so on."""
    size = len(rows) // heads
    order = [
        head * size + half * size // 2 + pair
        for head in range(heads)
        for pair in range(size // 2)
        for half in (0, 1)
    ]
    return rows[order].copy()


def llama3_factors(rope: Mapping[str, Any], head_size: int) -> Array:
    """What llama.cpp divides the frequencies by, from the published rule of Llama 3.1."""
    factors = []
    for pair in range(head_size // 2):
        frequency = rope["rope_theta"] ** (-2 * pair / head_size)
        turns = rope["original_max_position_embeddings"] * frequency / (2 * np.pi)
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        smooth = np.clip((turns - low) / (high - low), 0, 1)
        factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, np.float32)


def gguf_metadata(config: Any, architecture: str) -> dict[str, Any]:
    head_size = getattr(config, "head_dim", None) or WIDTH // HEADS
    rope = config.rope_parameters
    keys: dict[str, Any] = {
        "context_length": np.uint32(512),
        "embedding_length": np.uint32(WIDTH),
        "block_count": np.uint32(2),
        "attention.head_count": np.uint32(HEADS),
        "attention.head_count_kv": np.uint32(KV_HEADS),
        "attention.layer_norm_rms_epsilon": np.float32(1e-5),
        "attention.key_length": np.uint32(head_size),
        "attention.value_length": np.uint32(head_size),
        "rope.freq_base": np.float32(rope["rope_theta"]),
        "feed_forward_length": np.uint32(288),
    }
    if architecture == "qwen3moe":
        keys |= {
            "expert_count": np.uint32(8),
            "expert_used_count": np.uint32(2),
            "expert_feed_forward_length": np.uint32(96),
        }
    if rope["rope_type"] in ("linear", "yarn"):
        keys["rope.scaling.type"] = rope["rope_type"]
        keys["rope.scaling.factor"] = np.float32(rope["factor"])
    if rope["rope_type"] == "yarn":
        keys["rope.scaling.original_context_length"] = np.uint32(128)
    named = {f"{architecture}.{key}": value for key, value in keys.items()}
    return {"general.architecture": architecture, **named}
