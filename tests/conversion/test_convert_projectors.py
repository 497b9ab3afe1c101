"""Towers of Gemma as mmproj files: what llama.cpp makes of a picture is what torch makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from agreement import RECORDS, check_agreement, randomized, write_model
from picture_embeddings import picture_embeddings
from safetensors.torch import load_file, save_file
from test_convert_gemma import SIZES as SIZES_3
from test_convert_gemma import VOCABULARY
from test_convert_gemma4 import SIZES as SIZES_4

from snugfit.archs.conversion.projectors import projector_types
from snugfit.errors import FormatError, UnsupportedError
from snugfit.mixes import types_of_mix
from snugfit.models import Model, open_model, open_projector
from snugfit.quantize import quantize

SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION_4 = SMALL | {
    "intermediate_size": 96,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "position_embedding_size": 64,
}
AUDIO_4 = SMALL | {"output_proj_dims": 48, "subsampling_conv_channels": [8, 4]}


def gemma3() -> Any:
    text = SIZES_3 | {"num_hidden_layers": 6, "query_pre_attn_scalar": 32, "sliding_window": 16}
    vision = SMALL | {"intermediate_size": 96, "image_size": 112, "patch_size": 14}
    return transformers.Gemma3ForConditionalGeneration(
        transformers.Gemma3Config(
            text_config=transformers.Gemma3TextConfig(**text),
            vision_config=transformers.SiglipVisionConfig(**vision, vision_use_head=False),
            mm_tokens_per_image=4,
        )
    )


def gemma4(**own: Any) -> Any:
    text = SIZES_4 | {"hidden_size_per_layer_input": 16, "num_kv_shared_layers": 2}
    return transformers.Gemma4ForConditionalGeneration(
        transformers.Gemma4Config(
            text_config=transformers.Gemma4TextConfig(**text),
            vision_config=transformers.Gemma4VisionConfig(**VISION_4, **own),
            audio_config=transformers.Gemma4AudioConfig(**AUDIO_4),
        )
    )


def gemma4_unified() -> Any:
    text = {key: value for key, value in SIZES_4.items() if "per_layer" not in key}
    vision = {"mm_embed_dim": 64, "mm_posemb_size": 16, "output_proj_dims": 64}
    return transformers.Gemma4UnifiedForConditionalGeneration(
        transformers.Gemma4UnifiedConfig(
            text_config=transformers.Gemma4UnifiedTextConfig(**text),
            vision_config=transformers.Gemma4UnifiedVisionConfig(**vision),
            audio_config=transformers.Gemma4UnifiedAudioConfig(audio_embed_dim=32),
        )
    )


MODELS = {
    "gemma3": gemma3,
    "gemma4": gemma4,
    "gemma4-limits": lambda: gemma4(standardize=True, use_clipped_linears=True),
    "gemma4-unified": gemma4_unified,
}
RECORD_OPTIONS = ["--mmproj"]


def written(folder: Path, kind: str) -> tuple[Path, Any]:
    model = MODELS[kind]()
    randomized(model)
    with torch.no_grad():
        for name, values in model.named_buffers():
            if name.endswith(("std_scale", "std_bias")):
                values.uniform_(0.5, 1.5)
            if name.endswith(("input_min", "output_min")) and "layers.0" in name:
                values.fill_(-1.5)
            if name.endswith(("input_max", "output_max")) and "layers.0" in name:
                values.fill_(1.25)
    write_model(folder, model)
    if kind == "gemma3":
        name_as_published(folder)
    colours = [0.5] * 3 if kind == "gemma3" else [0.0] * 3
    deviation = [0.5] * 3 if kind == "gemma3" else [1.0] * 3
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": colours, "image_std": deviation, "image_seq_length": 4})
    )
    return folder, model


def name_as_published(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = {
        name.replace("vision_tower.", "vision_tower.vision_model."): values
        for name, values in load_file(path).items()
    }
    save_file(tensors, path, {"format": "pt"})


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def patches(pixels: np.ndarray, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return patches [1, patches, side x side x 3] and where they are, as (x, y)."""
    down, across = pixels.shape[0] // side, pixels.shape[1] // side
    cut = pixels.reshape(down, side, across, side, 3).swapaxes(1, 2)
    places = [(x, y) for y in range(down) for x in range(across)]
    values = torch.tensor(cut.reshape(1, down * across, -1))
    return values, torch.tensor([places])


def torch_tokens(kind: str, model: Any, pixels: np.ndarray) -> np.ndarray:
    scaled = pixels.astype(np.float32) / 255
    with torch.no_grad():
        if kind == "gemma3":
            values = torch.tensor((scaled - 0.5) / 0.5).permute(2, 0, 1)[None]
            found = model.get_image_features(values).pooler_output
        else:
            side = 48 if kind == "gemma4-unified" else 16
            values, places = patches(scaled, side)
            found = model.get_image_features(values, places).pooler_output
    found = found[0] if isinstance(found, tuple | list) else found
    return found.reshape(-1, found.shape[-1]).float().numpy()


