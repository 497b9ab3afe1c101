"""Models whose layers keep a state: Mamba 2, and Falcon-H1 with attention beside it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from snugfit.archs.conversion.config import Config
from snugfit.archs.conversion.metadata import attention_metadata
from snugfit.archs.conversion.rules import Arrangement, Array, Compute, ConversionRow, Part, Rule
from snugfit.errors import FormatError, UnsupportedError

LONGEST_CONTEXT = 2**20  # what llama.cpp's converter says of models without positions
UNLIMITED = ([0.0, math.inf], [0.0, {"__float__": "Infinity"}])  # as transformers 4 and 5 say it
LAYER = r"(?:model|backbone)\.layers\.(\d+)"
EMBEDDING, HEAD = "embedding_multiplier", "lm_head_multiplier"
MIXER = LAYER + r"\.(?:mixer|mamba)"


def squeezed(values: Array, _config: Config) -> Array:
    return values[:, 0] if values.ndim == 3 else values


def as_column(values: Array, _config: Config) -> Array:
    return values[:, None]


def negative_exponential(values: Array) -> Array:
    """The logarithm of a decay, as checkpoints store it, to the decay."""
    exponential: Array = -np.exp(values)
    return exponential


def in_groups(values: Array, config: Config) -> Array:
    groups = int(config.number("mamba_n_groups", config.number("n_groups", 1)))
    return values.reshape(groups, -1)


def matrix(name: str, arrange: Arrangement, compute: Compute | None = None) -> tuple[Part, ...]:
    return (Part(name, arrange, compute, whole=True, dimensions=2),)


STATE = (
    Rule(
        MIXER + r"\.conv1d\.weight",
        matrix(r"blk.\1.ssm_conv1d.weight", squeezed),
    ),
    Rule(MIXER + r"\.dt_bias", (Part(r"blk.\1.ssm_dt.bias"),)),
    Rule(MIXER + r"\.A_log", matrix(r"blk.\1.ssm_a", as_column, negative_exponential)),
    Rule(MIXER + r"\.D", matrix(r"blk.\1.ssm_d", as_column)),
    Rule(MIXER + r"\.norm\.weight", matrix(r"blk.\1.ssm_norm.weight", in_groups)),
)


def state_metadata(
    config: Config, inner: int, heads: int, groups: int, prefix: str = ""
) -> dict[str, Any]:
    if not heads or inner % heads or not groups or inner % groups:
        raise FormatError(
            f"{config.folder}/config.json: {heads} heads and {groups} groups cannot share a state "
            f"of {inner} columns. Download the model again."
        )
    return {
        "ssm.conv_kernel": int(config.number(f"{prefix}conv" if prefix else "conv_kernel", 4)),
        "ssm.inner_size": inner,
        "ssm.state_size": int(config.number(f"{prefix}state" if prefix else "state_size", 128)),
        "ssm.time_step_rank": heads,
        "ssm.group_count": groups,
    }


def mamba2_metadata(config: Config) -> dict[str, Any]:
    refuse_other(config)
    inner = int(config.number("expand", 2)) * config.hidden_size
    head_size = int(config.number("head_dim", 64))
    heads = inner // max(head_size, 1)
    if heads * head_size != inner:
        raise FormatError(
            f"{config.folder}/config.json: heads of {head_size} do not fill {inner} columns. "
            "Download the model again."
        )
    return {
        "context_length": LONGEST_CONTEXT,
        "embedding_length": config.hidden_size,
        "feed_forward_length": 0,
        "attention.head_count": 0,
        "block_count": config.layers,
        "attention.layer_norm_rms_epsilon": float(config.number("layer_norm_epsilon", 1e-5)),
    } | state_metadata(config, inner, heads, int(config.number("n_groups", 8)))


def falcon_h1_metadata(config: Config) -> dict[str, Any]:
    refuse_other(config)
    if config.flag("tie_word_embeddings") and _factor(config, EMBEDDING) != _factor(config, HEAD):
        raise UnsupportedError(
            f"{config.folder}/config.json: one matrix serves as embedding and head, each with a "
            "multiplier of its own; llama.cpp has none."
        )
    inner = _falcon_inner(config)
    heads = int(config.number("mamba_n_heads"))
    keys = attention_metadata(config)
    del keys["rope.dimension_count"]  # llama.cpp takes all of a head
    groups = int(config.number("mamba_n_groups", 1))
    return keys | state_metadata(config, inner, heads, groups, "mamba_d_")


def refuse_other(config: Config) -> None:
    """llama.cpp knows SiLU, steps without limit and convolutions with a bias."""
    activation = config.raw.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise UnsupportedError(
            f"{config.folder}/config.json: hidden_act {activation!r}; llama.cpp runs such models "
            "with silu only."
        )
    if config.flag("mamba_norm_before_gate") and config.flag("mamba_rms_norm"):
        raise UnsupportedError(
            f"{config.folder}/config.json: mamba_norm_before_gate is on; llama.cpp gates first."
        )
    if not config.flag("use_conv_bias", config.flag("mamba_conv_bias", True)):
        raise UnsupportedError(
            f"{config.folder}/config.json: the convolution has no bias; llama.cpp wants one."
        )
    limit = config.raw.get("time_step_limit") or UNLIMITED[0]
    if limit not in UNLIMITED:
        raise UnsupportedError(
            f"{config.folder}/config.json: time_step_limit {limit}; llama.cpp has none."
        )


def _falcon_inner(config: Config) -> int:
    expanded = float(config.number("mamba_expand", 2)) * config.hidden_size
    return int(config.number("mamba_d_ssm", expanded))


def multiplier(*keys: str) -> Any:
    """Return what gives the product of some of Falcon-H1's multipliers."""

    def scale(config: Config, _rows: int) -> float:
        return math.prod(_factor(config, key) for key in keys)

    return scale


