"""Llama 4, the language model of it."""

from __future__ import annotations

from typing import Any

from snugfit.archs.conversion.arrange import transposed
from snugfit.archs.conversion.config import Config
from snugfit.archs.conversion.families.llama import TOWERS
from snugfit.archs.conversion.metadata import (
    gated_metadata,
    require,
    rope_divisors,
    routed_metadata,
)
from snugfit.archs.conversion.rules import Array, ConversionRow, Part, Rule
from snugfit.errors import UnsupportedError

# What llama.cpp assumes; transformers has the same as defaults.
ASSUMED: dict[str, tuple[Any, ...]] = {
    "attention_chunk_size": (8192,),
    "attn_temperature_tuning": (True, 4),  # the first published configs say 4
    "floor_scale": (8192,),
    "attn_scale": (0.1,),
}
WITHOUT_KEY_NORM = 128  # experts: llama.cpp knows Maverick by them


def llama4_metadata(config: Config) -> dict[str, Any]:
    for key, values in ASSUMED.items():
        require(config, key, *values)
    require(config, "use_qk_norm", config.experts != WITHOUT_KEY_NORM)
    full = [(layer + 1) % 4 == 0 for layer in range(config.layers)]
    require(config, "no_rope_layers", [int(not one) for one in full], [])
    kinds = ["full_attention" if one else "chunked_attention" for one in full]
    require(config, "layer_types", kinds)
    step = int(config.number("interleave_moe_layer_step", 1))
    require(config, "moe_layers", [n for n in range(config.layers) if is_sparse(config, n)])
    if not step or not config.experts:
        raise UnsupportedError(
            f"{config.folder}/config.json: llama.cpp runs this architecture with experts only."
        )
    return (
        gated_metadata(config)
        | routed_metadata(config)
        | {
            "feed_forward_length": int(config.number("intermediate_size_mlp")),
            "expert_feed_forward_length": int(config.number("intermediate_size")),
            "interleave_moe_layer_step": step,
        }
    )


def is_sparse(config: Config, layer: int) -> bool:
    return (layer + 1) % max(1, int(config.number("interleave_moe_layer_step", 1))) == 0


def gate_rows(values: Array, _config: Config) -> Array:
    return values.T[: values.shape[1] // 2]


def up_rows(values: Array, _config: Config) -> Array:
    return values.T[values.shape[1] // 2 :]


# Experts are stored as they multiply from the right: [experts, columns, rows].
EXPERTS = r"(model\.layers\.\d+\.feed_forward\.experts)"
RULES = (
    TOWERS,
    Rule(
        EXPERTS + r"\.gate_up_proj",
        (Part(r"\1.gate_proj.weight", gate_rows), Part(r"\1.up_proj.weight", up_rows)),
    ),
    Rule(EXPERTS + r"\.down_proj", (Part(r"\1.down_proj.weight", transposed),)),
)

LLAMA4 = ConversionRow("llama4", llama4_metadata, RULES, rope_divisors, is_sparse)
