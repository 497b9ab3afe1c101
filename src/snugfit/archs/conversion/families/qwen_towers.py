"""Qwen's towers for pictures: of Qwen3-VL and Qwen3.5 / 3.6, and of Qwen2-VL and Qwen2.5-VL."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from snugfit.archs.conversion.config import Config
from snugfit.archs.conversion.families.gemma import TANH
from snugfit.archs.conversion.families.gemma_towers import colours, renamed
from snugfit.archs.conversion.rules import Arrangement, Array, Part, ProjectorRow, Rule
from snugfit.errors import FormatError, UnsupportedError

EPSILON = 1e-6  # of norms; not in the config
ANY_SIZE = 560  # what towers for pictures of any size are said to take; nobody reads it
WINDOW = 112  # pixels a side, which llama.cpp has as a constant
# What llama.cpp has as constants, under the names that one config or another has for it.
FIXED: dict[str, tuple[Any, ...]] = {
    "in_channels": (3,),
    "in_chans": (3,),
    "spatial_merge_size": (2,),
    "temporal_patch_size": (2,),
}
DEEPSTACK = re.compile(r"(?:model\.)?visual\.deepstack_merger_list\.(\d{1,4})\.(.+)")


# Keys


def qwen3_metadata(config: Config) -> dict[str, Any]:
    vision = config.part("vision_config")
    vision.require(hidden_act=(TANH, None))
    side = math.isqrt(int(vision.number("num_position_embeddings", 2304)))
    size = side * int(vision.number("patch_size", 16))
    taken = set(_deepstack(vision))
    return _common(config, vision, vision.hidden_size) | {
        "clip.projector_type": "qwen3vl_merger",
        "clip.use_gelu": True,
        "clip.vision.image_size": int(vision.number("image_size", size)),
        "clip.vision.feed_forward_length": int(vision.number("intermediate_size")),
        "clip.vision.spatial_merge_size": 2,
        "clip.vision.is_deepstack_layers": [layer in taken for layer in range(_depth(vision))],
    }


def qwen2_5_metadata(config: Config) -> dict[str, Any]:
    vision = config.part("vision_config")
    vision.require(hidden_act=("silu", None), window_size=(WINDOW,))
    full, depth = _layer_list(vision, "fullatt_block_indexes"), _depth(vision)
    every = full[0] + 1 if full else 0
    if not full or full != list(range(every - 1, depth, every)):
        raise UnsupportedError(
            f"{config.folder}/config.json: fullatt_block_indexes are {full!r:.80}; llama.cpp runs "
            f"every n-th of {depth} layers without windows only."
        )
    return _common(config, vision, vision.hidden_size) | {
        "clip.projector_type": "qwen2.5vl_merger",
        "clip.use_silu": True,
        "clip.vision.image_size": int(vision.number("image_size", ANY_SIZE)),
        "clip.vision.feed_forward_length": int(vision.number("intermediate_size")),
        "clip.vision.n_wa_pattern": every,
    }


def qwen2_metadata(config: Config) -> dict[str, Any]:
    vision = config.part("vision_config")
    vision.require(hidden_act=("quick_gelu", None))
    width = int(vision.number("embed_dim"))
    return _common(config, vision, width) | {
        "clip.projector_type": "qwen2vl_merger",
        "clip.vision.image_size": int(vision.number("image_size", ANY_SIZE)),
        "clip.vision.feed_forward_length": int(width * vision.number("mlp_ratio", 4)),
    }


def _common(config: Config, vision: Config, width: int) -> dict[str, Any]:
    vision.require(**FIXED)
    rope = vision.raw.get("rope_parameters")
    Config(config.folder, rope if isinstance(rope, Mapping) else {}).require(rope_theta=(10_000.0,))
    projected = int(vision.number("out_hidden_size", config.hidden_size))
    if "embed_dim" not in vision.raw and projected != config.hidden_size:
        raise FormatError(
            f"{config.folder}/config.json: the tower makes tokens of {projected} numbers, the "
            f"language model takes {config.hidden_size}. Download it again."
        )
    heads = int(vision.number("num_heads"))
    if heads == 0 or width % (4 * heads):
        raise FormatError(
            f"{config.folder}/config.json: {heads} heads of {width} numbers, which turn by fours, "
            "cannot be right. Download it again."
        )
    return {
        "clip.has_vision_encoder": True,
        "clip.vision.projection_dim": config.hidden_size,
        "clip.vision.patch_size": int(vision.number("patch_size")),
        "clip.vision.embedding_length": width,
        "clip.vision.block_count": _depth(vision),
        "clip.vision.attention.head_count": heads,
        "clip.vision.attention.layer_norm_epsilon": EPSILON,
        "clip.vision.image_mean": colours(config, "image_mean"),
        "clip.vision.image_std": colours(config, "image_std"),
    }


def _depth(vision: Config) -> int:
    depth = int(vision.number("depth"))
    if not 0 < depth < 10_000:
        raise FormatError(f"{vision.folder}/config.json: {depth} layers cannot be right.")
    return depth


def _deepstack(vision: Config) -> list[int]:
    return _layer_list(vision, "deepstack_visual_indexes")


def _layer_list(vision: Config, key: str) -> list[int]:
    """Return layers that the config names, in order. Raises FormatError where it has no such."""
    found = vision.raw.get(key) or []
    fitting = isinstance(found, list) and all(type(one) is int for one in found)
    if not fitting or found != sorted(set(found)) or not set(found) <= set(range(_depth(vision))):
        raise FormatError(
            f"{vision.folder}/config.json: {key} is {found!r:.80}, no list of the tower's layers. "
            "Download the model again."
        )
    return list(found)


def layers(config: Config) -> dict[str, Sequence[int]]:
    vision = config.part("vision_config")
    return {"v.blk.": range(_depth(vision)), "v.deepstack.": _deepstack(vision)}


# Where values go


def frame(number: int) -> Arrangement:
    """See what one of two frames is multiplied by: [width, colours, frames, rows, columns]."""

    def of_frame(values: Array, config: Config) -> Array:
        vision = config.part("vision_config")
        side = int(vision.number("patch_size"))
        width = int(vision.number("embed_dim", vision.raw.get("hidden_size")))
        if values.shape != (width, 3, 2, side, side):
            raise ValueError("the patches are not those of the config")
        return values[:, :, number]

    return of_frame


def positions(values: Array, config: Config) -> Array:
    vision = config.part("vision_config")
    if len(values) != int(vision.number("num_position_embeddings", len(values))):
        raise ValueError("the positions are not those of the config")
    return values


def third(number: int) -> Arrangement:
    def of_rows(values: Array, _config: Config) -> Array:
        if len(values) % 3:
            raise ValueError("queries, keys and values are not of the same size")
        each = len(values) // 3
        return values[number * each : (number + 1) * each]

    return of_rows


# Names


def deepstack_layer(name: str, config: Config) -> str:
    """Give projections of a layer's states the layer's number, instead of their own."""
    match = DEEPSTACK.fullmatch(name)
    taken = _deepstack(config.part("vision_config")) if match else []
    if match is None or int(match[1]) >= len(taken):
        return name
    return f"visual.deepstack.{taken[int(match[1])]}.{match[2]}"


VISUAL = r"(?:model\.)?visual\."
LAYER = VISUAL + r"blocks\.(\d+)\."
BOTH = r"\.(weight|bias)"
PATCHES = Rule(
    VISUAL + r"patch_embed\.proj\.weight",
    (
        Part("v.patch_embd.weight", arrange=frame(0), dimensions=4),
        Part("v.patch_embd.weight.1", arrange=frame(1), dimensions=4),
    ),
)
IN_LAYERS = (
    renamed(LAYER + r"norm([12])" + BOTH, r"v.blk.\1.ln\2.\3"),
    renamed(LAYER + r"attn\.proj" + BOTH, r"v.blk.\1.attn_out.\2"),
)
QWEN3_VISION = ProjectorRow(
    qwen3_metadata,
    (
        PATCHES,
        *IN_LAYERS,
        renamed(LAYER + r"attn\.qkv" + BOTH, r"v.blk.\1.attn_qkv.\2"),
        renamed(LAYER + r"mlp\.linear_fc1" + BOTH, r"v.blk.\1.ffn_up.\2"),
        renamed(LAYER + r"mlp\.linear_fc2" + BOTH, r"v.blk.\1.ffn_down.\2"),
        renamed(VISUAL + r"patch_embed\.proj\.bias", "v.patch_embd.bias"),
        renamed(VISUAL + r"pos_embed\.weight", "v.position_embd.weight", arrange=positions),
        renamed(VISUAL + r"merger\.norm" + BOTH, r"v.post_ln.\1"),
        renamed(VISUAL + r"merger\.linear_fc1" + BOTH, r"mm.0.\1"),
        renamed(VISUAL + r"merger\.linear_fc2" + BOTH, r"mm.2.\1"),
        renamed(
            VISUAL + r"deepstack\.(\d+)\.(?:linear_)?(norm|fc1|fc2)" + BOTH, r"v.deepstack.\1.\2.\3"
        ),
    ),
    layers,
    (
        "v.patch_embd.weight",
        "v.patch_embd.bias",
        "v.position_embd.weight",
        *(
            f"{name}.{kind}"
            for name in ("v.post_ln", "mm.0", "mm.2")
            for kind in ("weight", "bias")
        ),
    ),
    rename=deepstack_layer,
)
QWEN2_RULES = (
    PATCHES,
    *IN_LAYERS,
    Rule(
        LAYER + r"attn\.qkv" + BOTH,
        tuple(Part(rf"v.blk.\1.attn_{one}.\2", arrange=third(i)) for i, one in enumerate("qkv")),
    ),
    renamed(VISUAL + r"merger\.ln_q" + BOTH, r"v.post_ln.\1"),
    renamed(VISUAL + r"merger\.mlp\.([02])" + BOTH, r"mm.\1.\2"),
)
QWEN2_NEEDED = (
    "v.patch_embd.weight",
    "v.post_ln.weight",
    *(f"mm.{number}.{kind}" for number in (0, 2) for kind in ("weight", "bias")),
)
QWEN2_VISION = ProjectorRow(
    qwen2_metadata,
    (
        *QWEN2_RULES,
        renamed(LAYER + r"mlp\.fc1" + BOTH, r"v.blk.\1.ffn_up.\2"),
        renamed(LAYER + r"mlp\.fc2" + BOTH, r"v.blk.\1.ffn_down.\2"),
    ),
    layers,
    QWEN2_NEEDED,
)
QWEN2_5_VISION = ProjectorRow(
    qwen2_5_metadata,
    (
        *QWEN2_RULES,
        renamed(LAYER + r"mlp\.(gate|up|down)_proj" + BOTH, r"v.blk.\1.ffn_\2.\3"),
    ),
    layers,
    QWEN2_NEEDED,
)
