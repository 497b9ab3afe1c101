"""Qwen3-Next and Qwen 3.5 / 3.6: gated delta nets between layers of full attention."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from snugfit.archs.conversion.config import Config
from snugfit.archs.conversion.families.qwen import (
    EXPERTS_EVERYWHERE,
    FIXED,
    FUSED_EXPERTS,
    SHARED_EXPERT,
    VISION_TOWER,
    decoder_metadata,
    expert_keys,
)
from snugfit.archs.conversion.metadata import check_fixed, rope_sections
from snugfit.archs.conversion.rules import Array, ConversionRow, Part, Rule
from snugfit.errors import FormatError, UnsupportedError

RECURRENT, FULL = "linear_attention", "full_attention"
FIXED_GATES = {"attn_output_gate": True, "output_gate_type": "swish"}
# What transformers takes where a Qwen 3.5 config has no sections.
SECTIONS = (11, 11, 10)
DRAFT = re.compile(r"(?:model\.)?mtp\.(?:layers\.(\d{1,4})\.(.+)|(\w+)\.weight)")
# What a draft layer (MTP) has beyond a decoder layer's tensors: its name, and that in GGUF.
OF_DRAFT_LAYERS = {
    "fc": "eh_proj",
    "pre_fc_norm_embedding": "enorm",
    "pre_fc_norm_hidden": "hnorm",
    "norm": "shared_head_norm",
}


@dataclass(frozen=True)
class Heads:
    """Heads of a delta net: each key head serves as many value heads, all of one size."""

    keys: int
    values: int
    size: int

    @property
    def each(self) -> int:
        """Value heads of a key head."""
        return self.values // self.keys

    @property
    def key_rows(self) -> int:
        return self.keys * self.size


def heads_of(config: Config) -> Heads:
    """Return the heads of the config. Raises FormatError, UnsupportedError."""
    keys, values, key_size, value_size = (
        int(config.number(f"linear_{key}"))
        for key in ("num_key_heads", "num_value_heads", "key_head_dim", "value_head_dim")
    )
    if not keys or not values or values % keys or not key_size:
        raise FormatError(
            f"{config.folder}/config.json: {keys} key heads of {key_size} cannot share {values} "
            "value heads. Download it again."
        )
    if key_size != value_size:
        raise UnsupportedError(
            f"{config.folder}/config.json: linear_key_head_dim is {key_size}, "
            f"linear_value_head_dim {value_size}; llama.cpp has one size for both."
        )
    return Heads(keys, values, key_size)


# Metadata


def delta_net_metadata(config: Config) -> dict[str, Any]:
    check_fixed(config, FIXED | EXPERTS_EVERYWHERE | FIXED_GATES)
    heads = heads_of(config)
    keys: dict[str, Any] = {
        "block_count": config.layers + config.draft_layers,
        "ssm.conv_kernel": int(config.number("linear_conv_kernel_dim")),
        "ssm.state_size": heads.size,
        "ssm.group_count": heads.keys,
        "ssm.time_step_rank": heads.values,
        "ssm.inner_size": heads.values * heads.size,
        "full_attention_interval": interval_of(config),
        "rope.dimension_count": rotated(config),
    }
    if types := layer_types(config):
        recurrent = [one == RECURRENT for one in types]
        keys["attention.recurrent_layers"] = recurrent + [False] * config.draft_layers
    if config.draft_layers:
        keys["nextn_predict_layers"] = config.draft_layers
    return decoder_metadata(config) | keys


def qwen3_next_metadata(config: Config) -> dict[str, Any]:
    check_fixed(config, {"norm_topk_prob": True})
    return delta_net_metadata(config) | expert_keys(config)


def qwen3_5_metadata(config: Config) -> dict[str, Any]:
    return delta_net_metadata(config) | rope_sections(config, SECTIONS)


def qwen3_5_expert_metadata(config: Config) -> dict[str, Any]:
    return qwen3_5_metadata(config) | expert_keys(config)


def layer_types(config: Config) -> list[str]:
    types = config.names("layer_types")
    if types and (len(types) != config.layers or not set(types) <= {RECURRENT, FULL}):
        raise FormatError(
            f"{config.folder}/config.json: layer_types must name one of {RECURRENT}, {FULL} for "
            f"each of {config.layers} layers. Download it again."
        )
    return types


def interval_of(config: Config) -> int:
    interval = int(config.number("full_attention_interval", 4))
    if interval < 1:
        raise FormatError(
            f"{config.folder}/config.json: full_attention_interval is {interval}. "
            "Download it again."
        )
    return interval


def layer_kind(config: Config, layer: int) -> str:
    if types := layer_types(config):
        return types[layer]
    return RECURRENT if (layer + 1) % interval_of(config) else FULL


def rotated(config: Config) -> int:
    """Columns of a head that are rotated; transformers takes a quarter where none says."""
    share = config.number("partial_rotary_factor", 0.25)
    return int(config.head_size * config.rope_numbers.number("partial_rotary_factor", share))


# Tensors


def draft_name(name: str, config: Config) -> str:
    """Draft layers follow the decoder's."""
    match = DRAFT.fullmatch(name)
    if match and match[1]:
        return f"model.layers.{config.layers + int(match[1])}.{match[2]}"
    if match and match[3] in OF_DRAFT_LAYERS:
        return f"model.layers.{config.layers}.nextn.{OF_DRAFT_LAYERS[match[3]]}.weight"
    return name


def one_more(values: Array) -> Array:
    return values + np.float32(1)


def decay(values: Array) -> Array:
    return -np.exp(values)


