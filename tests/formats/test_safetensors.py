"""Reading safetensors, against the package that writes them and against lying headers."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

from snugfit.errors import FormatError
from snugfit.formats.safetensors import INDEX_NAME, read_folder, read_safetensors

ARRAYS = {
    "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b.weight": np.arange(6, dtype=np.float16).reshape(2, 3),
}


def with_header(
    path: Path, header: Any, data: bytes = b"\0" * 48, claims: int | None = None
) -> None:
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded) if claims is None else claims) + encoded + data)


def test_values_are_the_package_s(tmp_path: Path) -> None:
    save_file(ARRAYS, tmp_path / "model.safetensors")
    found = read_folder(tmp_path)
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert (found[name].map() == array).all()


def test_small_floats_are_their_bytes(tmp_path: Path) -> None:
    codes = torch.arange(24, dtype=torch.uint8).reshape(3, 8)
    kinds = {
        "F8_E4M3": torch.float8_e4m3fn,
        "F8_E5M2": torch.float8_e5m2,
        "F8_E8M0": torch.float8_e8m0fnu,
        "F4": torch.float4_e2m1fn_x2,
    }
    tensors = {name: codes.clone().view(kind) for name, kind in kinds.items()}
    save_tensors(tensors, tmp_path / "model.safetensors")
    for name, tensor in read_folder(tmp_path).items():
        assert tensor.dtype == name
        assert tensor.shape == ((3, 16) if name == "F4" else (3, 8))
        assert tensor.size_bytes == 24
        assert (tensor.map() == codes.numpy()).all()


@pytest.mark.parametrize("shape", [[3, 8], [3, 15], [48], [], [3, 2, 9]])
def test_four_bits_that_do_not_fill_the_bytes(shape: list[int], tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with_header(path, {"a": {"dtype": "F4", "shape": shape, "data_offsets": [0, 23]}})
    with pytest.raises(FormatError, match="cannot hold"):
        read_safetensors(path)


def test_shards_are_joined(tmp_path: Path) -> None:
    weight_map = {}
    for number, (name, array) in enumerate(ARRAYS.items()):
        save_file({name: array}, tmp_path / f"m-{number}.safetensors")
        weight_map[name] = f"m-{number}.safetensors"
    (tmp_path / INDEX_NAME).write_text(json.dumps({"weight_map": weight_map}))
    assert read_folder(tmp_path).keys() == ARRAYS.keys()
    (tmp_path / "m-1.safetensors").unlink()
    with pytest.raises(FormatError, match="the shard is missing"):
        read_folder(tmp_path)


def test_index_may_not_leave_the_folder(tmp_path: Path) -> None:
    (tmp_path / INDEX_NAME).write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(FormatError, match="outside the folder"):
        read_folder(tmp_path)


def entry(**changes: Any) -> dict[str, Any]:
    sound = {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]}
    return {"a": sound | changes}


@pytest.mark.parametrize(
    "header",
    [
        entry(data_offsets=[0, 480]),
        entry(data_offsets=[48, 0]),
        entry(data_offsets=[0]),
        entry(data_offsets=[0, "48"]),
        entry(shape=[2**60, 4]),
        entry(shape=[-3, 4]),
        entry(shape=[3, True]),
        entry(shape=[3, 5]),
        entry(dtype=7),
        {"a": "tensor"},
    ],
)
def test_lying_header_is_refused(tmp_path: Path, header: Any) -> None:
    path = tmp_path / "m.safetensors"
    with_header(path, header)
    with pytest.raises(FormatError, match=r"m\.safetensors: tensor a") as caught:
        read_safetensors(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("claims", [0, 2**40, 2**63])
def test_impossible_header_length_is_refused(tmp_path: Path, claims: int) -> None:
    path = tmp_path / "m.safetensors"
    with_header(path, entry(), claims=claims)
    with pytest.raises(FormatError, match="header claims"):
        read_safetensors(path)


def test_header_that_is_not_json(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", 4) + b"\xff\xfe{{" + b"\0" * 64)
    with pytest.raises(FormatError, match="not JSON"):
        read_safetensors(path)
