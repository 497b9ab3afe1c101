"""Models that people ask about, by name and shape: what a file's header would say, without a file.

Text models as llama.cpp counts them: no vision tower, no layers that predict further tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from snugfit.archs.layouts import shapes_of
from snugfit.archs.published import ROWS, Published
from snugfit.core import TensorInfo
from snugfit.quants.positions import is_kept_in_full

# GGUF stores the tokenizer: its text, types and merges took 39 to 61 bytes a token in the files of
# Qwen 3, Llama 3 and Gemma 4. The catalogue has no tokenizers, so their bytes are an estimate.
TOKENIZER_BYTES_A_TOKEN = 50


@dataclass(frozen=True)
class CatalogueModel:
    """One model. `keys` are its GGUF metadata without the architecture's prefix."""

    name: str
    weights: str  # where its original weights are, a Hub name
    architecture: str
    keys: Mapping[str, Any]
    is_tied: bool = False  # the embedding is the output matrix too
    # As published: those of 4-bit experts come as MXFP4, the rest in 8 bits.
    matrix_type: str = "BF16"
    expert_type: str = "BF16"

    @property
    def metadata(self) -> dict[str, Any]:
        """GGUF metadata, types as a file would have them."""
        named = {f"{self.architecture}.{key}": _stored(value) for key, value in self.keys.items()}
        return {"general.architecture": self.architecture, "general.type": "model"} | named

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        shapes = shapes_of(self.architecture, self.keys, is_tied=self.is_tied)
        return {
            name: TensorInfo(name, shape, self._type_of(name, shape))
            for name, shape in shapes.items()
        }

    @property
    def tokenizer_bytes(self) -> int:
        return TOKENIZER_BYTES_A_TOKEN * int(self.keys["vocab_size"])

    def _type_of(self, name: str, shape: tuple[int, ...]) -> str:
        if name.endswith("_tid2eid.weight"):
            return "I32"  # a table of expert numbers
        if is_kept_in_full(name, shape):
            return "F32"
        return self.expert_type if "_exps." in name else self.matrix_type


def _stored(value: Any) -> Any:
    if isinstance(value, tuple):
        return np.array(value, np.bool_ if isinstance(value[0], bool) else np.int32)
    if isinstance(value, bool):
        return np.bool_(value)
    if isinstance(value, float):
        return np.float32(value)
    return np.uint32(value)


def _body(
    layers: int,
    context: int,
    width: int,
    heads: tuple[int, int | tuple[int, ...], int],
    feed_forward: int | tuple[int, ...],
    vocabulary: int,
    *,
    rotated: int | None = None,
    epsilon: float = 1e-6,
) -> dict[str, Any]:
    """Return the keys that every model has; `heads` are of queries, of keys, and their size."""
    query_heads, key_heads, size = heads
    return {
        "block_count": layers,
        "context_length": context,
        "embedding_length": width,
        "attention.head_count": query_heads,
        "attention.head_count_kv": key_heads,
        "feed_forward_length": feed_forward,
        "attention.layer_norm_rms_epsilon": epsilon,
        "attention.key_length": size,
        "attention.value_length": size,
        "rope.dimension_count": rotated or size,
        "vocab_size": vocabulary,
    }


def _experts(count: int, used: int, length: int) -> dict[str, int]:
    return {
        "expert_count": count,
        "expert_used_count": used,
        "expert_feed_forward_length": length,
    }


def _delta_net(inner: int, heads: int, *, has_sections: bool = True) -> dict[str, Any]:
    """Keys of Qwen 3 Next and later: three layers of gated delta net, then one of attention."""
    keys: dict[str, Any] = {
        "ssm.conv_kernel": 4,
        "ssm.inner_size": inner,
        "ssm.state_size": 128,
        "ssm.time_step_rank": heads,
        "ssm.group_count": 16,
        "full_attention_interval": 4,
    }
    return keys | {"rope.dimension_sections": (11, 11, 10, 0)} if has_sections else keys


