"""Which tensors a model of an architecture has, from its GGUF metadata alone.

For models that are known by their shapes only, before any file is here. Names and shapes are those
that llama.cpp's loader asks for; a loader and a layout that disagree show in the parameter count.
Keys lack the architecture's prefix; shapes are [..., rows, columns].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Keys = Mapping[str, Any]
Shape = tuple[int, ...]
Shapes = Iterator[tuple[str, Shape]]

# Call the norm before the output by another name.
NORM_OF_EMBEDDING = {"lfm2", "lfm2moe"}


def shapes_of(architecture: str, keys: Keys, *, is_tied: bool) -> dict[str, Shape]:
    """Return every tensor's shape by name, in file order."""
    width, vocabulary = keys["embedding_length"], keys["vocab_size"]
    shapes: dict[str, Shape] = {"token_embd.weight": (vocabulary, width)}
    norm = "token_embd_norm" if architecture in NORM_OF_EMBEDDING else "output_norm"
    shapes[f"{norm}.weight"] = (width,)
    if not is_tied:
        shapes["output.weight"] = (vocabulary, width)
    whole, block = LAYOUTS[architecture]
    shapes |= dict(whole(keys))
    for layer in range(keys["block_count"]):
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in block(keys, layer)}
    return shapes


def _nothing(_keys: Keys) -> Shapes:
    yield from ()


def _attention(keys: Keys, *, query: int = 1) -> Shapes:
    """Grouped-query attention; `query` is 2 where the query matrix also makes an output gate."""
    width, size = keys["embedding_length"], keys["attention.key_length"]
    heads, heads_kv = keys["attention.head_count"], keys["attention.head_count_kv"]
    yield "attn_q.weight", (query * heads * size, width)
    yield "attn_k.weight", (heads_kv * size, width)
    yield "attn_v.weight", (heads_kv * size, width)
    yield "attn_output.weight", (width, heads * size)


def _head_norms(keys: Keys) -> Shapes:
    size = keys["attention.key_length"]
    yield "attn_q_norm.weight", (size,)
    yield "attn_k_norm.weight", (size,)


def _norms(keys: Keys, *names: str) -> Shapes:
    for name in names:
        yield f"{name}.weight", (keys["embedding_length"],)


def _gated(keys: Keys, length: int, suffix: str = "") -> Shapes:
    """A feed-forward of three matrices, `length` wide inside."""
    width = keys["embedding_length"]
    yield f"ffn_gate{suffix}.weight", (length, width)
    yield f"ffn_up{suffix}.weight", (length, width)
    yield f"ffn_down{suffix}.weight", (width, length)


def _experts(keys: Keys) -> Shapes:
    width, experts = keys["embedding_length"], keys["expert_count"]
    length = keys["expert_feed_forward_length"]
    yield "ffn_gate_inp.weight", (experts, width)
    yield "ffn_gate_exps.weight", (experts, length, width)
    yield "ffn_up_exps.weight", (experts, length, width)
    yield "ffn_down_exps.weight", (experts, width, length)


def _llama(keys: Keys, _layer: int) -> Shapes:
    yield from _norms(keys, "attn_norm", "ffn_norm")
    yield from _attention(keys)
    yield from _gated(keys, keys["feed_forward_length"])


def _llama4(keys: Keys, _layer: int) -> Shapes:
    yield from _norms(keys, "attn_norm", "ffn_norm")
    yield from _attention(keys)
    yield from _experts(keys)
    yield from _gated(keys, keys["expert_feed_forward_length"], "_shexp")


