"""Small models of every architecture in the table, and ten that the project makes up, as metadata.

Which tensors llama.cpp wants for each is recorded in data/shapes.json by make_shapes.py. PUBLISHED
models have their own widths, with a few of their layers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from snugfit.archs.table import spec_of
from snugfit.core import ModelSpec, TensorInfo

RECORDED = Path(__file__).parent / "data" / "shapes.json"
PUBLISHED: dict[str, dict[str, Any]] = json.loads(
    RECORDED.with_name("published_shapes.json").read_text()
)
VOCABULARY = 512
COMMON = {
    "vocab_size": VOCABULARY,
    "context_length": 4096,
    "embedding_length": 128,
    "block_count": 4,
    "feed_forward_length": 192,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.key_length": 32,
    "attention.value_length": 32,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "attention.layer_norm_epsilon": 1e-6,
    "rope.dimension_count": 32,
    "logit_scale": 1.0,
}
EXPERTS = {
    "expert_count": 8,
    "expert_used_count": 2,
    "expert_feed_forward_length": 64,
    "expert_shared_feed_forward_length": 64,
    "expert_shared_count": 1,
    "expert_weights_scale": 1.0,
    "expert_gating_func": 2,
    "leading_dense_block_count": 1,
}
LATENT = {
    "attention.head_count_kv": 1,
    "attention.q_lora_rank": 64,
    "attention.kv_lora_rank": 64,
    "attention.key_length": 96,  # the rank, and 32 with positions
    "attention.value_length": 64,
    "attention.key_length_mla": 64,
    "attention.value_length_mla": 32,
    "rope.dimension_count": 32,
}
INDEXER = {
    "attention.indexer.head_count": 2,
    "attention.indexer.key_length": 64,
    "attention.indexer.top_k": 32,
}
SCAN = {
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 256,
    "ssm.state_size": 32,
    "ssm.time_step_rank": 8,
    "ssm.group_count": 2,
}
DELTA = SCAN | {"ssm.time_step_rank": 8, "ssm.group_count": 4}
KIMI = (
    LATENT
    | SCAN
    | {"attention.head_count_kv": np.array([0, 1, 0, 1], np.int32), "kda.head_dim": 16}
)
SECTIONS = {"rope.dimension_sections": np.array([8, 8, 0, 0], np.int32)}
WINDOW = {"attention.sliding_window": 300}
ALTERNATING = {"attention.sliding_window_pattern": [True, False, True, False]}
MIXED_HEADS = {"attention.head_count_kv": np.array([0, 2, 0, 1], np.int32)}
DEEPSEEK4 = EXPERTS | {
    "expert_gating_func": 4,
    "expert_weights_norm": True,
    "swiglu_clamp_exp": 10.0,
    "attention.head_count_kv": 1,
    "attention.key_length": 128,
    "attention.value_length": 128,
    "attention.q_lora_rank": 64,
    "attention.sliding_window": 100,
    "attention.indexer.head_count": 2,
    "attention.indexer.key_length": 64,
    "attention.indexer.top_k": 32,
    "attention.output_group_count": 2,
    "attention.output_lora_rank": 32,
    "attention.compress_rope_freq_base": 160000.0,
    "attention.compress_ratios": np.array([0, 4, 128, 4], np.int32),
    "hyper_connection.count": 4,
    "hyper_connection.sinkhorn_iterations": 20,
    "hyper_connection.epsilon": 1e-6,
    "hash_layer_count": 1,
}
XIELU = {f"xielu.{name}": 0.5 for name in ("alpha_n", "alpha_p", "beta", "eps")}

# name -> metadata beyond COMMON; the architecture is the name up to a colon.
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral3": {},
    "mistral4": EXPERTS | LATENT,
    "llama4": EXPERTS | {"interleave_moe_layer_step": 1},
    "qwen2": {},
    "qwen2moe": EXPERTS,
    "qwen2vl": SECTIONS,
    "qwen3": {},
    "deci": {},
    "qwen3moe": EXPERTS,
    "qwen3vl": SECTIONS,
    "qwen3vlmoe": EXPERTS | SECTIONS,
    "qwen3next": EXPERTS | DELTA,
    "qwen35": DELTA | SECTIONS,
    "qwen35moe": EXPERTS | DELTA | SECTIONS,
    "gemma": {},
    "gemma2": WINDOW,
    "gemma3": WINDOW,
    "gemma3n": WINDOW | {"block_count": 30},
    "gemma4": WINDOW
    | ALTERNATING
    | {
        "embedding_length_per_layer_input": 32,
        "attention.key_length_swa": 16,
        "attention.value_length_swa": 16,
        "rope.dimension_count_swa": 16,
    },
    "gpt-oss": EXPERTS | WINDOW,
    "phi2": {},
    "phi3": WINDOW,
    "phimoe": EXPERTS,
    "deepseek": EXPERTS,
    "deepseek2": EXPERTS | LATENT,
    "deepseek32": EXPERTS | LATENT | INDEXER,
    "deepseek4": DEEPSEEK4,
    "glm4": {},
    "glm4moe": EXPERTS,
    "glm-dsa": EXPERTS | LATENT | INDEXER,
    "kimi-linear": EXPERTS | KIMI,
    "kimi-k3": EXPERTS
    | KIMI
    | {
        "attn_res.block_size": 2,
        "activation.situ_beta": 1.0,
        "activation.situ_linear_beta": 0.0,
    },
    "command-r": {},
    "cohere2": WINDOW,
    "cohere2moe": EXPERTS | WINDOW,
    "granite": {},
    "granitemoe": EXPERTS,
    "granite_swa": WINDOW | ALTERNATING,
    "granitehybrid": SCAN | MIXED_HEADS,
    "olmo": {},
    "olmo2": WINDOW,
    "olmoe": EXPERTS | {"attention.head_count_kv": 4},
    "exaone": {},
    "exaone4": WINDOW,
    "exaone-moe": EXPERTS | WINDOW,
    "mimo2": EXPERTS | WINDOW | ALTERNATING | {"rope.freq_base_swa": 10000.0},
    "step35": EXPERTS | WINDOW | ALTERNATING | {"rope.freq_base_swa": 10000.0},
    "afmoe": EXPERTS | WINDOW,
    "smallthinker": EXPERTS | WINDOW | {"context_length": 16384},
    "minimax-01": EXPERTS | {"residual_scale": 1.0, "block_count": 9, "attention.head_count_kv": 4},
    "minimax-m2": EXPERTS,
    "minimax-m3": EXPERTS
    | INDEXER
    | {"attention.indexer.block_size": 16, "attention.indexer.local_blocks": 1},
    "hunyuan-dense": {},
    "hunyuan_vl": SECTIONS,
    "hy_v3": EXPERTS,
    "hunyuan-moe": EXPERTS,
    "ernie4_5": {},
    "ernie4_5-moe": EXPERTS | {"interleave_moe_layer_step": 1},
    "seed_oss": {},
    "smollm3": {},
    "internlm2": {},
    "starcoder2": {},
    "stablelm": {},
    "falcon": {},
    "nemotron": {},
    "dots1": EXPERTS | {"attention.head_count_kv": 4},
    "bailingmoe": EXPERTS,
    "bailingmoe2": EXPERTS,
    "bailingmoe3": EXPERTS | KIMI | {"kda.gate_lower_bound": -5.0, "kda.safe_gate": True},
    "grovemoe": EXPERTS
    | {
        "expert_chunk_feed_forward_length": 32,
        "expert_group_scale": 0.05,
        "experts_per_group": 2,
    },
    "apertus": XIELU,
    "arcee": {},
    "minicpm": {},
    "minicpm3": {
        "attention.head_count_kv": 4,
        "attention.q_lora_rank": 64,
        "attention.kv_lora_rank": 64,
        "attention.key_length": 48,
        "attention.value_length": 32,
        "rope.dimension_count": 16,
    },
    "chatglm": {},
    "laguna": EXPERTS | WINDOW,
    "mellum": EXPERTS | WINDOW,
    "muse-glimmer": WINDOW,
    "paddleocr": SECTIONS,
    "maincoder": {},
    "pangu-embedded": {},
    "qwen": {"attention.head_count_kv": 4},
    "gpt2": {"attention.head_count_kv": 4},
    "gptneox": {"attention.head_count_kv": 4, "use_parallel_residual": True},
    "bloom": {"attention.head_count_kv": 4},
    "mpt": {},
    "starcoder": {},
    "refact": {},
    "codeshell": {},
    "orion": {},
    "baichuan": {},
    "xverse": {},
    "bitnet": {},
    "jais2": {},
    "dbrx": EXPERTS | {"attention.clamp_kqv": 8.0},
    "arctic": EXPERTS,
    "grok": EXPERTS,
    "nemotron_h": SCAN
    | {
        "attention.head_count_kv": np.array([0, 2, 0, 0], np.int32),
        "feed_forward_length": np.array([0, 0, 192, 0], np.int32),
    },
    "nemotron_h_moe": EXPERTS
    | SCAN
    | {
        "attention.head_count_kv": np.array([0, 2, 0, 0], np.int32),
        "feed_forward_length": np.array([0, 0, 192, 0], np.int32),
    },
    "lfm2": MIXED_HEADS | {"shortconv.l_cache": 3},
    "lfm2moe": EXPERTS | MIXED_HEADS | {"shortconv.l_cache": 3},
    "falcon-h1": SCAN,
    "plamo2": SCAN | MIXED_HEADS | {"ssm.group_count": 0},
    "plamo3": WINDOW | {"block_count": 9},
    "jamba": SCAN | MIXED_HEADS,
    "mamba": SCAN | {"attention.head_count": 0, "attention.head_count_kv": 0},
    "mamba2": SCAN | {"attention.head_count": 0, "attention.head_count_kv": 0},
    # Made up: numbers that no published model has.
    "qwen3:odd-heads": {
        "attention.head_count": 6,
        "attention.head_count_kv": 3,
        "attention.key_length": 40,
        "attention.value_length": 40,
        "rope.dimension_count": 40,
        "block_count": 3,
    },
    "deci:mixed-heads": {
        "attention.head_count": np.array([4, 4, 0, 4], np.int32),
        "attention.head_count_kv": np.array([1, 4, 0, 2], np.int32),
        "feed_forward_length": np.array([192, 96, 192, 64], np.int32),
    },
    "gemma3:narrow-window": {"attention.sliding_window": 7, "block_count": 7},
    "gemma3:no-window": {"block_count": 3},
    "gemma4:shared-layers": WINDOW
    | {
        "block_count": 9,
        "attention.head_count_kv": np.array([4, 2, 1, 4, 2, 1, 2, 2, 1], np.int32),
        "attention.sliding_window_pattern": [True, True, False] * 3,
        "attention.shared_kv_layers": 3,
        "embedding_length_per_layer_input": 32,
        "attention.key_length": 96,
        "attention.value_length": 96,
        "rope.dimension_count": 96,
        "attention.key_length_swa": 48,
        "attention.value_length_swa": 48,
        "rope.dimension_count_swa": 48,
    },
    "qwen35:every-third": DELTA
    | SECTIONS
    | {"block_count": 8, "full_attention_interval": 3, "ssm.conv_kernel": 3},
    "qwen35moe:drafting": EXPERTS
    | DELTA
    | SECTIONS
    | {"block_count": 5, "nextn_predict_layers": 1},
    "deepseek4:other-ratios": DEEPSEEK4
    | {
        "block_count": 6,
        "attention.compress_ratios": np.array([128, 128, 4, 0, 4, 128], np.int32),
        "attention.key_length": 192,
        "attention.value_length": 192,
    },
    "deepseek4:drafting": DEEPSEEK4
    | {
        "block_count": 5,
        "nextn_predict_layers": 1,
        "attention.compress_ratios": np.array([0, 4, 128, 4, 0], np.int32),
    },
    "glm-dsa:shared-index": EXPERTS
    | LATENT
    | INDEXER
    | {
        "block_count": 5,
        "nextn_predict_layers": 1,
        "attention.indexer.types": np.array([1, 0, 0, 1], np.int32),
    },
    "olmo2:own-pattern": {
        "attention.sliding_window": 100,
        "attention.sliding_window_pattern": 3,
        "block_count": 7,
    },
    "lfm2:windows": MIXED_HEADS | WINDOW | {"shortconv.l_cache": 5},
    "mamba:odd-state": {
        "attention.head_count": 0,
        "attention.head_count_kv": 0,
        "ssm.conv_kernel": 5,
        "embedding_length": 68,
        "ssm.inner_size": 136,
        "ssm.state_size": 9,
        "ssm.time_step_rank": 8,
    },
}


def architecture_of(name: str) -> str:
    return name.partition(":")[0]


def metadata_of(name: str) -> dict[str, Any]:
    """Return a shape's metadata as GGUF has it."""
    architecture = architecture_of(name)
    known = {"general.architecture": architecture, "tokenizer.ggml.model": "no_vocab"}
    given = PUBLISHED[name]["metadata"] if name in PUBLISHED else COMMON | SHAPES[name]
    for key, value in given.items():
        known[key if key.startswith("xielu") else f"{architecture}.{key}"] = stored(value)
    return known


