"""Packed weights against the packages that pack them: equal in float32, bit for bit.

data/packed/ was made by make_packed.py; torch and transformers stand in where they define a format.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from snugfit.errors import SnugfitError
from snugfit.formats.packed import LogicalTensors, logical_tensors
from snugfit.formats.packed.codes import exponent_table, float8_table
from snugfit.formats.safetensors import StoredTensor, read_safetensors
from snugfit.quants.codecs import dequantize_rows

DATA = Path(__file__).parents[1] / "data" / "packed"
CASES = {
    "awq": 2,
    "gptq": 8,
    "compressed": 16,
    "bitsandbytes": 6,
    "modelopt": 2,
}
NAME = "model.layers.0.mlp.up_proj"
AS_FLOATS = {"dtype": "float32"}


@cache
def golden(method: str) -> dict[str, tuple[dict[str, Any], dict[str, torch.Tensor], torch.Tensor]]:
    """Return each case's settings, its parts by what follows the name, and the weight."""
    from safetensors.torch import load

    content = gzip.decompress((DATA / f"{method}.safetensors.gz").read_bytes())
    length = int.from_bytes(content[:8], "little")
    settings = json.loads(content[8 : 8 + length])["__metadata__"]
    tensors = load(content)
    return {
        case: (
            json.loads(said),
            {
                name.removeprefix(f"{case}/linear"): value
                for name, value in tensors.items()
                if name.startswith(f"{case}/linear")
            },
            tensors[f"{case}/reference"],
        )
        for case, said in settings.items()
    }


def every_case() -> list[tuple[str, str]]:
    return [(method, case) for method in CASES for case in golden(method)]


def opened(
    folder: Path,
    parts: Mapping[str, torch.Tensor],
    settings: Mapping[str, Any],
    config: Mapping[str, Any] = AS_FLOATS,
    name: str = NAME,
) -> LogicalTensors:
    path = folder / "model.safetensors"
    save_file({name + part: value for part, value in parts.items()}, path)
    return logical_tensors(str(folder), read_safetensors(path), config, settings)


def bits(values: Any) -> np.ndarray[Any, Any]:
    """Return float32 as bits; packers differ in the sign of a zero, which is no difference."""
    return (np.ascontiguousarray(np.asarray(values), np.float32) + np.float32(0)).view(np.uint32)


def test_the_golden_files_are_whole() -> None:
    assert {method: len(golden(method)) for method in CASES} == CASES


@pytest.mark.parametrize(("method", "case"), every_case())
def test_equals_the_packer(method: str, case: str, tmp_path: Path) -> None:
    settings, parts, reference = golden(method)[case]
    found = opened(tmp_path, parts, settings)
    assert list(found) == [f"{NAME}.weight"]
    weight = found[f"{NAME}.weight"]
    assert weight.shape == tuple(reference.shape)
    assert weight.dtype == "F32"
    values = weight.whole()
    assert values.shape == weight.shape
    assert np.array_equal(bits(values), bits(reference))


@pytest.mark.parametrize("stored", ["F8_E4M3", "F8_E5M2", "F8_E8M0"])
def test_every_byte_of_an_8_bit_float_is_torchs(stored: str) -> None:
    named = {
        "F8_E4M3": torch.float8_e4m3fn,
        "F8_E5M2": torch.float8_e5m2,
        "F8_E8M0": torch.float8_e8m0fnu,
    }
    codes = torch.arange(256).to(torch.uint8)
    ours = exponent_table() if stored == "F8_E8M0" else float8_table(stored)
    theirs = codes.view(named[stored]).float().numpy()
    assert np.array_equal(ours, theirs, equal_nan=True)
    assert np.array_equal(np.signbit(ours), np.signbit(theirs))


def float8(rows: int, columns: int, kind: torch.dtype = torch.float8_e4m3fn) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(1)).to(kind)


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("scale_kind", [torch.float32, torch.bfloat16, torch.float8_e8m0fnu])
def test_blocks_of_8_bit_floats_are_those_of_transformers(
    kind: torch.dtype, scale_kind: torch.dtype, tmp_path: Path
) -> None:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    weight = float8(64, 96, kind)
    scales = (torch.rand(4, 3) + 0.01).to(scale_kind)
    settings = {"quant_method": "fp8", "weight_block_size": [16, 32]}
    parts = {".weight": weight, ".weight_scale_inv": scales}
    found = opened(tmp_path, parts, settings)[f"{NAME}.weight"]
    wanted = Fp8Dequantize(None)._dequantize_one(weight, scales, torch.float32)
    assert np.array_equal(bits(found.whole()), bits(wanted))


