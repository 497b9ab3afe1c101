"""snugfit convert: towers as a projector file, and tokenizers whose split the user must name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from folders import write_folder
from tiny import tiny_model
from transformers import AutoConfig, AutoModelForImageTextToText

from snugfit.cli.main import main
from snugfit.formats.gguf import read_gguf

TEXT = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "layer_types": ["full_attention"],
}
VISION = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2}
VISION |= {"out_hidden_size": 64, "num_position_embeddings": 16, "patch_size": 4}
COLOURS = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "seeing"
    config = AutoConfig.for_model("qwen3_5", text_config=TEXT, vision_config=VISION)
    model = AutoModelForImageTextToText.from_config(config)
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(COLOURS))
    return folder


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model whose tokenizer splits text as no pre-tokenizer of llama.cpp does."""
    folder = write_folder(tmp_path_factory.mktemp("model") / "odd", tiny_model("qwen3"))
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] += "|oddly"
    path.write_text(json.dumps(tokenizer))
    return folder


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    status = main([*map(str, arguments), "--json"])
    shown = capsys.readouterr()
    assert status == 0, shown.err
    return json.loads(shown.out)


def fails(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 1) -> str:
    assert main([*map(str, arguments)]) == status
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.strip().splitlines()) == 1, shown.err
    return shown.err


# Type that is asked for -> those of matrices and of patches.
TYPES = {
    "": ("BF16", "F32"),
    "bf16": ("BF16", "F32"),
    "f16": ("F16", "F16"),
    "f32": ("F32", "F32"),
    "q8_0": ("Q8_0", "F32"),
}


@pytest.mark.parametrize("name", TYPES)
def test_a_projector_has_the_types_that_the_converter_gives(
    capsys: pytest.CaptureFixture[str], towers: Path, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "mmproj.gguf"
    asked = ["convert", towers, "--mmproj", "-o", out, *(["--outtype", name] if name else [])]
    planned = run_json(capsys, *asked, "--dry-run")
    assert not out.exists()
    made = run_json(capsys, *asked)
    assert made["mix"] == planned["mix"] == (name.upper() or "BF16")
    assert made["file_bytes"] == planned["file_bytes"] == out.stat().st_size
    tensors = read_gguf(out).tensors
    matrices, patches = TYPES[name]
    assert tensors["v.blk.1.attn_qkv.weight"].type_name == matrices
    assert tensors["v.patch_embd.weight.1"].type_name == patches
    assert tensors["v.position_embd.weight"].type_name == "F32"
    assert {name: tensor.type_name for name, tensor in tensors.items()} == planned["types"]


def test_what_comes_next_counts_the_projector(
    capsys: pytest.CaptureFixture[str], towers: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mmproj.gguf"
    assert main(["convert", str(towers), "--mmproj", "-o", str(out)]) == 0
    shown = capsys.readouterr()
    assert f"--mmproj {out}" in " ".join((shown.out + shown.err).split())
    said = run_json(capsys, "memory", "demo", "--mmproj", out)
    held = sum(tensor.size_bytes for tensor in read_gguf(out).tensors.values())
    assert said["projector_bytes"] == held
    for command in ("inspect", "memory", "plan"):
        said = fails(capsys, command, out)
        assert "is a projector" in said and f"--mmproj {out}" in said


def test_no_projector_is_one_line(
    capsys: pytest.CaptureFixture[str], towers: Path, odd: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mmproj.gguf"
    for wrong, named, status in (
        ((odd, "--mmproj", "-o", out), "no projector of a Qwen3ForCausalLM", 1),
        (("demo", "--mmproj", "-o", out), "no projector of a Qwen3ForCausalLM", 1),
        ((tmp_path / "none", "--mmproj", "-o", out), "no such directory", 1),
        ((towers / "config.json", "--mmproj", "-o", out), "is a file", 1),
        ((towers, "--mmproj"), "say which file", 2),
        ((towers, "--mmproj", "-o", out, "--type", "q4_k"), "BF16, F16, F32, Q8_0", 2),
        ((towers, "--mmproj", "-o", out, "--pre", "qwen2"), "no --pre", 2),
        ((towers, "--mmproj", "-o", out, "--split-max-tensors", "3"), "no --split", 2),
    ):
        assert named in fails(capsys, "convert", *wrong, status=status)
    assert not out.exists()


def test_a_split_that_is_not_known_can_be_named(
    capsys: pytest.CaptureFixture[str], odd: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.gguf"
    words: dict[str, tuple[object, ...]] = {
        "convert": (odd, "-o", out),
        "quantize": (odd, out, "Q8_0"),
        "fit": (odd, "-o", out, "--like", "F16", "--ctx", 64, "--no-score"),
    }
    for command, given in words.items():
        said = fails(capsys, command, *given)
        assert "--pre NAME" in said and command in said
        assert "knows no such" in fails(capsys, command, *given, "--pre", "qwen2x")
        run_json(capsys, command, *given, "--pre", "qwen2")
        assert read_gguf(out).metadata["tokenizer.ggml.pre"] == "qwen2"
        out.unlink()
    assert main(["convert", str(odd), "-o", str(out), "--pre", "qwen2"]) == 0
    capsys.readouterr()
    again = tmp_path / "again.gguf"
    said = fails(capsys, "quantize", out, again, "Q8_0", "--pre", "tekken", status=2)
    assert "--override-kv tokenizer.ggml.pre=str:tekken" in said