def _factor(config: Config, key: str) -> float:
    """Return a multiplier; `mlp_multipliers.0` is the first of a list."""
    name, _, place = key.partition(".")
    value = config.raw.get(name)
    if place:
        value = value[int(place)] if isinstance(value, list) and len(value) > int(place) else value
    if value is None:
        return 1.0
    if isinstance(value, bool | str | list) or not math.isfinite(value):
        raise FormatError(
            f"{config.folder}/config.json: {name} is {value!r}, no multiplier. Download it again."
        )
    return float(value)


def in_projection(config: Config, rows: int) -> Array:
    """Return the factor of each row: gate, values, B, C and time steps have one each."""
    inner = _falcon_inner(config)
    state = int(config.number("mamba_n_groups", 1)) * int(config.number("mamba_d_state", 256))
    sizes = (inner, inner, state, state, rows - 2 * inner - 2 * state)
    if min(sizes) < 0:
        raise FormatError(
            f"{config.folder}: in_proj has {rows} rows, which config.json contradicts. "
            "Download the model again."
        )
    factors = [_factor(config, f"ssm_multipliers.{part}") for part in range(5)]
    scaled: Array = np.repeat(factors, sizes) * _factor(config, "ssm_in_multiplier")
    return scaled


ATTENTION_IN, MLP = "attention_in_multiplier", "mlp_multipliers"
FALCON_SCALES = {
    r".+\.down_proj\.weight": multiplier(f"{MLP}.1"),
    r".+\.gate_proj\.weight": multiplier(f"{MLP}.0"),
    r".+\.k_proj\.weight": multiplier("key_multiplier", ATTENTION_IN),
    r".+\.[qv]_proj\.weight": multiplier(ATTENTION_IN),
    r".+\.o_proj\.weight": multiplier("attention_out_multiplier"),
    r".+\.out_proj\.weight": multiplier("ssm_out_multiplier"),
    r".+\.in_proj\.weight": in_projection,
    r"lm_head\.weight": multiplier(HEAD),
    r"model\.embed_tokens\.weight": multiplier(EMBEDDING),
}
SCALED = tuple(Rule(pattern, (Part(scale=scale),)) for pattern, scale in FALCON_SCALES.items())

MAMBA2 = ConversionRow("mamba2", mamba2_metadata, STATE)
FALCON_H1 = ConversionRow("falcon-h1", falcon_h1_metadata, (*STATE, *SCALED))
