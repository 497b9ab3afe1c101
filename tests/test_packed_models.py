"""Models that are stored quantized, opened: every tensor is that of the same model unpacked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from folders import write_folder
from safetensors.torch import load_file, save_file
from tiny import tiny_model

from snugfit.models import open_model

Parts = dict[str, torch.Tensor]
# Weight -> its stored parts, by what follows its name without ".weight", and its values.
Packer = Callable[[torch.Tensor], tuple[Parts, torch.Tensor]]
GROUP = 32


def in_words(codes: torch.Tensor, order: tuple[int, ...] = tuple(range(8))) -> torch.Tensor:
    """Pack integers of 4 bits along the last axis; place i of a word holds number order[i]."""
    grouped = codes.to(torch.int64).reshape(*codes.shape[:-1], -1, 8)[..., list(order)]
    return (grouped << torch.arange(0, 32, 4)).sum(-1).to(torch.uint32).view(torch.int32)


def integers(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return codes [rows, columns], zero points and scales [rows, groups], and the values."""
    grouped = weight.reshape(len(weight), -1, GROUP)
    low, high = grouped.amin(-1), grouped.amax(-1)
    scales = ((high - low) / 15).half().float()
    zeros = (-low / scales).round().clamp(1, 15)
    codes = (grouped / scales[..., None] + zeros[..., None]).round().clamp(0, 15)
    values = (codes - zeros[..., None]) * scales[..., None]
    return codes.reshape(weight.shape), zeros, scales, values.reshape(weight.shape)


def gptq(weight: torch.Tensor) -> tuple[Parts, torch.Tensor]:
    codes, zeros, scales, values = integers(weight)
    return {
        ".qweight": in_words(codes).T,
        ".qzeros": in_words(zeros.T - 1),
        ".scales": scales.T.half(),
        ".g_idx": torch.arange(weight.shape[1], dtype=torch.int32) // GROUP,
    }, values


def awq(weight: torch.Tensor) -> tuple[Parts, torch.Tensor]:
    codes, zeros, scales, values = integers(weight)
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    return {
        ".qweight": in_words(codes.T, order),
        ".qzeros": in_words(zeros.T, order),
        ".scales": scales.T.half(),
    }, values


def compressed(weight: torch.Tensor) -> tuple[Parts, torch.Tensor]:
    codes, zeros, scales, values = integers(weight)
    return {
        ".weight_packed": in_words(codes),
        ".weight_zero_point": in_words(zeros.T).T,
        ".weight_scale": scales,
        ".weight_shape": torch.tensor(weight.shape),
    }, values


def fp8(weight: torch.Tensor) -> tuple[Parts, torch.Tensor]:
    codes = (weight * 100).to(torch.float8_e4m3fn)
    rows, columns = weight.shape
    scales = torch.rand(-(-rows // 128), -(-columns // 128)) + 0.01
    wide = scales.repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :columns]
    return {".weight": codes, ".weight_scale_inv": scales}, codes.float() * wide


def nvfp4(weight: torch.Tensor) -> tuple[Parts, torch.Tensor]:
    table = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
    codes = torch.randint(0, 16, weight.shape, dtype=torch.uint8)
    scales = (torch.rand(len(weight), weight.shape[1] // 16) + 0.1).to(torch.float8_e4m3fn)
    second = torch.tensor(0.0123)
    values = table[codes.long()] * (scales.float() * second).repeat_interleave(16, 1)
    return {
        ".weight": codes[:, ::2] | (codes[:, 1::2] << 4),
        ".weight_scale": scales,
        ".weight_scale_2": second,
        ".input_scale": torch.tensor(1.0),
    }, values


def nf4(weight: torch.Tensor) -> tuple[Parts, torch.Tensor]:
    table = torch.linspace(-1, 1, 16) ** 3
    largest = weight.reshape(-1, 64).abs().amax(-1)
    codes = torch.randint(0, 16, (weight.numel(),), dtype=torch.uint8)
    values = table[codes.long()].reshape(-1, 64) * largest[:, None]
    said = {"shape": list(weight.shape), "blocksize": 64, "quant_type": "nf4", "dtype": "float32"}
    text = torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)
    return {
        ".weight": ((codes[::2] << 4) | codes[1::2])[:, None],
        ".weight.absmax": largest,
        ".weight.quant_map": table,
        ".weight.quant_state.bitsandbytes__nf4": text,
    }, values.reshape(weight.shape)


WEIGHTS = {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": 32}
PACKERS: dict[str, tuple[Packer, dict[str, Any]]] = {
    "gptq": (gptq, {"quant_method": "gptq", "bits": 4, "group_size": GROUP}),
    "awq": (awq, {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm"}),
    "compressed": (
        compressed,
        {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": WEIGHTS}},
            "ignore": ["lm_head"],
        },
    ),
    "fp8": (fp8, {"quant_method": "fp8", "weight_block_size": [128, 128]}),
    "modelopt": (nvfp4, {"quant_method": "modelopt", "quant_algo": "NVFP4"}),
    "bitsandbytes": (nf4, {"quant_method": "bitsandbytes", "load_in_4bit": True}),
}


def packed_folders(tmp_path: Path, method: str, kind: str) -> tuple[Path, Path]:
    """Return a model packed, and the same with the values that the packer says it has."""
    packer, settings = PACKERS[method]
    model = tiny_model(kind)
    plain, packed = (write_folder(tmp_path / name, model) for name in ("plain", "packed"))
    torch.manual_seed(4)
    values: Parts = {}
    stored: Parts = {}
    for name, tensor in load_file(plain / "model.safetensors").items():
        values[name] = stored[name] = tensor
        if ".layers." in name and tensor.ndim == 2 and "mlp.gate.weight" not in name:
            parts, values[name] = packer(tensor)
            del stored[name]
            stored |= {name.removesuffix(".weight") + part: one for part, one in parts.items()}
    for folder, tensors in ((plain, values), (packed, stored)):
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(tensors, folder / "model.safetensors")
    config = json.loads((packed / "config.json").read_text())
    config["quantization_config"] = settings
    (packed / "config.json").write_text(json.dumps(config))
    return plain, packed


@pytest.mark.parametrize("kind", ["llama", "qwen3moe"])
@pytest.mark.parametrize("method", PACKERS)
def test_a_packed_model_is_the_model(method: str, kind: str, tmp_path: Path) -> None:
    plain, packed = (open_model(str(path)) for path in packed_folders(tmp_path, method, kind))
    assert packed.tensors == plain.tensors
    assert packed.file_bytes < 0.8 * plain.file_bytes
    for name in plain.tensors:
        assert np.array_equal(packed.load(name), plain.load(name)), name


def test_modelopts_own_file_will_do(tmp_path: Path) -> None:
    _, packed = packed_folders(tmp_path, "modelopt", "llama")
    config = json.loads((packed / "config.json").read_text())
    said = {"quantization": {"quant_algo": config.pop("quantization_config")["quant_algo"]}}
    wanted = open_model(str(packed)).tensors
    (packed / "config.json").write_text(json.dumps(config))
    (packed / "hf_quant_config.json").write_text(json.dumps(said))
    assert open_model(str(packed)).tensors == wanted