def stored(value: Any) -> Any:
    if isinstance(value, bool | np.ndarray):
        return value
    if isinstance(value, list):
        return value if isinstance(value[0], bool) else np.array(value, np.int32)
    return np.uint32(value) if isinstance(value, int) else np.float32(value)


def tensors_of(name: str) -> tuple[TensorInfo, ...]:
    """Return the tensors that llama.cpp wanted, stored as it computes with them."""
    if name in PUBLISHED:
        recorded = PUBLISHED[name]["tensors"]
    else:
        recorded = json.loads(RECORDED.read_text())[name]
    found = []
    for key, shape in recorded.items():
        layers, _, part = key.rpartition(" ")
        names = [f"blk.{layer}.{part}" for layer in layers.split(",")] if layers else [part]
        found += [TensorInfo(one, tuple(shape), type_of(one, shape)) for one in names]
    return tuple(found)


def type_of(name: str, shape: list[int] | tuple[int, ...]) -> str:
    if "tid2eid" in name:
        return "I32"
    small = len(shape) == 1 or any(part in name for part in ("ssm_", "conv", "_inp.", "norm"))
    return "F32" if small and not name.endswith(("in.weight", "in_proj.weight")) else "F16"


def spec_of_shape(name: str) -> ModelSpec:
    return spec_of(name, metadata_of(name), tensors_of(name), file_bytes=0, header_bytes=0)
