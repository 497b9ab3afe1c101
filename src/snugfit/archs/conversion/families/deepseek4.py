"""DeepSeek V4: compressed attention, hyper-connections, experts chosen by the token alone.

gguf's name map lacks it, so every name is written out: as published, and as transformers has it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from snugfit.archs.conversion.arrange import first_half_of_rows, second_half_of_rows
from snugfit.archs.conversion.config import Config
from snugfit.archs.conversion.families.deepseek import routing_metadata
from snugfit.archs.conversion.metadata import (
    attention_metadata,
    check_fixed,
    rope_scaling,
    without,
)
from snugfit.archs.conversion.rules import ConversionRow, Part, Rule
from snugfit.errors import FormatError, UnsupportedError

# What llama.cpp has built in (src/models/deepseek4.cpp).
FIXED = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "scoring_func": "sqrtsoftplus",
    "norm_topk_prob": True,
    "num_key_value_heads": 1,
    "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 128},
}
# Layers of each kind compress so many tokens into one.
RATIOS = {
    "sliding_attention": 0,
    "compressed_sparse_attention": 4,
    "heavily_compressed_attention": 128,
}

# GGUF's name -> the model's, patterns of what follows an optional "model.".
WHOLE = {
    "token_embd.weight": r"embed(?:_tokens)?\.weight",
    "output_norm.weight": r"norm\.weight",
    "output.weight": r"(?:lm_)?head\.weight",
    "output_hc_fn.weight": r"hc_head(?:_|\.hc_)fn",
    "output_hc_base.weight": r"hc_head(?:_|\.hc_)base",
    "output_hc_scale.weight": r"hc_head(?:_|\.hc_)scale",
}
# And of what follows "layers.N.".
ATTENTION, MIXTURE = r"(?:self_)?attn\.", r"(?:ffn|mlp)\."
COMPRESSOR = ATTENTION + r"compressor\."
INDEXER = ATTENTION + r"(?:compressor\.)?indexer\."
OF_INDEXER = ATTENTION + r"(?:indexer\.compressor|compressor\.indexer)\."
OF_LAYERS = {
    "attn_norm.weight": r"(?:attn_norm|input_layernorm)\.weight",
    "ffn_norm.weight": r"(?:ffn_norm|post_attention_layernorm)\.weight",
    "attn_sinks.weight": ATTENTION + r"(?:attn_sink|sinks)",
    "attn_q_a.weight": ATTENTION + r"(?:wq_a|q_a_proj)\.weight",
    "attn_q_a_norm.weight": ATTENTION + r"(?:q_norm|q_a_norm)\.weight",
    "attn_q_b.weight": ATTENTION + r"(?:wq_b|q_b_proj)\.weight",
    "attn_kv.weight": ATTENTION + r"(?:wkv|kv_proj)\.weight",
    "attn_kv_a_norm.weight": ATTENTION + r"(?:kv_)?norm\.weight",
    "attn_output_a.weight": ATTENTION + r"(?:wo_a|o_a_proj)\.weight",
    "attn_output_b.weight": ATTENTION + r"(?:wo_b|o_b_proj)\.weight",
    "attn_compressor_kv.weight": COMPRESSOR + r"(?:wkv|kv_proj)\.weight",
    "attn_compressor_gate.weight": COMPRESSOR + r"(?:wgate|gate_proj)\.weight",
    "attn_compressor_ape.weight": COMPRESSOR + r"(?:ape|position_bias)",
    "attn_compressor_norm.weight": COMPRESSOR + r"(?:kv_)?norm\.weight",
    "indexer.attn_q_b.weight": INDEXER + r"(?:wq_b|q_b_proj)\.weight",
    "indexer.proj.weight": INDEXER + r"(?:scorer\.)?weights_proj\.weight",
    "indexer_compressor_kv.weight": OF_INDEXER + r"(?:wkv|kv_proj)\.weight",
    "indexer_compressor_gate.weight": OF_INDEXER + r"(?:wgate|gate_proj)\.weight",
    "indexer_compressor_ape.weight": OF_INDEXER + r"(?:ape|position_bias)",
    "indexer_compressor_norm.weight": OF_INDEXER + r"(?:kv_)?norm\.weight",
    "hc_attn_fn.weight": r"(?:hc_attn_|attn_hc\.)fn",
    "hc_attn_base.weight": r"(?:hc_attn_|attn_hc\.)base",
    "hc_attn_scale.weight": r"(?:hc_attn_|attn_hc\.)scale",
    "hc_ffn_fn.weight": r"(?:hc_ffn_|ffn_hc\.)fn",
    "hc_ffn_base.weight": r"(?:hc_ffn_|ffn_hc\.)base",
    "hc_ffn_scale.weight": r"(?:hc_ffn_|ffn_hc\.)scale",
    "ffn_gate_inp.weight": MIXTURE + r"gate\.weight",
    "ffn_gate_tid2eid.weight": MIXTURE + r"gate\.tid2eid",
    "exp_probs_b.bias": MIXTURE + r"gate\.(?:bias|e_score_correction_bias)",
    "ffn_gate_exps.weight": MIXTURE + r"experts\.w1\.weight",
    "ffn_down_exps.weight": MIXTURE + r"experts\.(?:w2\.weight|down_proj)",
    "ffn_up_exps.weight": MIXTURE + r"experts\.w3\.weight",
    "ffn_gate_shexp.weight": MIXTURE + r"shared_experts\.(?:w1|gate_proj)\.weight",
    "ffn_down_shexp.weight": MIXTURE + r"shared_experts\.(?:w2|down_proj)\.weight",
    "ffn_up_shexp.weight": MIXTURE + r"shared_experts\.(?:w3|up_proj)\.weight",
}
LAYER = r"(?:model\.)?layers\.(\d+)\."
RULES = (
    Rule(r"mtp\..+"),  # what only drafts tokens
    *(Rule(r"(?:model\.)?" + name, (Part(gguf_name),)) for gguf_name, name in WHOLE.items()),
    *(Rule(LAYER + name, (Part(rf"blk.\1.{role}"),)) for role, name in OF_LAYERS.items()),
    Rule(
        LAYER + MIXTURE + r"experts\.gate_up_proj",
        (
            Part(r"blk.\1.ffn_gate_exps.weight", first_half_of_rows),
            Part(r"blk.\1.ffn_up_exps.weight", second_half_of_rows),
        ),
    ),
)


def _metadata(config: Config) -> dict[str, Any]:
    check_fixed(config, FIXED)
    limits = [float(config.number("swiglu_limit"))] * config.layers
    keys = without(attention_metadata(_alone(config)), "vocab_size", "feed_forward_length")
    return (
        keys
        | _rope(config)
        | routing_metadata(config, "sqrtsoftplus")
        | {
            "attention.head_count_kv": 1,
            "rope.dimension_count": _rotated(config),
            "embedding_length_out": config.hidden_size * int(config.number("hc_mult")),
            "attention.q_lora_rank": int(config.number("q_lora_rank")),
            "attention.sliding_window": int(config.number("sliding_window")),
            "expert_weights_norm": True,
            "swiglu_clamp_exp": limits,
            "swiglu_clamp_shexp": limits,
            "attention.indexer.head_count": int(config.number("index_n_heads")),
            "attention.indexer.key_length": int(config.number("index_head_dim")),
            "attention.indexer.top_k": int(config.number("index_topk")),
            "attention.output_group_count": int(config.number("o_groups")),
            "attention.output_lora_rank": int(config.number("o_lora_rank")),
            "attention.compress_ratios": np.array(_ratios(config), np.uint32),
            "hyper_connection.count": int(config.number("hc_mult")),
            "hyper_connection.sinkhorn_iterations": int(config.number("hc_sinkhorn_iters")),
            "hyper_connection.epsilon": float(config.number("hc_eps")),
            "hash_layer_count": _hash_layers(config),
        }
    )


def _alone(config: Config) -> Config:
    """Return the config as if there were one kind of rope; V4 has none but experts' widths."""
    width = config.number("moe_intermediate_size")
    changes = {"intermediate_size": width, "rope_parameters": {}, "rope_scaling": {}}
    return Config(config.folder, {**config.raw, **changes})


