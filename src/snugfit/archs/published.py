"""More models that people run, a row each: their published shapes, for the catalogue.

Those of the classes before last, and the small ones; the catalogue's own rows need more words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Keys that several rows share.
WINDOW_512, WINDOW_1024, WINDOW_4096 = (
    {"attention.sliding_window": tokens} for tokens in (512, 1024, 4096)
)


@dataclass(frozen=True)
class Published:
    """One model. `heads` are of queries, of keys, and their size; `more` has further keys."""

    name: str
    weights: str
    architecture: str
    layers: int
    context: int
    width: int
    heads: tuple[int, int | tuple[int, ...], int]
    feed_forward: int
    vocabulary: int
    epsilon: float
    is_tied: bool = False
    more: dict[str, Any] | None = None
    rotated: int | None = None  # of a head, where positions turn a part


def _experts(count: int, used: int, length: int, dense: int, **more: Any) -> dict[str, Any]:
    return {
        "expert_count": count,
        "expert_used_count": used,
        "expert_feed_forward_length": length,
        "leading_dense_block_count": dense,
    } | more


def _key_heads(layers: int, *with_attention: int) -> tuple[int, ...]:
    """LFM2 has attention in some layers, of 8 key heads, and convolutions in the others."""
    return tuple(8 if layer in with_attention else 0 for layer in range(layers))


def _delta_net(inner: int, heads: int, *, has_sections: bool = True) -> dict[str, Any]:
    """Three layers of gated delta net, then one of attention."""
    sections = {"rope.dimension_sections": (11, 11, 10, 0)} if has_sections else {}
    return sections | {
        "ssm.conv_kernel": 4,
        "ssm.inner_size": inner,
        "ssm.state_size": 128,
        "ssm.time_step_rank": heads,
        "ssm.group_count": 16,
        "full_attention_interval": 4,
    }


# The sixteen layers of LFM2 350M, 700M and 1.2B.
_LFM2 = _key_heads(16, 2, 5, 8, 10, 12, 14)
_CONVOLUTION = {"shortconv.l_cache": 3}
# fmt: off
ROWS = (
    Published("llama-3-8b", "meta-llama/Meta-Llama-3-8B-Instruct", "llama",
              32, 8192, 4096, (32, 8, 128), 14336, 128256, 1e-5),
    Published("qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B-Instruct", "qwen2",
              24, 32768, 896, (14, 2, 64), 4864, 151936, 1e-6, is_tied=True),
    Published("qwen2.5-1.5b", "Qwen/Qwen2.5-1.5B-Instruct", "qwen2",
              28, 32768, 1536, (12, 2, 128), 8960, 151936, 1e-6, is_tied=True),
    Published("qwen2.5-3b", "Qwen/Qwen2.5-3B-Instruct", "qwen2",
              36, 32768, 2048, (16, 2, 128), 11008, 151936, 1e-6, is_tied=True),
    Published("qwen2.5-7b", "Qwen/Qwen2.5-7B-Instruct", "qwen2",
              28, 32768, 3584, (28, 4, 128), 18944, 152064, 1e-6),
    Published("qwen2.5-14b", "Qwen/Qwen2.5-14B-Instruct", "qwen2",
              48, 32768, 5120, (40, 8, 128), 13824, 152064, 1e-6),
    Published("qwen2.5-32b", "Qwen/Qwen2.5-32B-Instruct", "qwen2",
              64, 32768, 5120, (40, 8, 128), 27648, 152064, 1e-6),
    Published("qwen2.5-72b", "Qwen/Qwen2.5-72B-Instruct", "qwen2",
              80, 32768, 8192, (64, 8, 128), 29568, 152064, 1e-6),
    Published("mistral-7b", "mistralai/Mistral-7B-Instruct-v0.3", "llama",
              32, 32768, 4096, (32, 8, 128), 14336, 32768, 1e-5),
    Published("ministral-8b", "mistralai/Ministral-8B-Instruct-2410", "llama",
              36, 32768, 4096, (32, 8, 128), 12288, 131072, 1e-5),
    Published("mistral-small-24b", "mistralai/Mistral-Small-3.2-24B-Instruct-2506", "llama",
              40, 131072, 5120, (32, 8, 128), 32768, 131072, 1e-5),
    Published("codestral-22b", "mistralai/Codestral-22B-v0.1", "llama",
              56, 32768, 6144, (48, 8, 128), 16384, 32768, 1e-5),
    Published("ministral-3-3b", "mistralai/Ministral-3-3B-Instruct-2512", "mistral3",
              26, 262144, 3072, (32, 8, 128), 9216, 131072, 1e-5, is_tied=True),
    Published("ministral-3-8b", "mistralai/Ministral-3-8B-Instruct-2512", "mistral3",
              34, 262144, 4096, (32, 8, 128), 14336, 131072, 1e-5),
    Published("yi-1.5-9b", "01-ai/Yi-1.5-9B-Chat", "llama",
              48, 4096, 4096, (32, 4, 128), 11008, 64000, 1e-6),
    Published("yi-1.5-34b", "01-ai/Yi-1.5-34B-Chat", "llama",
              60, 4096, 7168, (56, 8, 128), 20480, 64000, 1e-6),
    Published("falcon3-7b", "tiiuae/Falcon3-7B-Instruct", "llama",
              28, 32768, 3072, (12, 4, 256), 23040, 131072, 1e-6),
    Published("falcon3-10b", "tiiuae/Falcon3-10B-Instruct", "llama",
              40, 32768, 3072, (12, 4, 256), 23040, 131072, 1e-6),
    Published("smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct", "llama",
              30, 8192, 576, (9, 3, 64), 1536, 49152, 1e-5, is_tied=True),
    Published("smollm2-360m", "HuggingFaceTB/SmolLM2-360M-Instruct", "llama",
              32, 8192, 960, (15, 5, 64), 2560, 49152, 1e-5, is_tied=True),
    Published("smollm2-1.7b", "HuggingFaceTB/SmolLM2-1.7B-Instruct", "llama",
              24, 8192, 2048, (32, 32, 64), 8192, 49152, 1e-5, is_tied=True),
    Published("smollm3-3b", "HuggingFaceTB/SmolLM3-3B", "smollm3",
              36, 65536, 2048, (16, 4, 128), 11008, 128256, 1e-6, is_tied=True),
    Published("phi-3.5-mini", "microsoft/Phi-3.5-mini-instruct", "phi3",
              32, 131072, 3072, (32, 32, 96), 8192, 32064, 1e-5),
    Published("phi-3-medium", "microsoft/Phi-3-medium-4k-instruct", "phi3",
              40, 4096, 5120, (40, 10, 128), 17920, 32064, 1e-5),
    Published("phi-4-mini", "microsoft/Phi-4-mini-instruct", "phi3",
              32, 131072, 3072, (24, 8, 128), 8192, 200064, 1e-5, is_tied=True, rotated=96),
    Published("gemma-2-2b", "google/gemma-2-2b-it", "gemma2",
              26, 8192, 2304, (8, 4, 256), 9216, 256000, 1e-6, is_tied=True, more=WINDOW_4096),
    Published("gemma-2-9b", "google/gemma-2-9b-it", "gemma2",
              42, 8192, 3584, (16, 8, 256), 14336, 256000, 1e-6, is_tied=True, more=WINDOW_4096),
    Published("gemma-2-27b", "google/gemma-2-27b-it", "gemma2",
              46, 8192, 4608, (32, 16, 128), 36864, 256000, 1e-6, is_tied=True, more=WINDOW_4096),
    Published("gemma-3-270m", "google/gemma-3-270m-it", "gemma3",
              18, 32768, 640, (4, 1, 256), 2048, 262144, 1e-6, is_tied=True, more=WINDOW_512),
    Published("gemma-3-1b", "google/gemma-3-1b-it", "gemma3",
              26, 32768, 1152, (4, 1, 256), 6912, 262144, 1e-6, is_tied=True, more=WINDOW_512),
    Published("gemma-3-4b", "google/gemma-3-4b-it", "gemma3",
              34, 131072, 2560, (8, 4, 256), 10240, 262144, 1e-6, is_tied=True, more=WINDOW_1024),
    Published("gemma-3-12b", "google/gemma-3-12b-it", "gemma3",
              48, 131072, 3840, (16, 8, 256), 15360, 262144, 1e-6, is_tied=True,
              more=WINDOW_1024),
    Published("gemma-3-27b", "google/gemma-3-27b-it", "gemma3",
              62, 131072, 5376, (32, 16, 128), 21504, 262144, 1e-6, is_tied=True,
              more=WINDOW_1024),
    Published("granite-3.3-2b", "ibm-granite/granite-3.3-2b-instruct", "granite",
              40, 131072, 2048, (32, 8, 64), 8192, 49159, 1e-5, is_tied=True),
    Published("granite-3.1-8b", "ibm-granite/granite-3.1-8b-instruct", "granite",
              40, 131072, 4096, (32, 8, 128), 12800, 49155, 1e-5, is_tied=True),
    Published("exaone-3.5-7.8b", "LGAI-EXAONE/EXAONE-3.5-7.8B-Instruct", "exaone",
              32, 32768, 4096, (32, 8, 128), 14336, 102400, 1e-5),
    Published("internlm2.5-20b", "internlm/internlm2_5-20b-chat", "internlm2",
              48, 32768, 6144, (48, 8, 128), 16384, 92544, 1e-5),
    Published("aya-expanse-8b", "CohereLabs/aya-expanse-8b", "command-r",
              32, 8192, 4096, (32, 8, 128), 14336, 256000, 1e-5, is_tied=True),
    Published("command-r7b", "CohereLabs/c4ai-command-r7b-12-2024", "cohere2",
              32, 132096, 4096, (32, 8, 128), 14336, 256000, 1e-5, is_tied=True,
              more=WINDOW_4096),
    Published("olmo-2-1b", "allenai/OLMo-2-0425-1B-Instruct", "olmo2",
              16, 4096, 2048, (16, 16, 128), 8192, 100352, 1e-6),
    Published("olmo-2-13b", "allenai/OLMo-2-1124-13B-Instruct", "olmo2",
              40, 4096, 5120, (40, 40, 128), 13824, 100352, 1e-6),
    Published("ernie-4.5-0.3b", "baidu/ERNIE-4.5-0.3B-PT", "ernie4_5",
              18, 131072, 1024, (16, 2, 128), 3072, 103424, 1e-5, is_tied=True),
    Published("ernie-4.5-21b-a3b", "baidu/ERNIE-4.5-21B-A3B-PT", "ernie4_5-moe",
              28, 131072, 2560, (20, 4, 128), 12288, 103424, 1e-5, is_tied=True,
              more=_experts(64, 6, 1536, 1, expert_shared_count=2,
              expert_shared_feed_forward_length=3072, interleave_moe_layer_step=1)),
    Published("lfm2-350m", "LiquidAI/LFM2-350M", "lfm2",
              16, 128000, 1024, (16, _LFM2, 64), 4608, 65536, 1e-5, is_tied=True,
              more=_CONVOLUTION),
    Published("lfm2-700m", "LiquidAI/LFM2-700M", "lfm2",
              16, 128000, 1536, (24, _LFM2, 64), 6912, 65536, 1e-5, is_tied=True,
              more=_CONVOLUTION),
    Published("lfm2-1.2b", "LiquidAI/LFM2-1.2B", "lfm2",
              16, 128000, 2048, (32, _LFM2, 64), 8192, 65536, 1e-5, is_tied=True,
              more=_CONVOLUTION),
    Published("lfm2-8b-a1b", "LiquidAI/LFM2-8B-A1B", "lfm2moe",
              24, 128000, 2048, (32, _key_heads(24, 2, 6, 10, 14, 18, 21), 64), 7168, 65536, 1e-5,
              is_tied=True,
              more=_CONVOLUTION | _experts(32, 4, 1792, 2, expert_gating_func=2)),
    Published("deepseek-coder-v2-lite", "deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct", "deepseek2",
              27, 163840, 2048, (16, 1, 576), 10944, 102400, 1e-6,
              more=_experts(64, 6, 1408, 1, expert_shared_count=2, expert_gating_func=1,
              expert_weights_scale=1.0) | {
                  "attention.kv_lora_rank": 512, "attention.value_length": 512,
                  "attention.key_length_mla": 192, "attention.value_length_mla": 128}, rotated=64),
    Published("qwen3.5-0.8b", "Qwen/Qwen3.5-0.8B", "qwen35",
              24, 262144, 1024, (8, 2, 256), 3584, 248320, 1e-6, is_tied=True,
              more=_delta_net(2048, 16), rotated=64),
    Published("qwen3.5-2b", "Qwen/Qwen3.5-2B", "qwen35",
              24, 262144, 2048, (8, 2, 256), 6144, 248320, 1e-6, is_tied=True,
              more=_delta_net(2048, 16), rotated=64),
    Published("qwen3.5-122b-a10b", "Qwen/Qwen3.5-122B-A10B", "qwen35moe",
              48, 262144, 3072, (32, 2, 256), 0, 248320, 1e-6, rotated=64,
              more=_delta_net(8192, 64) | {
              "expert_count": 256, "expert_used_count": 8, "expert_feed_forward_length": 1024,
              "expert_shared_feed_forward_length": 1024}),
)
# fmt: on