def tiled(values: Array, heads: Heads, size: int) -> Array:
    """Put value heads in turns of key heads, [each, keys, size, ...], a view.

    Hugging Face keeps those of a key head together; llama.cpp repeats the key heads as a whole.
    """
    return values.reshape(heads.keys, heads.each, size, *values.shape[1:]).swapaxes(0, 1)


def tiled_rows(values: Array, config: Config) -> Array:
    heads = heads_of(config)
    return tiled(values, heads, heads.size)


def tiled_heads(values: Array, config: Config) -> Array:
    """Tile what has one row, or one number, a head."""
    return tiled(values, heads_of(config), 1)


def tiled_columns(values: Array, config: Config) -> Array:
    heads = heads_of(config)
    rows = values.reshape(len(values), heads.keys, heads.each, heads.size)
    return rows.swapaxes(1, 2).reshape(values.shape)


def queries_and_keys(values: Array, config: Config) -> Array:
    return values[: 2 * heads_of(config).key_rows]


def tiled_values(values: Array, config: Config) -> Array:
    return tiled_rows(values[2 * heads_of(config).key_rows :], config)


def kernels(values: Array) -> Array:
    """Return the kernels of a convolution of each channel by itself, [channels, kernel]."""
    return values.reshape(len(values), values.shape[-1])


def all_kernels(values: Array, _config: Config) -> Array:
    return kernels(values)


def kernels_of_queries_and_keys(values: Array, config: Config) -> Array:
    return queries_and_keys(kernels(values), config)


def tiled_kernels_of_values(values: Array, config: Config) -> Array:
    return tiled_values(kernels(values), config)


def of_key_heads(values: Array, config: Config) -> list[Array]:
    """Split Qwen3-Next's rows, which hold a key head's query, key, values and gates, in turn.

    Each of the four is [key heads, rows, columns].
    """
    heads = heads_of(config)
    widths = np.array([heads.size, heads.size, heads.each * heads.size, heads.each * heads.size])
    by_head = values.reshape(heads.keys, widths.sum(), *values.shape[1:])
    return np.split(by_head, np.cumsum(widths)[:-1], axis=1)


def interleaved_queries(values: Array, config: Config) -> Array:
    return of_key_heads(values, config)[0]


def interleaved_keys(values: Array, config: Config) -> Array:
    return of_key_heads(values, config)[1]


def interleaved_values(values: Array, config: Config) -> Array:
    return of_key_heads(values, config)[2]


def interleaved_gates(values: Array, config: Config) -> Array:
    return of_key_heads(values, config)[3]


NET = r"(model\.layers\.(\d+)\.linear_attn)"
NEXTN = r"model\.layers\.(\d+)\.nextn"
# Norms of the hidden state are stored without the one that is added; the delta net's is whole.
NORMS = (
    Rule(NET + r"\.norm\.weight", (Part(),)),
    Rule(NEXTN + r"\.eh_proj\.weight", (Part(r"blk.\1.nextn.eh_proj.weight"),)),
    Rule(NEXTN + r"\.(\w+norm)\.weight", (Part(r"blk.\1.nextn.\2.weight", compute=one_more),)),
    Rule(r".+norm\.weight", (Part(compute=one_more),)),
)
QWEN3_NEXT_RULES = (
    Rule(
        NET + r"\.in_proj_qkvz\.weight",
        (
            Part(
                r"blk.\2.attn_qkv.weight",
                interleaved_queries,
                below=(interleaved_keys, interleaved_values),
            ),
            Part(r"blk.\2.attn_gate.weight", interleaved_gates),
        ),
    ),
    Rule(NET + r"\.in_proj_ba\.weight", (Part(r"blk.\2.ssm_ba.weight"),)),
    Rule(NET + r"\.conv1d\.weight", (Part(arrange=all_kernels, whole=True, dimensions=2),)),
    Rule(NET + r"\.A_log", (Part(compute=decay),)),
    Rule(NET + r"\.dt_bias", (Part(r"\1.dt_proj.bias"),)),
    *NORMS,
    *SHARED_EXPERT,
    *FUSED_EXPERTS,
)
QWEN3_5_RULES = (
    *VISION_TOWER,
    Rule(NET + r"\.in_proj_qkv\.weight", (Part(arrange=queries_and_keys, below=(tiled_values,)),)),
    Rule(NET + r"\.in_proj_z\.weight", (Part(arrange=tiled_rows),)),
    Rule(NET + r"\.in_proj_[ab]\.weight", (Part(arrange=tiled_heads),)),
    Rule(
        NET + r"\.conv1d\.weight",
        (
            Part(
                arrange=kernels_of_queries_and_keys,
                below=(tiled_kernels_of_values,),
                whole=True,
                dimensions=2,
            ),
        ),
    ),
    Rule(NET + r"\.A_log", (Part(arrange=tiled_heads, compute=decay),)),
    Rule(NET + r"\.dt_bias", (Part(r"\1.dt_proj.bias", tiled_heads),)),
    Rule(NET + r"\.out_proj\.weight", (Part(columns=tiled_columns),)),
    *NORMS,
    *SHARED_EXPERT,
    *FUSED_EXPERTS,
)


def row(
    architecture: str, metadata: Callable[[Config], dict[str, Any]], rules: tuple[Rule, ...]
) -> ConversionRow:
    return ConversionRow(
        architecture, metadata, rules, layer_kind=layer_kind, rename=draft_name, keeps_drafts=True
    )


QWEN3_NEXT = row("qwen3next", qwen3_next_metadata, QWEN3_NEXT_RULES)
QWEN3_5 = row("qwen35", qwen3_5_metadata, QWEN3_5_RULES)
QWEN3_5_MOE = row("qwen35moe", qwen3_5_expert_metadata, QWEN3_5_RULES)
