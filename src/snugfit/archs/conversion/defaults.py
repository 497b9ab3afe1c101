"""What transformers takes where a config.json leaves a key out, by `model_type`.

Only keys that publishers do leave out: gemma-3-4b-it names five of its numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_GEMMA = {"head_dim": 256, "rms_norm_eps": 1e-6, "hidden_activation": "gelu_pytorch_tanh"}
_GEMMA_2 = _GEMMA | {
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}
_ROPES = {"rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0}
_GEMMA_3 = (
    _GEMMA
    | _ROPES
    | {
        "vocab_size": 262_208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 131_072,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
    }
)
_GEMMA_3N = (
    _GEMMA
    | _ROPES
    | {
        "vocab_size": 262_400,
        "vocab_size_per_layer_input": 262_144,
        "hidden_size": 2048,
        "intermediate_size": 16_384,
        "num_hidden_layers": 35,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32_768,
        "sliding_window": 512,
        "final_logit_softcapping": 30.0,
        "hidden_size_per_layer_input": 256,
        "altup_active_idx": 0,
        "altup_num_inputs": 4,
        "altup_correct_scale": True,
        "num_kv_shared_layers": 15,
        "laurel_rank": 64,
    }
)
_GEMMA_4_UNIFIED = _GEMMA | {
    "vocab_size": 262_144,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 262_144,
    "sliding_window": 1024,
    "num_kv_shared_layers": 0,
}
_GEMMA_4 = _GEMMA_4_UNIFIED | {
    "vocab_size_per_layer_input": 262_144,
    "max_position_embeddings": 131_072,
    "sliding_window": 512,
    "hidden_size_per_layer_input": 256,
}

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "gemma": _GEMMA,
    "gemma2": _GEMMA_2,
    "gemma3": _GEMMA_3,
    "gemma3_text": _GEMMA_3,
    "gemma3n": _GEMMA_3N,
    "gemma3n_text": _GEMMA_3N,
    "gemma4": _GEMMA_4,
    "gemma4_text": _GEMMA_4,
    "gemma4_unified": _GEMMA_4_UNIFIED,
    "gemma4_unified_text": _GEMMA_4_UNIFIED,
}