def _rope(config: Config) -> dict[str, Any]:
    """Keys of two ropes: of windows, plain; and of what is compressed, stretched by YaRN."""
    plain, stretched = config.rope_of("main"), config.rope_of("compress")
    theta = float(Config(config.folder, stretched).number("rope_theta"))
    if not isinstance(config.rope.get("compress"), dict):  # as published
        theta = float(config.number("compress_rope_theta"))
    elif plain["rope_type"] != "default":
        raise UnsupportedError(
            f"{config.folder}/config.json: rope of windows is {plain['rope_type']!r}; llama.cpp "
            "stretches only that of compressed tokens."
        )
    if stretched.get("attention_factor", 1.0) != 1.0:
        raise UnsupportedError(
            f"{config.folder}/config.json: attention_factor is {stretched['attention_factor']!r}; "
            "llama.cpp runs this architecture with 1.0 only."
        )
    stretched = without(stretched, "attention_factor")  # which llama.cpp has not here
    context = {"max_position_embeddings": config.number("max_position_embeddings")}
    return rope_scaling(Config(config.folder, {"rope_parameters": stretched, **context})) | {
        "rope.freq_base": float(Config(config.folder, plain).number("rope_theta")),
        "attention.compress_rope_freq_base": theta,
    }


def _rotated(config: Config) -> int:
    if config.raw.get("qk_rope_head_dim") is not None:
        return int(config.number("qk_rope_head_dim"))
    return int(config.head_size * config.number("partial_rotary_factor"))


def _ratios(config: Config) -> list[int]:
    """How many tokens each layer compresses into one: numbers, or transformers 5's names."""
    ratios = config.raw.get("compress_ratios")
    if ratios is None:
        ratios = [RATIOS.get(kind, -1) for kind in config.names("layer_types")]
    known = isinstance(ratios, list) and all(ratio in RATIOS.values() for ratio in ratios)
    if not known or len(ratios) < config.layers:
        raise FormatError(
            f"{config.folder}/config.json: compress_ratios are not 0, 4 or 128 for each of "
            f"{config.layers} layers. Download the model again."
        )
    return [int(ratio) for ratio in ratios]


def _hash_layers(config: Config) -> int:
    """How many first layers choose experts by the token alone."""
    kinds = config.names("mlp_layer_types")
    if not kinds:
        return int(config.number("num_hash_layers"))
    count = kinds.count("hash_moe")
    if "hash_moe" in kinds[count:]:
        raise UnsupportedError(
            f"{config.folder}/config.json: layers that choose experts by the token are not the "
            "first ones; llama.cpp has them there only."
        )
    return count


def _kind_of_layer(config: Config, layer: int) -> tuple[int, bool]:
    return _ratios(config)[layer], layer < _hash_layers(config)


DEEPSEEK_V4 = ConversionRow("deepseek4", _metadata, RULES, layer_kind=_kind_of_layer)
