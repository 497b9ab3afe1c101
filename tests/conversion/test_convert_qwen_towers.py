"""Towers of Qwen as mmproj files: what llama.cpp makes of a picture is what torch makes of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agreement import changed_config, check_same, randomized, rewritten_tensors, write_model
from picture_embeddings import picture_embeddings
from test_convert_delta_net import EXPERTS, NESTED, with_states
from test_convert_projectors import check_projector_record, picture, written_projector
from test_convert_qwen import ROPE_2, SIZES, TEXT_3
from transformers import AutoConfig, AutoModelForImageTextToText

from snugfit.archs.conversion.config import Config
from snugfit.archs.conversion.projectors import projector_of
from snugfit.errors import FormatError, UnsupportedError
from snugfit.mixes import types_of_mix
from snugfit.models import open_model, open_projector
from snugfit.quantize import quantize

SMALL = {"hidden_size": 64, "num_heads": 4, "out_hidden_size": 256}
VISION_3 = SMALL | {"depth": 2, "intermediate_size": 96, "num_position_embeddings": 36}
VISION_2_5 = SMALL | {"depth": 4, "intermediate_size": 96, "fullatt_block_indexes": [1, 3]}
VISION_2 = {"depth": 3, "embed_dim": 64, "hidden_size": 256, "num_heads": 4, "mlp_ratio": 2}
TEXT_2 = {**SIZES, "rope_parameters": ROPE_2}
DEEPSTACK = {"depth": 3, "deepstack_visual_indexes": [0, 2]}
# Kind -> transformers' type of the model, its language model, its tower.
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "qwen3.5": ("qwen3_5", NESTED, VISION_3),
    "qwen3.5-moe": ("qwen3_5_moe", {**NESTED, **EXPERTS}, VISION_3),
    "qwen3-vl": ("qwen3_vl", TEXT_3, VISION_3 | DEEPSTACK),
    "qwen2.5-vl": ("qwen2_5_vl", TEXT_2, VISION_2_5),
    "qwen2-vl": ("qwen2_vl", TEXT_2, VISION_2),
}
RECORD_OPTIONS = ["--mmproj"]
PATCH = {"qwen2.5-vl": 14, "qwen2-vl": 14}


def written(folder: Path, kind: str) -> tuple[Path, Any]:
    model_type, text, vision = MODELS[kind]
    config = AutoConfig.for_model(model_type, text_config=text, vision_config=vision)
    weighted = with_states if kind.startswith("qwen3.5") else randomized
    model = weighted(AutoModelForImageTextToText.from_config(config))
    write_model(folder, model)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5, 0.4, 0.5], "image_std": [0.5, 0.5, 0.25]})
    )
    return folder, model


def patches(pixels: np.ndarray, side: int) -> torch.Tensor:
    """Return patches [all, 3 x 2 frames x side x side], those of each 2 x 2 one after another."""
    values = (pixels.astype(np.float32) / 255 - [0.5, 0.4, 0.5]) / [0.5, 0.5, 0.25]
    down, across = pixels.shape[0] // side // 2, pixels.shape[1] // side // 2
    cut = values.reshape(down, 2, side, across, 2, side, 3).transpose(0, 3, 1, 4, 6, 2, 5)
    cut = cut.reshape(-1, 3, 1, side, side).repeat(2, axis=2)
    return torch.tensor(cut.reshape(len(cut), -1), dtype=torch.float32)


def torch_tokens(model: Any, pixels: np.ndarray, side: int) -> np.ndarray:
    grid = torch.tensor([[1, pixels.shape[0] // side, pixels.shape[1] // side]])
    with torch.no_grad():
        found = model.model.get_image_features(patches(pixels, side), grid)
    of_layers = getattr(found, "deepstack_features", None) or ()
    tokens = [torch.cat(list(of_pictures)) for of_pictures in (found.pooler_output, *of_layers)]
    return torch.cat(tokens, -1).float().numpy()


@pytest.mark.parametrize("kind", MODELS)
def test_llama_cpp_and_torch_see_the_same(tmp_path: Path, kind: str) -> None:
    folder, model = written(tmp_path / kind, kind)
    projector = written_projector(folder, "F32")
    opened = open_model(str(folder))
    text = folder / "text.gguf"
    quantize(opened, text, types_of_mix(opened, "F16"), mix="F16")
    side = PATCH.get(kind, 16)
    pixels = picture(10 * side, 14 * side)
    expected, found = torch_tokens(model, pixels, side), picture_embeddings(text, projector, pixels)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 2e-3 * np.abs(expected).max()


@pytest.mark.parametrize("kind", MODELS)
def test_names_shapes_types_and_keys_are_those_of_the_converter(tmp_path: Path, kind: str) -> None:
    folder, _ = written(tmp_path / kind, kind)
    opened = open_projector(str(folder))
    if kind == "qwen2-vl":  # the converter says the width of the language model; nobody reads it
        assert opened.metadata["clip.vision.feed_forward_length"] == 128
        opened.metadata["clip.vision.feed_forward_length"] = 256
    check_projector_record(opened, kind)


def test_frames_keep_their_order(tmp_path: Path) -> None:
    """A picture is the same frame twice: what it looks like does not tell them apart."""
    folder, model = written(tmp_path / "qwen3-vl", "qwen3-vl")
    opened = open_projector(str(folder))
    stored = model.model.visual.patch_embed.proj.weight.detach().numpy()
    for frame, name in enumerate(("v.patch_embd.weight", "v.patch_embd.weight.1")):
        assert np.array_equal(opened.load(name), stored[:, :, frame])


# Published towers: class, width of the language model, and what is not the class's default.
SMALLER = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096}
PUBLISHED: dict[str, tuple[str, int, dict[str, Any]]] = {
    "Qwen3.6-27B": ("Qwen3_5ForConditionalGeneration", 5120, {}),
    "Qwen3.6-35B-A3B": ("Qwen3_5MoeForConditionalGeneration", 2048, {}),
    "Qwen3-VL-4B": (
        "Qwen3VLForConditionalGeneration",
        2560,
        SMALLER | {"deepstack_visual_indexes": [5, 11, 17]},
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_keys_of_published_towers(name: str) -> None:
    model_class, width, own = PUBLISHED[name]
    vision = AutoConfig.for_model("qwen3_5").vision_config.to_dict()
    vision |= {"out_hidden_size": width, "deepstack_visual_indexes": []} | own
    outer = {
        "text_config": {"hidden_size": width},
        "vision_config": vision,
        "architectures": [model_class],
        "image_processor": {"image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    }
    config = Config(name, outer)
    keys = projector_of(config).metadata(config)
    assert keys["clip.vision.image_size"] == 768
    assert keys["clip.vision.projection_dim"] == width
    taken = [number for number, one in enumerate(keys["clip.vision.is_deepstack_layers"]) if one]
    assert taken == vision["deepstack_visual_indexes"]
    assert len(keys["clip.vision.is_deepstack_layers"]) == keys["clip.vision.block_count"]
    assert keys["clip.vision.block_count"] == own.get("depth", 27)


@pytest.mark.parametrize("kind", ["qwen3-vl", "qwen2.5-vl"])
def test_names_of_older_and_newer_files_are_the_same(tmp_path: Path, kind: str) -> None:
    folder, _ = written(tmp_path / kind, kind)
    other = tmp_path / "other" / kind
    shutil.copytree(folder, other)

    def elsewhere(name: str) -> str:
        inner = name.removeprefix("model.")
        return name if "visual." not in name else inner if inner != name else f"model.{name}"

    rewritten_tensors(other, lambda tensors: {elsewhere(n): v for n, v in tensors.items()})
    check_same(open_projector(str(folder)), open_projector(str(other)))


def refused(folder: Path, named: str) -> None:
    with pytest.raises((FormatError, UnsupportedError), match=named) as caught:
        open_projector(str(folder))
    assert "\n" not in str(caught.value)


VISION_CHANGES: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("qwen3.5", {"depth": 3}, "v.blk.2 are missing"),
    ("qwen3.5", {"depth": 1}, "2 layers v.blk"),
    ("qwen3.5", {"depth": 2**39}, "layers cannot be right"),
    ("qwen3.5", {"hidden_size": 128}, "config.json contradicts"),
    ("qwen3.5", {"patch_size": 14}, "config.json contradicts"),
    ("qwen3.5", {"patch_size": "16"}, "not a sensible number"),
    ("qwen3.5", {"num_position_embeddings": 49}, "config.json contradicts"),
    ("qwen3.5", {"spatial_merge_size": 4}, "spatial_merge_size is 4"),
    ("qwen3.5", {"temporal_patch_size": 1}, "temporal_patch_size is 1"),
    ("qwen3.5", {"hidden_act": "silu"}, "silu"),
    ("qwen3.5", {"num_heads": 0}, "0 heads"),
    ("qwen3.5", {"num_heads": 2**39}, "heads of 64 numbers"),
    ("qwen3.5", {"num_heads": 32}, "32 heads of 64 numbers"),
    ("qwen3.5", {"out_hidden_size": 128}, "tokens of 128 numbers"),
    ("qwen3.5", {"deepstack_visual_indexes": [0]}, "v.deepstack.0 are missing"),
    ("qwen3.5", {"deepstack_visual_indexes": [2]}, "no list of the tower's layers"),
    ("qwen3.5", {"rope_parameters": {"rope_theta": 5e5}}, "rope_theta is"),
    ("qwen3-vl", {"deepstack_visual_indexes": [0]}, r"deepstack_merger_list.1.* no place"),
    ("qwen3-vl", {"deepstack_visual_indexes": [2, 0]}, "no list of the tower's layers"),
    ("qwen2.5-vl", {"fullatt_block_indexes": [0, 3]}, "every n-th of 4 layers"),
    ("qwen2.5-vl", {"fullatt_block_indexes": [1]}, "every n-th of 4 layers"),
    ("qwen2.5-vl", {"window_size": 224}, "window_size is 224"),
    ("qwen2-vl", {"embed_dim": None}, "embed_dim is None"),
)


def test_what_no_tower_is_or_llama_cpp_does_not_run_is_one_line(tmp_path: Path) -> None:
    folders = {kind: written(tmp_path / kind, kind)[0] for kind, _, _ in VISION_CHANGES}
    originals = {kind: json.loads((f / "config.json").read_text()) for kind, f in folders.items()}
    for kind, changes, named in VISION_CHANGES:
        vision = originals[kind]["vision_config"] | changes
        changed_config(folders[kind], vision_config=vision)
        refused(folders[kind], named)
    folder = folders["qwen3.5"]
    changed_config(folder, **originals["qwen3.5"] | {"vision_config": None})
    refused(folder, "has no vision_config")
    changed_config(folder, **originals["qwen3.5"] | {"architectures": ["Qwen3_5ForCausalLM"]})
    refused(folder, "no projector of a Qwen3_5ForCausalLM model")
    changed_config(folder, **originals["qwen3.5"])
    rewritten_tensors(folder, lambda all: {n: v for n, v in all.items() if "merger" not in n})
    refused(folder, "v.post_ln.weight is missing")
    rewritten_tensors(folder, lambda all: {n: v for n, v in all.items() if "visual" not in n})
    refused(folder, "the language model alone, without its towers")
