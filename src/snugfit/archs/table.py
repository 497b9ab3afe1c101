"""One row an architecture, and a model's shapes read off its metadata with its row."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from snugfit.archs.attention import (
    AttentionRule,
    RecurrentRule,
    StateRule,
    Windows,
    between_full_attention,
    compressed,
    compressors,
    delta_attention,
    every_layer,
    grouped_or_empty,
    grouped_query,
    indexed_latent,
    indexed_query,
    latent,
    lightning,
    mamba,
    mamba2,
    shape_of,
    short_convolution,
    states_of,
    without_key_heads,
)
from snugfit.archs.metadata import LONGEST, MOST_EXPERTS, MOST_HEADS, MOST_LAYERS, WIDEST, Metadata
from snugfit.core import LayerCache, LayerState, ModelSpec, TensorInfo
from snugfit.errors import FormatError


@dataclass(frozen=True)
class Architecture:
    """A kind of model, by its name in GGUF."""

    name: str
    attention: AttentionRule | None = grouped_query
    windows: Windows | None = None
    recurrent: RecurrentRule | None = None  # the layers with a state
    state: StateRule | None = None
    is_both: bool = False  # layers with a state have attention too
    can_roll_back: bool = False  # llama.cpp can take back tokens of its states
    own_caches: int = 0  # so many first layers have caches; the others read theirs
    has_experts: bool = False  # always; llama has them in Mixtral only


# Layers that llama.cpp gives a cache or a state, by release b11549.
_TABLE = (
    Architecture("llama"),  # and Mistral, Mixtral, SmolLM, Yi
    Architecture("mistral3"),  # Ministral 3
    Architecture("mistral4", latent),  # Mistral Large 3
    Architecture("llama4", windows=Windows(4, size=8192, is_fixed=True)),
    Architecture("deci", grouped_or_empty),  # Llama-Nemotron
    Architecture("qwen2"),
    Architecture("qwen2moe", has_experts=True),
    Architecture("qwen2vl"),
    Architecture("qwen3"),
    Architecture("qwen3moe", has_experts=True),
    Architecture("qwen3vl"),
    Architecture("qwen3vlmoe", has_experts=True),
    Architecture(
        "qwen3next",
        recurrent=between_full_attention(4),
        state=mamba2,
        has_experts=True,
    ),
    Architecture("qwen35", recurrent=between_full_attention(4), state=mamba2, can_roll_back=True),
    Architecture(
        "qwen35moe",
        recurrent=between_full_attention(4),
        state=mamba2,
        can_roll_back=True,
        has_experts=True,
    ),
    Architecture("gemma"),
    Architecture("gemma2", windows=Windows(2, size=4096)),
    Architecture("gemma3", windows=Windows(6)),
    Architecture("gemma3n", windows=Windows(5), own_caches=20),
    Architecture("gemma4", windows=Windows(6)),
    Architecture("gpt-oss", windows=Windows(2), has_experts=True),
    Architecture("phi2"),
    Architecture("phi3"),  # and Phi-4; llama.cpp ignores its windows
    Architecture("phimoe", has_experts=True),
    Architecture("deepseek", has_experts=True),
    Architecture("deepseek2", latent, has_experts=True),  # V2, V3, R1, GLM-4.7-Flash, Kimi K2
    Architecture("deepseek32", indexed_latent, has_experts=True),
    Architecture(
        "deepseek4",
        compressed,
        windows=Windows(),
        recurrent=every_layer,
        state=compressors,
        is_both=True,
        can_roll_back=True,
        has_experts=True,
    ),
    Architecture("glm4"),
    Architecture("glm4moe", has_experts=True),
    Architecture("glm-dsa", indexed_latent, has_experts=True),
    Architecture(
        "kimi-linear",
        latent,
        recurrent=without_key_heads,
        state=delta_attention,
        has_experts=True,
    ),
    Architecture(
        "kimi-k3",
        latent,
        recurrent=without_key_heads,
        state=delta_attention,
        can_roll_back=True,
        has_experts=True,
    ),
    Architecture("command-r"),
    Architecture("cohere2", windows=Windows(4)),  # Command A, R7B
    Architecture("cohere2moe", windows=Windows(4, full_first=True), has_experts=True),
    Architecture("granite"),
    Architecture("granitemoe", has_experts=True),
    Architecture("granite_swa", windows=Windows()),
    Architecture("granitehybrid", recurrent=without_key_heads, state=mamba2),
    Architecture("olmo"),
    Architecture("olmo2", windows=Windows(4)),  # and OLMo 3
    Architecture("olmoe", has_experts=True),
    Architecture("exaone"),
    Architecture("exaone4", windows=Windows(4, size=4096, only_of_layers=64)),
    Architecture("exaone-moe", windows=Windows(4, size=128), has_experts=True),
    Architecture("mimo2", windows=Windows(), has_experts=True),
    Architecture("step35", windows=Windows(), has_experts=True),
    Architecture("afmoe", windows=Windows(4), has_experts=True),
    Architecture(
        "smallthinker",
        windows=Windows(4, full_first=True, size=0, is_fixed=True),
        has_experts=True,
    ),
    Architecture(
        "minimax-01", recurrent=between_full_attention(8), state=lightning, has_experts=True
    ),
    Architecture("minimax-m2", has_experts=True),
    Architecture("minimax-m3", indexed_query, has_experts=True),
    Architecture("hunyuan-dense"),
    Architecture("hunyuan_vl"),
    Architecture("hy_v3", has_experts=True),
    Architecture("hunyuan-moe", has_experts=True),
    Architecture("ernie4_5"),
    Architecture("ernie4_5-moe", has_experts=True),
    Architecture("seed_oss"),
    Architecture("smollm3"),
    Architecture("internlm2"),
    Architecture("starcoder2"),
    Architecture("stablelm"),
    Architecture("falcon"),
    Architecture("nemotron"),
    Architecture("dots1", has_experts=True),
    Architecture("bailingmoe", has_experts=True),
    Architecture("bailingmoe2", has_experts=True),  # Ling, Ring
    Architecture(
        "bailingmoe3",
        latent,
        recurrent=without_key_heads,
        state=delta_attention,
        can_roll_back=True,
        has_experts=True,
    ),
    Architecture("grovemoe", has_experts=True),
    Architecture("apertus"),
    Architecture("arcee"),
    Architecture("minicpm"),
    Architecture("minicpm3"),
    Architecture("chatglm"),
    Architecture("laguna", windows=Windows(4, full_first=True), has_experts=True),
    Architecture("mellum", windows=Windows(4), has_experts=True),
    Architecture("muse-glimmer", windows=Windows(4)),
    Architecture("paddleocr"),
    Architecture("maincoder"),
    Architecture("pangu-embedded"),
    Architecture("qwen"),
    Architecture("gpt2"),
    Architecture("gptneox"),
    Architecture("bloom"),
    Architecture("mpt"),
    Architecture("starcoder"),
    Architecture("refact"),
    Architecture("codeshell"),
    Architecture("orion"),
    Architecture("baichuan"),
    Architecture("xverse"),
    Architecture("bitnet"),
    Architecture("jais2"),
    Architecture("dbrx", has_experts=True),
    Architecture("arctic", has_experts=True),
    Architecture("grok", has_experts=True),
    Architecture("nemotron_h", recurrent=without_key_heads, state=mamba2, can_roll_back=True),
    Architecture(
        "nemotron_h_moe",
        recurrent=without_key_heads,
        state=mamba2,
        can_roll_back=True,
        has_experts=True,
    ),
    Architecture(
        "lfm2",
        windows=Windows(),
        recurrent=without_key_heads,
        state=short_convolution,
        can_roll_back=True,
    ),
    Architecture(
        "lfm2moe",
        recurrent=without_key_heads,
        state=short_convolution,
        can_roll_back=True,
        has_experts=True,
    ),
    Architecture("falcon-h1", recurrent=every_layer, state=mamba2, is_both=True),
    Architecture("plamo2", recurrent=without_key_heads, state=mamba2),
    Architecture("plamo3", windows=Windows(8)),
    Architecture("jamba", recurrent=without_key_heads, state=mamba),
    Architecture("mamba", None, recurrent=every_layer, state=mamba),
    Architecture("mamba2", None, recurrent=every_layer, state=mamba2),
)

ARCHITECTURES: dict[str, Architecture] = {row.name: row for row in _TABLE}

BLOCK = re.compile(r"blk\.(\d{1,4})\.(.+)")
REMEDY = "Download the file again, or convert the model anew."


def spec_of(
    name: str,
    metadata: Mapping[str, Any],
    tensors: Sequence[TensorInfo],
    *,
    file_bytes: int,
    header_bytes: int,
) -> ModelSpec:
    """Return the shapes of a model from GGUF metadata (key -> Python or numpy value) and tensors.

    An unknown architecture is sized from its tensors alone, with `cache_basis` "estimated". Raises
    FormatError where metadata is missing, absurd or at odds with the tensors.
    """
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise FormatError(f"{name}: general.architecture is missing. {REMEDY}")
    reader = Metadata(name, architecture, metadata)
    row = ARCHITECTURES.get(architecture)
    layers = _layers(reader, tensors, known=row is not None)
    vocabulary = _rows_of(tensors, "token_embd.weight")
    caches, borrowed, states = (
        _kept_by_rules(reader, row, layers, tensors)
        if row
        else (_cache_by_tensors(tensors), (), ())
    )
    heads = reader.each_layer("attention.head_count", layers, 0, MOST_HEADS, _heads_default(row))
    return ModelSpec(
        name=name,
        architecture=architecture,
        layers=layers,
        hidden_size=reader.whole("embedding_length", 1, WIDEST),
        context_length=reader.whole("context_length", 1, LONGEST),
        vocabulary=vocabulary or reader.whole("vocab_size", 1, LONGEST),
        heads=max(heads),
        experts=reader.whole(
            "expert_count", 1 if row and row.has_experts else 0, MOST_EXPERTS, default=0
        ),
        experts_used=max(reader.each_layer("expert_used_count", layers, 0, MOST_EXPERTS, 0)),
        caches=caches,
        tensors=tuple(tensors),
        file_bytes=file_bytes,
        cache_basis="exact" if row else "estimated",
        header_bytes=header_bytes,
        states=states,
        borrowed=borrowed,
        first_heads=(heads[0], _key_value_heads(reader, heads)),
        drafting=_drafting(reader),
    )


def _key_value_heads(reader: Metadata, heads: Sequence[int]) -> int:
    """Return those of the first layer: as many as of queries, if the file does not say."""
    return reader.each_layer("attention.head_count_kv", len(heads), 0, MOST_HEADS, heads)[0]


def _heads_default(row: Architecture | None) -> int | None:
    return None if row and row.attention else 0


def _layers(reader: Metadata, tensors: Sequence[TensorInfo], *, known: bool) -> int:
    blocks = {int(match[1]) for tensor in tensors if (match := BLOCK.fullmatch(tensor.name))}
    found = max(blocks, default=-1) + 1
    layers = reader.whole("block_count", 1, MOST_LAYERS, default=None if known else found)
    # The last layers, which only draft tokens, may be left out of a file that counts them.
    drafting = _drafting(reader)
    if not layers - drafting <= found <= layers:
        raise reader.fault("block_count", f"is {layers}, but the tensors are of {found} layers")
    return layers


def _drafting(reader: Metadata) -> int:
    return reader.whole("nextn_predict_layers", 0, MOST_LAYERS, default=0)


def _kept_by_rules(
    reader: Metadata, row: Architecture, layers: int, tensors: Sequence[TensorInfo]
) -> tuple[tuple[LayerCache, ...], tuple[LayerCache, ...], tuple[LayerState, ...]]:
    """Return the caches, those that further layers read, and the states of a known architecture."""
    lowest = 0 if row.recurrent or row.attention is grouped_or_empty else 1
    shape = shape_of(reader, layers, row.windows, lowest_heads=lowest)
    states: tuple[LayerState, ...] = ()
    alone = (False,) * layers
    if row.recurrent and row.state:
        states = states_of(shape, row.state, row.recurrent, can_roll_back=row.can_roll_back)
        alone = alone if row.is_both else row.recurrent(shape)
    if row.attention is None:
        return (), (), states
    sharing = reader.whole("attention.shared_kv_layers", 0, layers, default=0)
    owners = min(row.own_caches or layers - sharing, layers)
    last = owners if row.attention is compressed else min(owners, shape.trunk)
    every = [
        cache
        for layer in range(max(last, shape.trunk))
        if not alone[layer]
        for cache in row.attention(shape, layer)
    ]
    caches = tuple(cache for cache in every if cache.layer < last)
    _check_widths(reader, caches, tensors)
    return caches, tuple(cache for cache in every if cache.layer >= last), states


def _check_widths(
    reader: Metadata, caches: Sequence[LayerCache], tensors: Sequence[TensorInfo]
) -> None:
    """Raise FormatError unless the tensors compute what the metadata says is cached.

    An exact number would be a lie otherwise. Latent keys are computed in other ways.
    """
    stored = {tensor.name: tensor.rows for tensor in tensors}
    for cache in caches:
        for letter, width in (("k", cache.key_width), ("v", cache.value_width)):
            tensor = f"blk.{cache.layer}.attn_{letter}.weight"
            plain = cache.value_width and not cache.is_index
            if plain and stored.get(tensor, width) != width:
                raise reader.fault(
                    "attention.head_count_kv",
                    f"makes {width} columns of cache, but {tensor} computes {stored[tensor]}",
                )


def _cache_by_tensors(tensors: Sequence[TensorInfo]) -> tuple[LayerCache, ...]:
    """Take the outputs of key and value matrices for the cache: plain attention would keep them.

    A window, a compressed or a recurrent cache is smaller; shared caches are counted twice.
    """
    parts: dict[int, dict[str, TensorInfo]] = {}
    for tensor in tensors:
        if match := BLOCK.fullmatch(tensor.name):
            parts.setdefault(int(match[1]), {})[match[2]] = tensor
    caches = []
    for layer, part in sorted(parts.items()):
        key, value = part.get("attn_k.weight"), part.get("attn_v.weight")
        fused, output = part.get("attn_qkv.weight"), part.get("attn_output.weight")
        if key is not None:
            caches.append(LayerCache(layer, key.rows, (value or key).rows))
        elif fused is not None and output is not None and fused.rows > output.columns:
            width = (fused.rows - output.columns) // 2
            caches.append(LayerCache(layer, width, width))
    return tuple(caches)


def _rows_of(tensors: Sequence[TensorInfo], name: str) -> int:
    return next((tensor.rows for tensor in tensors if tensor.name == name), 0)