def test_blocks_that_are_cut_off_and_unknown_scales_of_deepseek_v4(tmp_path: Path) -> None:
    weight = float8(200, 150)
    scales = torch.tensor([[120, 121], [124, 128]], dtype=torch.uint8).view(torch.float8_e8m0fnu)
    settings = {"quant_method": "fp8", "weight_block_size": [128, 128], "scale_fmt": "ue8m0"}
    name = "layers.0.attn.wq_a"
    config = {"torch_dtype": "bfloat16"}
    found = opened(tmp_path, {".weight": weight, ".scale": scales}, settings, config, name)
    wide = scales.float().repeat_interleave(128, 0)[:200].repeat_interleave(128, 1)[:, :150]
    wanted = weight.float() * wide
    weights = found[f"{name}.weight"]
    assert weights.dtype == "BF16"  # and nothing is lost: four bits by powers of two
    assert np.array_equal(weights.whole().astype(np.uint32) << 16, wanted.numpy().view("u4"))


def mxfp4_parts(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(2)
    codes = torch.randint(0, 256, (3, rows, columns // 32, 16), dtype=torch.uint8, generator=random)
    exponents = torch.randint(110, 130, (3, rows, columns // 32), generator=random)
    return codes, exponents.to(torch.uint8)


def test_experts_of_gpt_oss_stay_as_they_are(tmp_path: Path) -> None:
    from gguf import GGMLQuantizationType, quants
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    codes, exponents = mxfp4_parts(24, 64)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    parts = {"_blocks": codes, "_scales": exponents, "_bias": torch.zeros(3, 24)}
    found = opened(tmp_path, parts, {"quant_method": "mxfp4"}, name=name)
    assert set(found) == {name, f"{name}_bias"}
    experts = found[name]
    assert (experts.shape, experts.dtype) == ((3, 24, 64), "MXFP4")
    theirs = convert_moe_packed_tensors(codes, exponents, dtype=torch.float32).transpose(1, 2)
    for index in range(3):
        stand_in, load = experts.opened(index)
        blocks = load(stand_in)
        assert (blocks.shape, blocks.dtype) == ((24, 2 * 17), np.uint8)
        ours = quants.dequantize(blocks, GGMLQuantizationType.MXFP4)
        assert np.array_equal(bits(ours), bits(theirs[index]))
        assert np.array_equal(bits(dequantize_rows(blocks, "MXFP4")), bits(ours))
    assert np.array_equal(experts.whole()[2], blocks)


@pytest.mark.parametrize("stored", ["I8", "F4"])
def test_experts_of_deepseek_v4_become_the_same_blocks(stored: str, tmp_path: Path) -> None:
    from gguf import GGMLQuantizationType, quants
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    codes, exponents = mxfp4_parts(24, 64)
    packed, scales = codes[0].reshape(24, 32), exponents[0].view(torch.float8_e8m0fnu)
    wanted = Fp8Dequantize(None)._dequantize_one(packed.view(torch.int8), scales, torch.float32)
    packed = packed.view(torch.int8 if stored == "I8" else torch.float4_e2m1fn_x2)
    name = "layers.0.ffn.experts.7.w1"
    parts = {".weight": packed, ".scale": scales}
    weight = opened(tmp_path, parts, {"quant_method": "fp8"}, name=name)[f"{name}.weight"]
    assert (weight.shape, weight.dtype) == ((24, 64), "MXFP4")
    ours = quants.dequantize(weight.whole(), GGMLQuantizationType.MXFP4)
    assert np.array_equal(bits(ours), bits(wanted))


def test_compressed_experts_in_mxfp4_are_kept_too(tmp_path: Path) -> None:
    settings, parts, reference = golden("compressed")["mxfp4-pack-quantized-4-group"]
    name = "model.layers.0.mlp.experts.0.up_proj"
    weight = opened(tmp_path, parts, settings, name=name)[f"{name}.weight"]
    assert weight.dtype == "MXFP4"
    assert np.array_equal(bits(dequantize_rows(weight.whole(), "MXFP4")), bits(reference))


@pytest.mark.parametrize("config", [{"torch_dtype": "float16"}, {"text_config": {}}])
def test_values_are_rounded_to_what_the_model_computes_in(
    config: dict[str, Any], tmp_path: Path
) -> None:
    settings, parts, reference = golden("gptq")["4-asym-v1"]
    weight = opened(tmp_path, parts, settings, config)[f"{NAME}.weight"]
    if "torch_dtype" in config:
        assert weight.dtype == "F16"
        assert np.array_equal(bits(weight.whole()), bits(reference.half().float()))
    else:
        assert weight.dtype == "BF16"
        ours = weight.whole().astype(np.uint32) << 16
        assert np.array_equal(ours, reference.bfloat16().float().numpy().view(np.uint32))


def test_others_and_idle_tensors(tmp_path: Path) -> None:
    settings, parts, _ = golden("modelopt")["nvfp4"]
    others = {".k_scale": torch.ones(1), "_norm.weight": torch.ones(8), ".hc_scale": torch.ones(3)}
    found = opened(tmp_path, parts | others, settings)
    assert set(found) == {f"{NAME}.weight", f"{NAME}_norm.weight", f"{NAME}.hc_scale"}
    assert isinstance(found[f"{NAME}_norm.weight"], StoredTensor)


def test_a_model_that_is_not_packed_is_as_it_is(tmp_path: Path) -> None:
    found = opened(tmp_path, {".weight": torch.ones(2, 4)}, {})
    assert isinstance(found[f"{NAME}.weight"], StoredTensor)


def broken(method: str, case: str, **changes: torch.Tensor | None) -> Any:
    settings, parts, _ = golden(method)[case]
    changed = {"." + name.replace("_of_", "."): value for name, value in changes.items()}
    kept = {name: value for name, value in (parts | changed).items() if value is not None}
    return kept, settings


GPTQ = "4-asym-v1"
PACKED = "pack-quantized-4-group"
# What is broken, and what the one line says of it.
HOSTILE: dict[str, tuple[Any, str]] = {
    "gptq without zero points": (broken("gptq", GPTQ, qzeros=None), "up_proj.qzeros is missing"),
    "gptq without scales": (broken("gptq", GPTQ, scales=None), "scales is missing"),
    "gptq zero points": (
        broken("gptq", GPTQ, qzeros=torch.zeros(3, 5, dtype=torch.int32)),
        r"qzeros has shape \[3, 5\].*needs \[3, 4\]",
    ),
    "gptq groups": (
        broken(
            "gptq",
            GPTQ,
            scales=torch.ones(4, 32),
            qzeros=torch.zeros(4, 4, dtype=torch.int32),
            g_idx=None,
        ),
        "4 groups, but 96 columns in groups of 32 make 3",
    ),
    "gptq of nothing": (
        broken(
            "gptq",
            GPTQ,
            qweight=torch.zeros(0, 32, dtype=torch.int32),
            g_idx=torch.zeros(0, dtype=torch.int32),
        ),
        "0 columns",
    ),
    "bitsandbytes of one dimension": (
        broken(
            "bitsandbytes",
            "nf4-64-nested-96",
            weight_of_quant_state_of_bitsandbytes__nf4=torch.tensor(
                list(b'{"shape": [3072], "blocksize": 64}'), dtype=torch.uint8
            ),
        ),
        "not a JSON text",
    ),
    "bitsandbytes offset": (
        broken(
            "bitsandbytes",
            "nf4-64-nested-96",
            weight_of_quant_state_of_bitsandbytes__nf4=torch.tensor(
                list(b'{"shape": [32, 96], "blocksize": 64, "nested_offset": NaN}'),
                dtype=torch.uint8,
            ),
        ),
        "not a JSON text",
    ),
    "a vector of 8-bit floats": (
        broken("modelopt", "fp8", weight=torch.ones(96).to(torch.float8_e4m3fn)),
        "stands for a weight of shape",
    ),
    "gptq order": (
        broken("gptq", GPTQ, g_idx=torch.full((96,), 3, dtype=torch.int32)),
        "names groups from 3 to 3, of 3",
    ),
    "gptq negative order": (
        broken("gptq", GPTQ, g_idx=torch.full((96,), -1, dtype=torch.int32)),
        "names groups from -1",
    ),
    "gptq bits": (broken("gptq", GPTQ, g_idx=torch.zeros(77, dtype=torch.int32)), "bits a weight"),
    "awq scales": (broken("awq", "group32", scales=torch.zeros(5, 32)), "shape"),
    "awq words": (broken("awq", "group32", qweight=torch.zeros(96, 4)), "32-bit words"),
    "compressed without shape": (
        broken("compressed", PACKED, weight_shape=None),
        "weight_shape is missing",
    ),
    "compressed shape": (
        broken("compressed", PACKED, weight_shape=torch.tensor([32, 97])),
        "12 words a row, but 97 integers",
    ),
    "compressed huge shape": (
        broken("compressed", PACKED, weight_shape=torch.tensor([2**40, 96])),
        "no shape",
    ),
    "compressed rows": (
        broken("compressed", PACKED, weight_shape=torch.tensor([31, 96])),
        r"needs \[31, 12\]",
    ),
    "compressed scales": (
        broken("compressed", PACKED, weight_scale=torch.ones(32, 5)),
        r"weight_scale has shape \[32, 5\], which does not fit",
    ),
    "nvfp4 without its second scale": (
        broken("compressed", "nvfp4-pack-quantized-4-tensor_group", weight_global_scale=None),
        "weight_global_scale is missing",
    ),
    "fp8 without scales": (
        broken("modelopt", "fp8", weight_scale=None),
        "its scales are missing",
    ),
    "modelopt scales": (
        broken("modelopt", "nvfp4", weight_scale=torch.ones(32, 5)),
        "weight_scale has shape",
    ),
    "bitsandbytes not JSON": (
        broken(
            "bitsandbytes",
            "nf4-64-nested-96",
            weight_of_quant_state_of_bitsandbytes__nf4=torch.zeros(9, dtype=torch.uint8),
        ),
        "not a JSON text",
    ),
    "bitsandbytes without absmax": (
        broken("bitsandbytes", "nf4-64-nested-96", weight_of_absmax=None),
        "absmax is missing",
    ),
    "bitsandbytes bytes": (
        broken("bitsandbytes", "nf4-64-nested-96", weight=torch.zeros(9, 1, dtype=torch.uint8)),
        "has 9 bytes",
    ),
    "bitsandbytes SCB": (broken("bitsandbytes", "int8", SCB=torch.ones(5)), r"needs \[32\]"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_does_not_fit_is_one_clear_line(what: str, tmp_path: Path) -> None:
    (parts, settings), says = HOSTILE[what]
    with pytest.raises(SnugfitError, match=says) as raised:
        for weight in opened(tmp_path, parts, settings).values():
            weight.whole()
    assert "\n" not in str(raised.value)
    assert str(tmp_path) in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"quant_method": "quip"}, "'quip'; fp8, .*gptq.* can be read"),
        ({"quant_method": 4}, "can be read"),
        ({"quant_method": "gptq", "checkpoint_format": "marlin"}, "marlin"),
        ({"quant_method": "awq", "version": "gemv"}, "gemv"),
        ({"quant_method": "compressed-tensors", "format": "marlin-24"}, "marlin-24"),
        ({"quant_method": "compressed-tensors", "config_groups": {"a": 3}}, "object"),
        ({"quant_method": "fp8", "weight_block_size": [0, 128]}, "block"),
        ({"quant_method": "fp8", "weight_block_size": "128"}, "block"),
    ],
)
def test_settings_that_are_unknown_or_wrong(
    settings: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(SnugfitError, match=says):
        opened(tmp_path, {".weight": torch.ones(2, 4)}, settings)


def test_a_nan_among_scales_is_not_lost(tmp_path: Path) -> None:
    payload = torch.tensor([0x7FFFFFFF, 0x3F800000], dtype=torch.int32).view(torch.float32)
    parts = {".weight": float8(2, 8), ".weight_scale": payload.reshape(2, 1)}
    exact = opened(tmp_path, parts, {"quant_method": "fp8"})[f"{NAME}.weight"]
    assert np.isnan(exact.whole()[0]).all()
    rounded = opened(tmp_path, parts, {"quant_method": "fp8"}, {})[f"{NAME}.weight"]
    with pytest.raises(SnugfitError, match="row 0"):
        rounded.whole()