def written_projector(folder: Path, type_name: str) -> Path:
    opened = open_projector(str(folder))
    path = folder / f"mmproj-{type_name}.gguf"
    types = projector_types(opened.metadata, opened.shapes, type_name)
    done = quantize(opened, path, types, mix=type_name)
    assert done.file_bytes == path.stat().st_size
    return path


@pytest.mark.parametrize("kind", MODELS)
def test_llama_cpp_and_torch_see_the_same(tmp_path: Path, kind: str) -> None:
    folder, model = written(tmp_path / kind, kind)
    projector = written_projector(folder, "F32")
    opened = open_model(str(folder))
    text = folder / "text.gguf"
    quantize(opened, text, types_of_mix(opened, "F16"), mix="F16")
    pixels = picture(112, 112) if kind == "gemma3" else picture(384, 480)
    expected, found = torch_tokens(kind, model, pixels), picture_embeddings(text, projector, pixels)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 2e-3 * np.abs(expected).max()


@pytest.mark.parametrize("kind", MODELS)
def test_names_shapes_types_and_keys_are_those_of_the_converter(tmp_path: Path, kind: str) -> None:
    folder, _ = written(tmp_path / kind, kind)
    opened = open_projector(str(folder))
    if kind.startswith("gemma4") and kind != "gemma4-unified":
        assert opened.metadata.pop("clip.use_gelu")  # see gemma4_metadata
    check_projector_record(opened, kind)


def check_projector_record(opened: Model, kind: str) -> None:
    record = json.loads((RECORDS / "projectors.json").read_text())[kind]
    types = projector_types(opened.metadata, opened.shapes, "BF16")
    found = {name: [list(shape), types[name]] for name, shape in opened.shapes.items()}
    assert found == record["tensors"]
    keys = {key: value for key, value in opened.metadata.items() if key.startswith("clip.")}
    assert opened.metadata["general.architecture"] == record["keys"].pop("general.architecture")
    assert keys.keys() == record["keys"].keys()
    for key, value in record["keys"].items():
        assert keys[key] == (value if isinstance(value, str) else pytest.approx(value)), key


@pytest.mark.parametrize("kind", ["gemma3", "gemma4", "gemma4-unified"])
def test_the_language_model_beside_towers_agrees(tmp_path: Path, kind: str) -> None:
    folder, model = written(tmp_path / kind, kind)
    check_agreement(folder, model, mix="F32", vocabulary=VOCABULARY)


def test_what_is_no_projector_is_one_line(tmp_path: Path) -> None:
    folder, _ = written(tmp_path / "folder", "gemma4")
    tensors = load_file(folder / "model.safetensors")

    def refused(named: str) -> None:
        with pytest.raises((FormatError, UnsupportedError), match=named) as caught:
            open_projector(str(folder))
        assert "\n" not in str(caught.value)

    for missing, named in (
        ("model.vision_tower.encoder.layers.1.mlp.up_proj.linear.weight", "v.blk.1 are missing"),
        ("model.vision_tower.patch_embedder.input_proj.weight", "v.patch_embd.weight is missing"),
        ("model.audio_tower.layers.0.norm_out.weight", "a.blk.1 are missing"),
    ):
        rest = {name: values for name, values in tensors.items() if name != missing}
        save_file(rest, folder / "model.safetensors", {"format": "pt"})
        refused(named)
    save_file(
        tensors | {"model.vision_tower.more.weight": torch.zeros(2)}, folder / "model.safetensors"
    )
    refused("more.weight has no place")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    original = json.loads((folder / "config.json").read_text())
    for changes, named in (
        ({"architectures": ["LlamaForCausalLM"]}, "no projector of a LlamaForCausalLM"),
        ({"architectures": None}, "no projector"),
        ({"vision_config": None}, "has no vision_config"),
        ({"vision_config": original["vision_config"] | {"num_hidden_layers": 3}}, "v.blk.2"),
        ({"vision_config": original["vision_config"] | {"num_hidden_layers": 2**39}}, "layers"),
        ({"vision_config": original["vision_config"] | {"hidden_activation": "silu"}}, "silu"),
        ({"audio_config": original["audio_config"] | {"attention_chunk_size": 8}}, "chunk_size"),
    ):
        (folder / "config.json").write_text(json.dumps(original | changes))
        refused(named)
    (folder / "config.json").write_text(json.dumps(original))
    (folder / "preprocessor_config.json").write_text('{"image_mean": [1, null, 2]}')
    refused("no image_mean of three colours")
