"""Files from strangers, through the command line: one clear line, exit 1, no output file."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import write_folder
from tiny import tiny_model

from snugfit.cli.main import main
from snugfit.core import TensorInfo
from snugfit.formats.gguf_writer import encode_header
from snugfit.mixes import types_of_mix
from snugfit.models import open_model
from snugfit.quantize import quantize

COUNTS_AT = 8  # tensors, then key-value pairs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("hostile") / "tiny", tiny_model("qwen3"))


@pytest.fixture(scope="module")
def sound(folder: Path) -> bytes:
    model = open_model(str(folder))
    path = folder.parent / "sound.gguf"
    quantize(model, path, types_of_mix(model, "F16"))
    return path.read_bytes()


def replaced(sound: bytes, at: int, value: bytes) -> bytes:
    return sound[:at] + value + sound[at + len(value) :]


def tensor_past_the_end(sound: bytes) -> bytes:
    metadata = {"general.architecture": "llama"}
    header = encode_header(metadata, [TensorInfo("token_embd.weight", (4096, 4096), "F32")])
    return header + b"\0" * 4096


GGUF_DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated": (lambda sound: sound[: len(sound) // 2], "truncated"),
    "cut in its header": (lambda sound: sound[:500], "bytes can hold|truncated"),
    "wrong magic": (lambda sound: replaced(sound, 0, b"PK\x03\x04"), "not a GGUF file"),
    "tensor past the end": (tensor_past_the_end, "past the end of the file"),
    "2^60 tensors": (
        lambda sound: replaced(sound, COUNTS_AT, struct.pack("<Q", 2**60)),
        "more than its",
    ),
    "2^60 keys": (
        lambda sound: replaced(sound, COUNTS_AT + 8, struct.pack("<Q", 2**60)),
        "more than its",
    ),
    "version 99": (lambda sound: replaced(sound, 4, struct.pack("<I", 99)), "version 99"),
}


def refused(capsys: pytest.CaptureFixture[str], model: Path, *options: object) -> str:
    """Quantize `model`; return the one line that refuses it."""
    out = model.parent / "out" / "small.gguf"
    out.parent.mkdir(exist_ok=True)
    words = options or ("--like", "Q8_0")
    assert main(["quantize", str(model), "-o", str(out), *map(str, words)]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.strip().splitlines()
    assert len(lines) == 1, shown.err
    assert list(out.parent.iterdir()) == []
    return lines[0]


@pytest.mark.parametrize("kind", GGUF_DAMAGE)
def test_damaged_gguf(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, sound: bytes, kind: str
) -> None:
    damage, says = GGUF_DAMAGE[kind]
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(damage(sound))
    line = refused(capsys, bad)
    assert str(bad) in line
    assert any(words in line for words in says.split("|")), line


def changed_copy(folder: Path, to: Path, change: Callable[[Path], object]) -> Path:
    shutil.copytree(folder, to)
    change(to)
    return to


def lie_in_the_header(folder: Path) -> None:
    """Claim twice as many rows for one tensor as there are bytes for."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    name = next(key for key in header if key != "__metadata__")
    header[name]["shape"][0] *= 2
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data[8 + length :])


def unknown_architecture(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["TeapotForCausalLM"]
    (folder / "config.json").write_text(json.dumps(config))


FOLDER_DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "no config.json"),
    "config is not JSON": (
        lambda folder: (folder / "config.json").write_text("{"),
        "not valid JSON",
    ),
    "header lies": (lie_in_the_header, "cannot hold"),
    "unknown architecture": (unknown_architecture, "TeapotForCausalLM is unknown"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no .safetensors"),
    "truncated weights": (
        lambda folder: (folder / "model.safetensors").write_bytes(
            (folder / "model.safetensors").read_bytes()[:-1000]
        ),
        "cannot hold",
    ),
}


@pytest.mark.parametrize("kind", FOLDER_DAMAGE)
def test_damaged_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, folder: Path, kind: str
) -> None:
    change, says = FOLDER_DAMAGE[kind]
    line = refused(capsys, changed_copy(folder, tmp_path / "copy", change))
    assert says in line
    assert str(tmp_path / "copy") in line


def test_nan_in_the_weights(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, folder: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    def poison(copy: Path) -> None:
        tensors = load_file(copy / "model.safetensors")
        tensors["model.layers.1.mlp.up_proj.weight"][3, 17] = np.nan
        save_file(tensors, copy / "model.safetensors", {"format": "pt"})

    line = refused(capsys, changed_copy(folder, tmp_path / "copy", poison))
    assert "blk.1.ffn_up.weight" in line
    assert "row 3, column 17" in line


def test_budget_that_no_mix_can_meet(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, folder: Path
) -> None:
    copy = changed_copy(folder, tmp_path / "copy", lambda _: None)
    assert "smallest" in refused(capsys, copy, "--size", "1KiB")


def test_names_cannot_steer_the_terminal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    name = "blk.0.\x1b[2Jattn_k.weight\n"
    header = encode_header({"general.architecture": "x\x1b[31m"}, [TensorInfo(name, (2, 2), "F32")])
    (tmp_path / "evil.gguf").write_bytes(header)
    assert main(["inspect", str(tmp_path / "evil.gguf"), "--tensors"]) in (0, 1)
    shown = capsys.readouterr()
    assert "\x1b[2J" not in shown.out + shown.err