def _gemma4_windows(
    layers: int, window: int, interval: int, *, shared: int = 0, inputs: int = 0
) -> dict[str, Any]:
    """Every `interval`-th layer sees all; the last `shared` layers use the cache of others."""
    return {
        "attention.sliding_window": window,
        "attention.sliding_window_pattern": _windows(layers, interval),
        "attention.shared_kv_layers": shared,
        "embedding_length_per_layer_input": inputs,
        "attention.key_length_swa": 256,
        "attention.value_length_swa": 256,
        "rope.dimension_count_swa": 256,
    }


def _windows(layers: int, interval: int) -> tuple[bool, ...]:
    return tuple((layer + 1) % interval != 0 for layer in range(layers))


def _gemma4_heads(layers: int, of_windows: int, of_whole: int) -> tuple[int, ...]:
    return tuple(of_windows if window else of_whole for window in _windows(layers, 6))


def _latent(query: int, whole: int, rotated: int, value: int) -> dict[str, int]:
    """Keys of multi-head latent attention: ranks, and what they unfold to for each head."""
    return {
        "attention.q_lora_rank": query,
        "attention.kv_lora_rank": whole,
        "attention.key_length": whole + rotated,
        "attention.value_length": whole,
        "attention.key_length_mla": value,
        "attention.value_length_mla": value,
        "rope.dimension_count": rotated,
    }


def _deepseek4(
    query_rank: int, groups: int, top_k: int, scale: float, ratios: tuple[int, ...]
) -> dict[str, Any]:
    return {
        "attention.q_lora_rank": query_rank,
        "attention.sliding_window": 128,
        "expert_shared_count": 1,
        "expert_weights_scale": scale,
        "expert_weights_norm": True,
        "expert_gating_func": 4,
        "swiglu_clamp_exp": 10.0,
        "attention.indexer.head_count": 64,
        "attention.indexer.key_length": 128,
        "attention.indexer.top_k": top_k,
        "attention.output_group_count": groups,
        "attention.output_lora_rank": 1024,
        "attention.compress_rope_freq_base": 160000.0,
        "hyper_connection.count": 4,
        "hyper_connection.sinkhorn_iterations": 20,
        "hyper_connection.epsilon": 1e-6,
        "hash_layer_count": 3,
        "attention.compress_ratios": ratios,
    }


def _ratios(layers: int, first: int) -> tuple[int, ...]:
    """Two layers of `first`, then 4 and 128 in turn."""
    return tuple(first if layer < 2 else 128 if layer % 2 else 4 for layer in range(layers))


# Versions that differ in their weights alone.
_LLAMA_70B = _body(80, 131072, 8192, (64, 8, 128), 28672, 128256)
_QWEN36_27B = _body(64, 262144, 5120, (24, 4, 256), 17408, 248320, rotated=64) | _delta_net(
    6144, 48
)
_QWEN36_35B = (
    _body(40, 262144, 2048, (16, 2, 256), 0, 248320, rotated=64)
    | _delta_net(4096, 32)
    | _experts(256, 8, 512)
    | {"expert_shared_feed_forward_length": 512}
)