def _llama4_frequencies(keys: Keys) -> Shapes:
    yield "rope_freqs.weight", (keys["rope.dimension_count"] // 2,)


def _phi3(keys: Keys, _layer: int) -> Shapes:
    width, size = keys["embedding_length"], keys["attention.key_length"]
    heads, heads_kv = keys["attention.head_count"], keys["attention.head_count_kv"]
    length = keys["feed_forward_length"]
    yield from _norms(keys, "attn_norm", "ffn_norm")
    yield "attn_qkv.weight", ((heads + 2 * heads_kv) * size, width)
    yield "attn_output.weight", (width, heads * size)
    yield "ffn_up.weight", (2 * length, width)  # gate and up in one
    yield "ffn_down.weight", (width, length)


def _qwen2(keys: Keys, layer: int) -> Shapes:
    for name, shape in _llama(keys, layer):
        yield name, shape
        if name in ("attn_q.weight", "attn_k.weight", "attn_v.weight"):
            yield name.replace(".weight", ".bias"), shape[:-1]


def _gemma2(keys: Keys, layer: int) -> Shapes:
    yield from _llama(keys, layer)
    yield from _norms(keys, "post_attention_norm", "post_ffw_norm")


def _gemma3(keys: Keys, layer: int) -> Shapes:
    yield from _gemma2(keys, layer)
    yield from _head_norms(keys)


def _cohere2(keys: Keys, _layer: int) -> Shapes:
    """Attention and feed-forward side by side, after one norm."""
    yield from _norms(keys, "attn_norm")
    yield from _attention(keys)
    yield from _gated(keys, keys["feed_forward_length"])


def _olmo2(keys: Keys, _layer: int) -> Shapes:
    """Norms after, and of all heads together."""
    size = keys["attention.key_length"]
    yield from _norms(keys, "post_attention_norm", "post_ffw_norm")
    yield "attn_q_norm.weight", (keys["attention.head_count"] * size,)
    yield "attn_k_norm.weight", (keys["attention.head_count_kv"] * size,)
    yield from _attention(keys)
    yield from _gated(keys, keys["feed_forward_length"])


def _lfm2(keys: Keys, layer: int) -> Shapes:
    """Short convolutions, and attention where a layer has key heads."""
    width, heads_kv = keys["embedding_length"], keys["attention.head_count_kv"][layer]
    yield from _norms(keys, "attn_norm", "ffn_norm")
    if heads_kv:
        yield from _attention({**keys, "attention.head_count_kv": heads_kv})
        yield from _head_norms(keys)
    else:
        yield "shortconv.conv.weight", (width, keys["shortconv.l_cache"])
        yield "shortconv.in_proj.weight", (3 * width, width)
        yield "shortconv.out_proj.weight", (width, width)
    if layer < keys.get("leading_dense_block_count", keys["block_count"]):
        yield from _gated(keys, keys["feed_forward_length"])
    else:
        yield from _experts(keys)
        yield "exp_probs_b.bias", (keys["expert_count"],)


def _ernie_moe(keys: Keys, layer: int) -> Shapes:
    if layer < keys["leading_dense_block_count"]:
        yield from _llama(keys, layer)
        return
    yield from _norms(keys, "attn_norm", "ffn_norm")
    yield from _attention(keys)
    yield from _experts(keys)
    yield from _gated(keys, keys["expert_shared_feed_forward_length"], "_shexp")


def _qwen3(keys: Keys, layer: int) -> Shapes:
    yield from _llama(keys, layer)
    yield from _head_norms(keys)


def _qwen3moe(keys: Keys, _layer: int) -> Shapes:
    yield from _norms(keys, "attn_norm", "ffn_norm")
    yield from _attention(keys)
    yield from _head_norms(keys)
    yield from _experts(keys)


def _qwen35_mixer(keys: Keys, layer: int, *, is_fused: bool = False) -> Shapes:
    """Full attention in every n-th layer, a gated delta net in the others."""
    yield from _norms(keys, "attn_norm", "post_attention_norm")
    if (layer + 1) % keys["full_attention_interval"] == 0:
        yield from _attention(keys, query=2)
        yield from _head_norms(keys)
        return
    width, inner = keys["embedding_length"], keys["ssm.inner_size"]
    state, heads = keys["ssm.state_size"], keys["ssm.time_step_rank"]
    mixed = inner + 2 * keys["ssm.group_count"] * state
    yield "attn_qkv.weight", (mixed, width)
    yield "attn_gate.weight", (inner, width)
    yield "ssm_conv1d.weight", (mixed, keys["ssm.conv_kernel"])
    yield "ssm_dt.bias", (heads,)
    yield "ssm_a", (heads,)
    if is_fused:
        yield "ssm_ba.weight", (2 * heads, width)
    else:
        yield "ssm_beta.weight", (heads, width)
        yield "ssm_alpha.weight", (heads, width)
    yield "ssm_norm.weight", (state,)
    yield "ssm_out.weight", (width, inner)


def _qwen35(keys: Keys, layer: int) -> Shapes:
    yield from _qwen35_mixer(keys, layer)
    yield from _gated(keys, keys["feed_forward_length"])


def _qwen35moe(keys: Keys, layer: int, *, is_fused: bool = False) -> Shapes:
    yield from _qwen35_mixer(keys, layer, is_fused=is_fused)
    yield from _experts(keys)
    yield "ffn_gate_inp_shexp.weight", (keys["embedding_length"],)
    yield from _gated(keys, keys["expert_shared_feed_forward_length"], "_shexp")


def _qwen3next(keys: Keys, layer: int) -> Shapes:
    yield from _qwen35moe(keys, layer, is_fused=True)


def _gpt_oss(keys: Keys, _layer: int) -> Shapes:
    yield from _norms(keys, "attn_norm", "post_attention_norm")
    for part in (_attention, _experts):
        for name, shape in part(keys):
            yield name, shape
            yield name.replace(".weight", ".bias"), shape[:-1]
    yield "attn_sinks.weight", (keys["attention.head_count"],)


def _gemma4_inputs(keys: Keys) -> Shapes:
    """The table of inputs to each layer, in the small models; factors of the long rotation."""
    width, part = keys["embedding_length"], keys["embedding_length_per_layer_input"]
    if part:
        every = keys["block_count"] * part
        yield "per_layer_token_embd.weight", (keys["vocab_size"], every)
        yield "per_layer_model_proj.weight", (every, width)
        yield "per_layer_proj_norm.weight", (part,)
    yield "rope_freqs.weight", (keys["rope.dimension_count"] // 2,)


def _gemma4(keys: Keys, layer: int) -> Shapes:
    width, part = keys["embedding_length"], keys["embedding_length_per_layer_input"]
    yield from _norms(keys, "attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
    yield from _gemma4_attention(keys, layer)
    yield from _gated(keys, keys["feed_forward_length"][layer])
    yield "layer_output_scale.weight", (1,)
    if keys.get("expert_count"):
        yield from _gemma4_experts(keys)
    if part:
        yield "inp_gate.weight", (part, width)
        yield "proj.weight", (width, part)
        yield from _norms(keys, "post_norm")


def _gemma4_attention(keys: Keys, layer: int) -> Shapes:
    width, heads = keys["embedding_length"], keys["attention.head_count"]
    is_window = keys["attention.sliding_window_pattern"][layer]
    size = keys["attention.key_length_swa" if is_window else "attention.key_length"]
    yield "attn_q.weight", (heads * size, width)
    yield "attn_q_norm.weight", (size,)
    yield "attn_output.weight", (width, heads * size)
    # Layers that read the cache of others have these too: they are stored, and never used.
    rows = keys["attention.head_count_kv"][layer] * size
    yield "attn_k.weight", (rows, width)
    yield "attn_k_norm.weight", (size,)
    # Where whole-context layers have fewer heads than windows, keys serve as values too.
    if is_window or len(set(keys["attention.head_count_kv"])) == 1:
        yield "attn_v.weight", (rows, width)


def _gemma4_experts(keys: Keys) -> Shapes:
    width, experts = keys["embedding_length"], keys["expert_count"]
    length = keys["expert_feed_forward_length"]
    yield from _norms(keys, "pre_ffw_norm_2", "post_ffw_norm_1", "post_ffw_norm_2")
    yield "ffn_gate_inp.weight", (experts, width)
    yield "ffn_gate_inp.scale", (width,)
    yield "ffn_gate_up_exps.weight", (experts, 2 * length, width)
    yield "ffn_down_exps.weight", (experts, width, length)
    yield "ffn_down_exps.scale", (experts,)


def _deepseek2(keys: Keys, layer: int) -> Shapes:
    """Multi-head latent attention: keys and values are made from one short vector a token."""
    width, heads = keys["embedding_length"], keys["attention.head_count"]
    rank, rank_query = keys["attention.kv_lora_rank"], keys.get("attention.q_lora_rank")
    rotated, size = keys["rope.dimension_count"], keys["attention.key_length_mla"]
    size_value = keys["attention.value_length_mla"]
    yield from _norms(keys, "attn_norm", "ffn_norm")
    if rank_query:
        yield "attn_q_a.weight", (rank_query, width)
        yield "attn_q_a_norm.weight", (rank_query,)
        yield "attn_q_b.weight", (heads * size, rank_query)
    else:
        yield "attn_q.weight", (heads * size, width)
    yield "attn_kv_a_mqa.weight", (rank + rotated, width)
    yield "attn_kv_a_norm.weight", (rank,)
    yield "attn_k_b.weight", (heads, rank, size - rotated)
    yield "attn_v_b.weight", (heads, size_value, rank)
    yield "attn_output.weight", (width, heads * size_value)
    if layer < keys["leading_dense_block_count"]:
        yield from _gated(keys, keys["feed_forward_length"])
        return
    yield from _experts(keys)
    if keys.get("expert_gating_func", 1) == 2:  # sigmoid, balanced by a bias
        yield "exp_probs_b.bias", (keys["expert_count"],)
    shared = keys["expert_shared_count"] * keys["expert_feed_forward_length"]
    yield from _gated(keys, shared, "_shexp")


def _deepseek4_head(keys: Keys) -> Shapes:
    streams = keys["hyper_connection.count"]
    yield "output_hc_fn.weight", (streams, streams * keys["embedding_length"])
    yield "output_hc_base.weight", (streams,)
    yield "output_hc_scale.weight", (1,)


def _deepseek4(keys: Keys, layer: int) -> Shapes:
    width, streams = keys["embedding_length"], keys["hyper_connection.count"]
    yield from _norms(keys, "attn_norm", "ffn_norm")
    yield from _deepseek4_attention(keys)
    yield from _deepseek4_compressors(keys, keys["attention.compress_ratios"][layer])
    for part in ("attn", "ffn"):
        yield f"hc_{part}_fn.weight", (streams * (2 + streams), streams * width)
        yield f"hc_{part}_base.weight", (streams * (2 + streams),)
        yield f"hc_{part}_scale.weight", (3,)
    yield from _experts(keys)
    if layer < keys["hash_layer_count"]:  # the token alone chooses the experts
        yield "ffn_gate_tid2eid.weight", (keys["vocab_size"], keys["expert_used_count"])
    else:
        yield "exp_probs_b.bias", (keys["expert_count"],)
    shared = keys["expert_shared_count"] * keys["expert_feed_forward_length"]
    yield from _gated(keys, shared, "_shexp")


def _deepseek4_attention(keys: Keys) -> Shapes:
    width, heads = keys["embedding_length"], keys["attention.head_count"]
    size, rank = keys["attention.key_length"], keys["attention.q_lora_rank"]
    groups = keys["attention.output_group_count"]
    outputs = groups * keys["attention.output_lora_rank"]
    yield "attn_sinks.weight", (heads,)
    yield "attn_q_a.weight", (rank, width)
    yield "attn_q_a_norm.weight", (rank,)
    yield "attn_q_b.weight", (heads * size, rank)
    yield "attn_kv.weight", (size, width)
    yield "attn_kv_a_norm.weight", (size,)
    yield "attn_output_a.weight", (outputs, heads * size // groups)
    yield "attn_output_b.weight", (width, outputs)


def _deepseek4_compressors(keys: Keys, ratio: int) -> Shapes:
    """What makes one vector of `ratio` tokens; short ratios overlap, and are searched by index."""
    if not ratio:
        return
    is_searched = ratio == 4
    width, size = keys["embedding_length"], keys["attention.key_length"]
    yield from _compressor("attn_compressor", ratio, width, size, 2 if is_searched else 1)
    if is_searched:
        heads, size = keys["attention.indexer.head_count"], keys["attention.indexer.key_length"]
        yield "indexer.proj.weight", (heads, width)
        yield "indexer.attn_q_b.weight", (heads * size, keys["attention.q_lora_rank"])
        yield from _compressor("indexer_compressor", ratio, width, size, 2)


def _compressor(name: str, ratio: int, width: int, size: int, windows: int) -> Shapes:
    yield f"{name}_kv.weight", (windows * size, width)
    yield f"{name}_gate.weight", (windows * size, width)
    yield f"{name}_ape.weight", (ratio, windows * size)
    yield f"{name}_norm.weight", (size,)


# Architecture -> (tensors of the whole model, tensors of a layer).
LAYOUTS: dict[str, tuple[Callable[[Keys], Shapes], Callable[[Keys, int], Shapes]]] = {
    "llama": (_nothing, _llama),
    "llama4": (_llama4_frequencies, _llama4),
    "mistral3": (_nothing, _llama),
    "granite": (_nothing, _llama),
    "smollm3": (_nothing, _llama),
    "internlm2": (_nothing, _llama),
    "exaone": (_nothing, _llama),
    "ernie4_5": (_nothing, _llama),
    "ernie4_5-moe": (_nothing, _ernie_moe),
    "cohere2": (_nothing, _cohere2),
    "command-r": (_nothing, _cohere2),
    "olmo2": (_nothing, _olmo2),
    "gemma2": (_nothing, _gemma2),
    "gemma3": (_nothing, _gemma3),
    "lfm2": (_nothing, _lfm2),
    "lfm2moe": (_nothing, _lfm2),
    "phi3": (_nothing, _phi3),
    "qwen2": (_nothing, _qwen2),
    "qwen3": (_nothing, _qwen3),
    "qwen3moe": (_nothing, _qwen3moe),
    "qwen3next": (_nothing, _qwen3next),
    "qwen35": (_nothing, _qwen35),
    "qwen35moe": (_nothing, _qwen35moe),
    "gemma4": (_gemma4_inputs, _gemma4),
    "gpt-oss": (_nothing, _gpt_oss),
    "deepseek2": (_nothing, _deepseek2),
    "deepseek4": (_deepseek4_head, _deepseek4),
}
