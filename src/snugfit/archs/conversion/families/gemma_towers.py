"""Gemma's towers for pictures and sound."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from snugfit.archs.conversion.config import Config
from snugfit.archs.conversion.families.gemma import TANH, plus_one
from snugfit.archs.conversion.rules import Array, Part, ProjectorRow, Rule
from snugfit.errors import FormatError

ANY_SIZE = 224  # what towers for pictures of any size are said to take; nobody reads it
MEL_BINS = 128


# Keys


def gemma3_metadata(config: Config) -> dict[str, Any]:
    vision = config.part("vision_config")
    vision.require(hidden_act=(TANH, None))
    size, patch = int(vision.number("image_size")), int(vision.number("patch_size"))
    tokens = math.isqrt(int(config.number("mm_tokens_per_image", 256)))
    keys = _of_pictures(config, vision) | {
        "clip.projector_type": "gemma3",
        "clip.use_gelu": True,
        "clip.vision.image_size": size,
        "clip.vision.attention.layer_norm_epsilon": float(vision.number("layer_norm_eps", 1e-6)),
    }
    pooled = size // max(patch, 1) // max(tokens, 1)
    if pooled == 0:
        raise FormatError(
            f"{config.folder}/config.json: {tokens} tokens a side of {size} pixels cannot be right."
        )
    return keys | ({} if pooled == 4 else {"clip.vision.projector.scale_factor": pooled})


def gemma4_metadata(config: Config) -> dict[str, Any]:
    vision = config.part("vision_config")
    vision.require(
        hidden_activation=(TANH,), num_key_value_heads=(vision.heads,), attention_bias=(False, None)
    )
    if isinstance(rope := vision.raw.get("rope_parameters"), Mapping):
        Config(config.folder, rope).require(rope_theta=(100.0,))
    keys = _of_pictures(config, vision) | {
        "clip.vision.projector_type": "gemma4v",
        # llama.cpp's own converter leaves it out, and an approximation by a sigmoid runs.
        "clip.use_gelu": True,
        "clip.vision.image_size": ANY_SIZE,
        "clip.vision.attention.layer_norm_epsilon": float(vision.number("rms_norm_eps", 1e-6)),
    }
    return keys | _pooling(vision) | (_of_sound(config) if _hears(config) else {})


def _pooling(vision: Config) -> dict[str, Any]:
    pooled = int(vision.number("pooling_kernel_size", 3))
    return {} if pooled == 3 else {"clip.vision.projector.scale_factor": pooled}


def gemma4_unified_metadata(config: Config) -> dict[str, Any]:
    """Keys of towers without layers: patches and stretches of sound are projected as they are."""
    vision, audio = config.part("vision_config"), config.part("audio_config")
    sizes = {"vision": vision.number("mm_embed_dim"), "audio": audio.number("audio_embed_dim")}
    keys: dict[str, Any] = _common(config, vision)
    for kind, size in sizes.items():
        keys |= {
            f"clip.has_{kind}_encoder": True,
            f"clip.{kind}.projection_dim": config.hidden_size,
            f"clip.{kind}.embedding_length": int(size),
            f"clip.{kind}.feed_forward_length": 0,
            f"clip.{kind}.block_count": 0,
            f"clip.{kind}.attention.head_count": 0,
            f"clip.{kind}.attention.layer_norm_epsilon": 1e-6,
        }
    return (
        keys
        | _pooling(vision)
        | {
            "clip.vision.projector_type": "gemma4uv",
            "clip.vision.image_size": ANY_SIZE,
            "clip.audio.projector_type": "gemma4ua",
            "clip.audio.num_mel_bins": MEL_BINS,
        }
    )


def _common(config: Config, vision: Config) -> dict[str, Any]:
    return {
        "clip.vision.patch_size": int(vision.number("patch_size")),
        "clip.vision.image_mean": colours(config, "image_mean"),
        "clip.vision.image_std": colours(config, "image_std"),
    }


def _of_pictures(config: Config, vision: Config) -> dict[str, Any]:
    return _common(config, vision) | _of_encoder(config, vision, "vision")


def _of_encoder(config: Config, tower: Config, kind: str) -> dict[str, Any]:
    hidden = tower.hidden_size
    return {
        f"clip.has_{kind}_encoder": True,
        f"clip.{kind}.projection_dim": config.hidden_size,
        f"clip.{kind}.embedding_length": hidden,
        f"clip.{kind}.feed_forward_length": int(tower.number("intermediate_size", 4 * hidden)),
        f"clip.{kind}.block_count": tower.layers,
        f"clip.{kind}.attention.head_count": tower.heads,
    }


def _of_sound(config: Config) -> dict[str, Any]:
    audio = config.part("audio_config")
    # llama.cpp has these as constants.
    audio.require(
        attention_chunk_size=(12,),
        attention_context_left=(13,),
        attention_context_right=(0,),
        attention_logit_cap=(50.0,),
        residual_weight=(0.5,),
        rms_norm_eps=(1e-6,),
        hidden_act=("silu",),
    )
    return _of_encoder(config, audio, "audio") | {
        "clip.audio.projector_type": "gemma4a",
        "clip.audio.num_mel_bins": int(audio.number("input_feat_size", MEL_BINS)),
        "clip.audio.attention.layer_norm_epsilon": 1e-6,
    }


def _hears(config: Config) -> bool:
    return bool(config.outer.get("audio_config"))


def colours(config: Config, key: str) -> list[float]:
    found = config.outer.get("image_processor")
    values = found.get(key) if isinstance(found, Mapping) else None
    if not isinstance(values, list) or len(values) != 3 or not all(map(_is_finite, values)):
        raise FormatError(
            f"{config.folder}: no {key} of three colours in preprocessor_config.json or "
            "processor_config.json. Download them too."
        )
    return [float(one) for one in values]


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def layers(config: Config) -> dict[str, Sequence[int]]:
    found: dict[str, Sequence[int]] = {"v.blk.": range(config.part("vision_config").layers)}
    return found | ({"a.blk.": range(config.part("audio_config").layers)} if _hears(config) else {})


def no_layers(_config: Config) -> dict[str, Sequence[int]]:
    return {}


# Where values go


def patches(values: Array, _config: Config) -> Array:
    """See the rows of a projection of patches, colours last, as convolutions: colours first."""
    side = math.isqrt(values.shape[1] // 3)
    return values.reshape(len(values), side, side, 3).transpose(0, 3, 1, 2)


def flat_patches(values: Array, config: Config) -> Array:
    return patches(values, config).reshape(len(values), -1)


def flat_patch(values: Array, config: Config) -> Array:
    return flat_patches(values[None], config).reshape(-1)


def halves_first(values: Array, _config: Config) -> Array:
    return values.transpose(1, 0, 2)


def without_middle(values: Array, _config: Config) -> Array:
    return values.reshape(values.shape[0], values.shape[2])


def as_vector(values: Array, _config: Config) -> Array:
    return values.reshape(1)


def softplus(values: Array) -> Array:
    softened: Array = np.logaddexp(np.float32(0), values, dtype=np.float32)
    return softened


def finite(values: Array) -> Array:
    """Say of limits that are none what llama.cpp takes where there are none."""
    limited: Array = np.nan_to_num(values, nan=np.nan)
    return limited


# Names

SIGLIP = {
    "layer_norm1": "ln1",
    "layer_norm2": "ln2",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}
GEMMA4_VISION = {
    "input_layernorm": "ln1",
    "post_attention_layernorm": "attn_post_norm",
    "pre_feedforward_layernorm": "ln2",
    "post_feedforward_layernorm": "ffn_post_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_out",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GEMMA4_AUDIO = {
    "feed_forward1.pre_layer_norm": "ffn_norm",
    "feed_forward1.ffw_layer_1": "ffn_up",
    "feed_forward1.ffw_layer_2": "ffn_down",
    "feed_forward1.post_layer_norm": "ffn_post_norm",
    "feed_forward2.pre_layer_norm": "ffn_norm_1",
    "feed_forward2.ffw_layer_1": "ffn_up_1",
    "feed_forward2.ffw_layer_2": "ffn_down_1",
    "feed_forward2.post_layer_norm": "ffn_post_norm_1",
    "norm_pre_attn": "attn_pre_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.post": "attn_out",
    "self_attn.relative_k_proj": "attn_k_rel",
    "norm_post_attn": "attn_post_norm",
    # llama.cpp has the names of these two exchanged.
    "lconv1d.pre_layer_norm": "conv_norm",
    "lconv1d.conv_norm": "norm_conv",
    "lconv1d.linear_start": "conv_pw1",
    "lconv1d.linear_end": "conv_pw2",
    "norm_out": "ln2",
}
LIMITS = r"(?:input|output)_(?:min|max)"  # of what goes in and out of a matrix


def of_layers(stored: str, names: Mapping[str, str], tower: str) -> Iterator[Rule]:
    for name, short in names.items():
        escaped = stored + r"layers\.(\d+)\." + name.replace(".", r"\.")
        target = rf"{tower}.blk.\1.{short}.\2"
        yield Rule(escaped + r"\.(?:linear\.)?(weight|bias)", (Part(target),))
        yield Rule(escaped + rf"\.({LIMITS})", (Part(target, as_vector, finite),))


def renamed(stored: str, name: str, **how: Any) -> Rule:
    return Rule(stored, (Part(name, **how),))


NEEDED = ("v.patch_embd.weight", "v.position_embd.weight", "mm.input_projection.weight")
SIGLIP_TOWER = r"(?:model\.)?vision_tower\.(?:vision_model\.)?"
GEMMA3 = ProjectorRow(
    gemma3_metadata,
    (
        *of_layers(SIGLIP_TOWER + r"encoder\.", SIGLIP, "v"),
        renamed(SIGLIP_TOWER + r"embeddings\.patch_embedding\.(weight|bias)", r"v.patch_embd.\1"),
        renamed(SIGLIP_TOWER + r"embeddings\.position_embedding\.weight", "v.position_embd.weight"),
        renamed(SIGLIP_TOWER + r"post_layernorm\.(weight|bias)", r"v.post_ln.\1"),
        Rule(SIGLIP_TOWER + r"head\..+"),  # of classifiers
        renamed(
            r"(?:model\.)?multi_modal_projector\.mm_input_projection[._]weight",
            "mm.input_projection.weight",
        ),
        renamed(
            r"(?:model\.)?multi_modal_projector\.mm_soft_emb_norm\.weight",
            "mm.soft_emb_norm.weight",
            compute=plus_one,
        ),
    ),
    layers,
    (*NEEDED, "v.post_ln.weight", "mm.soft_emb_norm.weight"),
)
AUDIO = r"model\.audio_tower\."
EMBEDDED = (
    renamed(r"model\.embed_vision\.embedding_projection\.weight", "mm.input_projection.weight"),
    renamed(r"model\.embed_audio\.embedding_projection\.weight", "mm.a.input_projection.weight"),
)
GEMMA4 = ProjectorRow(
    gemma4_metadata,
    (
        *of_layers(r"model\.vision_tower\.encoder\.", GEMMA4_VISION, "v"),
        *of_layers(AUDIO, GEMMA4_AUDIO, "a"),
        *EMBEDDED,
        renamed(
            r"model\.vision_tower\.patch_embedder\.input_proj\.weight",
            "v.patch_embd.weight",
            arrange=patches,
            dimensions=4,
        ),
        renamed(
            r"model\.vision_tower\.patch_embedder\.position_embedding_table",
            "v.position_embd.weight",
        ),
        renamed(r"model\.vision_tower\.(std_bias|std_scale)", r"v.\1"),
        renamed(
            AUDIO + r"layers\.(\d+)\.self_attn\.per_dim_scale",
            r"a.blk.\1.per_dim_scale.weight",
            compute=softplus,
        ),
        renamed(
            AUDIO + r"layers\.(\d+)\.lconv1d\.depthwise_conv1d\.weight",
            r"a.blk.\1.conv_dw.weight",
            arrange=without_middle,
            whole=True,
        ),
        renamed(
            AUDIO + r"subsample_conv_projection\.layer(\d)\.conv\.weight", r"a.conv1d.\1.weight"
        ),
        renamed(
            AUDIO + r"subsample_conv_projection\.layer(\d)\.norm\.weight",
            r"a.conv1d.\1.norm.weight",
        ),
        renamed(
            AUDIO + r"subsample_conv_projection\.input_proj_linear\.weight",
            "a.input_projection.weight",
        ),
        renamed(AUDIO + r"output_proj\.(weight|bias)", r"a.pre_encode.out.\1"),
    ),
    layers,
    NEEDED,
)
EMBEDDER = r"model\.vision_embedder\."
GEMMA4_UNIFIED = ProjectorRow(
    gemma4_unified_metadata,
    (
        *EMBEDDED,
        renamed(EMBEDDER + r"patch_dense\.weight", "v.patch_embd.weight", arrange=flat_patches),
        renamed(EMBEDDER + r"patch_dense\.bias", "v.patch_embd.bias"),
        renamed(EMBEDDER + r"patch_ln1\.(weight|bias)", r"v.patch_norm.1.\1", arrange=flat_patch),
        renamed(EMBEDDER + r"patch_ln2\.(weight|bias)", r"v.patch_norm.2.\1"),
        renamed(EMBEDDER + r"pos_norm\.(weight|bias)", r"v.patch_norm.3.\1"),
        renamed(
            EMBEDDER + r"pos_embedding",
            "v.position_embd.weight",
            arrange=halves_first,
            whole=True,
        ),
    ),
    no_layers,
    NEEDED,
)