_TABLE = (
    CatalogueModel("llama-3.3-70b", "meta-llama/Llama-3.3-70B-Instruct", "llama", _LLAMA_70B),
    CatalogueModel("llama-3.1-70b", "meta-llama/Llama-3.1-70B-Instruct", "llama", _LLAMA_70B),
    CatalogueModel(
        "llama-3.1-8b",
        "meta-llama/Llama-3.1-8B-Instruct",
        "llama",
        _body(32, 131072, 4096, (32, 8, 128), 14336, 128256, epsilon=1e-5),
    ),
    CatalogueModel(
        "llama-3.2-1b",
        "meta-llama/Llama-3.2-1B-Instruct",
        "llama",
        _body(16, 131072, 2048, (32, 8, 64), 8192, 128256, epsilon=1e-5),
        is_tied=True,
    ),
    CatalogueModel(
        "llama-3.2-3b",
        "meta-llama/Llama-3.2-3B-Instruct",
        "llama",
        _body(28, 131072, 3072, (24, 8, 128), 8192, 128256, epsilon=1e-5),
        is_tied=True,
    ),
    CatalogueModel(
        "phi-4",
        "microsoft/phi-4",
        "phi3",
        _body(40, 16384, 5120, (40, 10, 128), 17920, 100352, epsilon=1e-5),
    ),
    CatalogueModel(
        "qwen3-0.6b",
        "Qwen/Qwen3-0.6B",
        "qwen3",
        _body(28, 40960, 1024, (16, 8, 128), 3072, 151936),
        is_tied=True,
    ),
    CatalogueModel(
        "qwen3-1.7b",
        "Qwen/Qwen3-1.7B",
        "qwen3",
        _body(28, 40960, 2048, (16, 8, 128), 6144, 151936),
        is_tied=True,
    ),
    CatalogueModel(
        "qwen3-4b",
        "Qwen/Qwen3-4B",
        "qwen3",
        _body(36, 40960, 2560, (32, 8, 128), 9728, 151936),
        is_tied=True,
    ),
    CatalogueModel(
        "qwen3-8b",
        "Qwen/Qwen3-8B",
        "qwen3",
        _body(36, 40960, 4096, (32, 8, 128), 12288, 151936),
    ),
    CatalogueModel(
        "qwen3-14b",
        "Qwen/Qwen3-14B",
        "qwen3",
        _body(40, 40960, 5120, (40, 8, 128), 17408, 151936),
    ),
    CatalogueModel(
        "qwen3-32b",
        "Qwen/Qwen3-32B",
        "qwen3",
        _body(64, 40960, 5120, (64, 8, 128), 25600, 151936),
    ),
    CatalogueModel(
        "qwen3-30b-a3b",
        "Qwen/Qwen3-30B-A3B",
        "qwen3moe",
        _body(48, 40960, 2048, (32, 4, 128), 6144, 151936) | _experts(128, 8, 768),
    ),
    CatalogueModel(
        "qwen3.5-4b",
        "Qwen/Qwen3.5-4B",
        "qwen35",
        _body(32, 262144, 2560, (16, 4, 256), 9216, 248320, rotated=64) | _delta_net(4096, 32),
        is_tied=True,
    ),
    CatalogueModel(
        "qwen3.5-9b",
        "Qwen/Qwen3.5-9B",
        "qwen35",
        _body(32, 262144, 4096, (16, 4, 256), 12288, 248320, rotated=64) | _delta_net(4096, 32),
    ),
    CatalogueModel(
        "qwen3-coder-next",
        "Qwen/Qwen3-Coder-Next",
        "qwen3next",
        _body(48, 262144, 2048, (16, 2, 256), 5120, 151936, rotated=64)
        | _delta_net(4096, 32, has_sections=False)
        | _experts(512, 10, 512)
        | {"expert_shared_feed_forward_length": 512},
    ),
    CatalogueModel("qwen3.6-27b", "Qwen/Qwen3.6-27B", "qwen35", _QWEN36_27B),
    CatalogueModel("qwen3.5-27b", "Qwen/Qwen3.5-27B", "qwen35", _QWEN36_27B),
    CatalogueModel("qwen3.6-35b-a3b", "Qwen/Qwen3.6-35B-A3B", "qwen35moe", _QWEN36_35B),
    CatalogueModel("qwen3.5-35b-a3b", "Qwen/Qwen3.5-35B-A3B", "qwen35moe", _QWEN36_35B),
    CatalogueModel(
        "gemma-4-e2b",
        "google/gemma-4-E2B-it",
        "gemma4",
        _body(35, 131072, 1536, (8, (1,) * 35, 512), (6144,) * 15 + (12288,) * 20, 262144)
        | _gemma4_windows(35, 512, 5, shared=20, inputs=256),
        is_tied=True,
    ),
    CatalogueModel(
        "gemma-4-e4b",
        "google/gemma-4-E4B-it",
        "gemma4",
        _body(42, 131072, 2560, (8, (2,) * 42, 512), (10240,) * 42, 262144)
        | _gemma4_windows(42, 512, 6, shared=18, inputs=256),
        is_tied=True,
    ),
    CatalogueModel(
        "gemma-4-12b",
        "google/gemma-4-12B-it",
        "gemma4",
        _body(48, 262144, 3840, (16, _gemma4_heads(48, 8, 1), 512), (15360,) * 48, 262144)
        | _gemma4_windows(48, 1024, 6),
        is_tied=True,
    ),
    CatalogueModel(
        "gemma-4-26b-a4b",
        "google/gemma-4-26B-A4B-it",
        "gemma4",
        _body(30, 262144, 2816, (16, _gemma4_heads(30, 8, 2), 512), (2112,) * 30, 262144)
        | _gemma4_windows(30, 1024, 6)
        | _experts(128, 8, 704),
        is_tied=True,
    ),
    CatalogueModel(
        "gemma-4-31b",
        "google/gemma-4-31B-it",
        "gemma4",
        _body(60, 262144, 5376, (32, _gemma4_heads(60, 16, 4), 512), (21504,) * 60, 262144)
        | _gemma4_windows(60, 1024, 6),
        is_tied=True,
    ),
    CatalogueModel(
        "gpt-oss-20b",
        "openai/gpt-oss-20b",
        "gpt-oss",
        _body(24, 131072, 2880, (64, 8, 64), 2880, 201088, epsilon=1e-5)
        | _experts(32, 4, 2880)
        | {"attention.sliding_window": 128},
        matrix_type="Q8_0",
        expert_type="MXFP4",
    ),
    CatalogueModel(
        "gpt-oss-120b",
        "openai/gpt-oss-120b",
        "gpt-oss",
        _body(36, 131072, 2880, (64, 8, 64), 2880, 201088, epsilon=1e-5)
        | _experts(128, 4, 2880)
        | {"attention.sliding_window": 128},
        matrix_type="Q8_0",
        expert_type="MXFP4",
    ),
    CatalogueModel(
        "glm-4.7-flash",
        "zai-org/GLM-4.7-Flash",
        "deepseek2",
        _body(47, 202752, 2048, (20, 1, 576), 10240, 154880, epsilon=1e-5)
        | _latent(768, 512, 64, 256)
        | _experts(64, 4, 1536)
        | {
            "expert_shared_count": 1,
            "leading_dense_block_count": 1,
            "expert_weights_scale": 1.8,
            "expert_weights_norm": True,
            "expert_gating_func": 2,
        },
    ),
    CatalogueModel(
        "llama-4-scout",
        "meta-llama/Llama-4-Scout-17B-16E-Instruct",
        "llama4",
        _body(48, 10485760, 5120, (40, 8, 128), 16384, 202048, epsilon=1e-5)
        | _experts(16, 1, 8192)
        | {"interleave_moe_layer_step": 1},
    ),
    CatalogueModel(
        "deepseek-v4-flash",
        "deepseek-ai/DeepSeek-V4-Flash",
        "deepseek4",
        _body(43, 1048576, 4096, (64, 1, 512), 2048, 129280, rotated=64)
        | _experts(256, 6, 2048)
        | _deepseek4(1024, 8, 512, 1.5, _ratios(43, 0)),
        matrix_type="Q8_0",
        expert_type="MXFP4",
    ),
    CatalogueModel(
        "deepseek-v4-pro",
        "deepseek-ai/DeepSeek-V4-Pro",
        "deepseek4",
        _body(61, 1048576, 7168, (128, 1, 512), 3072, 129280, rotated=64)
        | _experts(384, 6, 3072)
        | _deepseek4(1536, 16, 1024, 2.5, _ratios(61, 128)),
        matrix_type="Q8_0",
        expert_type="MXFP4",
    ),
)


def _published(row: Published) -> CatalogueModel:
    body = (row.layers, row.context, row.width, row.heads, row.feed_forward, row.vocabulary)
    keys = _body(*body, rotated=row.rotated, epsilon=row.epsilon) | (row.more or {})
    return CatalogueModel(row.name, row.weights, row.architecture, keys, row.is_tied)


CATALOGUE: dict[str, CatalogueModel] = {
    model.name: model for model in (*_TABLE, *map(_published, ROWS))
}
