"""Models in the layouts that the Hub has them in, packed: llama.cpp says what torch says.

Weights are rounded in torch to what the packed form can hold, so that both have the same.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import agreement
import numpy as np
import pytest
import test_convert_deepseek as v3
import test_convert_deepseek4 as v4
import test_convert_gpt_oss as gpt_oss
import torch
from agreement import changed_config, divergence, randomized, rewritten_tensors, torch_logits
from llama_logits import llama_logits
from test_packed_models import packed_folders
from transformers import AutoConfig, AutoModelForCausalLM

from snugfit.cli.main import main
from snugfit.mixes import chosen_types
from snugfit.models import Model, open_model
from snugfit.quantize import Output, quantize_all

E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
BLOCK = 128
Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # codes, exponents or scales, values


def as_mxfp4(values: torch.Tensor) -> Parts:
    """Return codes, two a byte, the exponents of 32 values each, and what they stand for."""
    blocks = values.reshape(*values.shape[:-1], -1, 32)
    exponents = torch.floor(torch.log2(blocks.abs().amax(-1))) - 2
    scales = 2 ** exponents[..., None]
    codes = ((blocks / scales)[..., None] - E2M1).abs().argmin(-1)
    found = (E2M1[codes] * scales).reshape(values.shape)
    codes = codes.reshape(values.shape).to(torch.uint8)
    return codes[..., ::2] | (codes[..., 1::2] << 4), (exponents + 127).to(torch.uint8), found


def as_float8(values: torch.Tensor) -> Parts:
    """Return 8-bit floats, a power of two for each block of 128 x 128, and what they stand for."""
    rows, columns = values.shape
    wide = torch.zeros(-(-rows // BLOCK) * BLOCK, -(-columns // BLOCK) * BLOCK)
    wide[:rows, :columns] = values
    blocks = wide.reshape(len(wide) // BLOCK, BLOCK, -1, BLOCK)
    scales = 2 ** torch.ceil(torch.log2(blocks.abs().amax((1, 3)) / 448))
    spread = scales.repeat_interleave(BLOCK, 0)[:rows].repeat_interleave(BLOCK, 1)[:, :columns]
    codes = (values / spread).to(torch.float8_e4m3fn)
    return codes, scales, codes.float() * spread


def in_torch(model: Any, pattern: str, round_: Callable[[torch.Tensor], Parts]) -> None:
    """Round the matrices of a model whose names match."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if re.search(pattern, name) and weight.ndim > 1:
                matrices = weight.reshape(-1, *weight.shape[-2:])
                weight.copy_(torch.stack([round_(one)[2] for one in matrices]).reshape_as(weight))


def stored_again(folder: Path, model: Any) -> None:
    """Store the weights of a model that were changed, and leave what describes it."""
    model.save_pretrained(folder / "again")
    (folder / "again/model.safetensors").rename(folder / "model.safetensors")


def packed_float8(folder: Path, pattern: str, suffix: str) -> None:
    """Pack matrices whose names match; `suffix` is that of the scales, beside their weight."""

    def change(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        for name in [name for name in tensors if re.search(pattern, name)]:
            codes, scales, values = as_float8(tensors[name])
            assert torch.equal(values, tensors[name])
            tensors[name] = codes
            exact = scales if suffix == "_scale_inv" else scales.to(torch.float8_e8m0fnu)
            base = name if suffix[0] == "_" else name.removesuffix(".weight")
            tensors[base + suffix] = exact
        return tensors

    rewritten_tensors(folder, change)
    settings = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [BLOCK, BLOCK]}
    changed_config(folder, quantization_config=settings)


def write_gpt_oss(folder: Path) -> Any:
    model = gpt_oss.tiny()
    packed: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("experts.gate_up_proj", "experts.down_proj")):  # inputs first
                codes, exponents, values = as_mxfp4(weight.transpose(1, 2).contiguous())
                weight.copy_(values.transpose(1, 2))
                packed[f"{name}_blocks"] = codes.reshape(*exponents.shape, 16)
                packed[f"{name}_scales"] = exponents
    agreement.write_model(folder, model, dtype=torch.bfloat16)
    unpacked = {name.removesuffix("_blocks").removesuffix("_scales") for name in packed}
    rewritten_tensors(
        folder, lambda given: {n: t for n, t in given.items() if n not in unpacked} | packed
    )
    changed_config(folder, quantization_config={"quant_method": "mxfp4"}, dtype="bfloat16")
    return model


def write_deepseek4(folder: Path) -> Any:
    model = v4.tiny()
    in_torch(model, r"\.experts\.", as_mxfp4)
    in_torch(model, V4_FLOAT8, as_float8)
    agreement.write_model(folder, model)
    v4.as_published(folder)
    packed_float8(folder, V4_FLOAT8, ".scale")

    def change(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        for name in [name for name in tensors if ".experts." in name]:
            codes, exponents, values = as_mxfp4(tensors[name])
            assert torch.equal(values, tensors[name])
            tensors[name] = codes.view(torch.int8)
            scale = exponents.view(torch.float8_e8m0fnu)
            tensors[name.replace(".weight", ".scale")] = scale
        return tensors

    rewritten_tensors(folder, change)
    changed_config(folder, torch_dtype="bfloat16")
    return model


def write_deepseek3(folder: Path) -> Any:
    model = v3.write("v3", folder)
    in_torch(model, FLOAT8, as_float8)
    stored_again(folder, model)
    packed_float8(folder, FLOAT8, "_scale_inv")
    changed_config(folder, dtype="bfloat16")
    return model


def write_qwen3(folder: Path) -> Any:
    sizes = {"hidden_size": 192, "intermediate_size": 320, "head_dim": 64, "vocab_size": 320}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
    model = randomized(
        AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3", **sizes, **heads))
    )
    in_torch(model, FLOAT8, as_float8)
    agreement.write_model(folder, model)
    packed_float8(folder, FLOAT8, "_scale_inv")
    changed_config(folder, dtype="bfloat16")
    return model


def write_gptq(folder: Path) -> Any:
    plain, packed = packed_folders(folder.parent, "gptq", "llama")
    packed.rename(folder)
    return AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32).eval()


FLOAT8 = r"layers\.\d+\.(?:self_attn|mlp)\.(?!gate\.).*(?:proj|proj_with_mqa)(?:\.weight)?$"
V4_FLOAT8 = (
    r"layers\.\d+\.(?:self_attn|attn)\.(?:wq_a|wq_b|wkv|wo_a|wo_b|[qo]_[ab]_proj|kv_proj)\.weight$"
    r"|shared_experts\.(?:w[123]|\w+_proj)\.weight$"
)
# Layout -> what writes it, and the types that its tensors are seen in.
LAYOUTS: dict[str, tuple[Callable[[Path], Any], set[str]]] = {
    "gpt-oss": (write_gpt_oss, {"BF16", "F32", "MXFP4"}),
    "deepseek-v4": (write_deepseek4, {"BF16", "F32", "MXFP4", "I32"}),
    "deepseek-v3": (write_deepseek3, {"BF16", "F32"}),
    "qwen3": (write_qwen3, {"BF16", "F32"}),
    "gptq": (write_gptq, {"F32"}),
}


def written(model: Model, path: Path, mix: str, **changes: str) -> Model:
    """Write a file of a mix, but for the types of experts, and open it."""
    chosen = chosen_types(model, mix)
    types = chosen.types
    for pattern, type_name in changes.items():
        types |= {name: type_name for name in types if pattern in name}
    (made,) = quantize_all(
        model, [Output(path, types, chosen.file_type)], allow_requantize=bool(changes)
    )
    assert made.file_bytes == path.stat().st_size
    return open_model(str(path))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_llama_cpp_and_torch_agree(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, types = LAYOUTS[layout]
    folder = tmp_path / layout
    model = write(folder)
    monkeypatch.setattr(agreement, "POSITIONS", v4.POSITIONS if layout == "deepseek-v4" else 64)
    opened = open_model(str(folder))
    assert {tensor.type_name for tensor in opened.tensors.values()} == types
    # Of 4-bit experts, llama.cpp rounds the inputs too: their values are checked in float32.
    exact = written(
        opened,
        folder / "exact.gguf",
        "F32",
        ffn_gate_exps="F32",
        ffn_up_exps="F32",
        ffn_down_exps="F32",
    )
    ids = agreement.token_ids(320)
    reference = torch_logits(model, ids)
    found = llama_logits(exact.path, ids)[:, :320]
    assert divergence(reference, found) < agreement.LARGEST_DIVERGENCE
    assert (reference.argmax(-1) == found.argmax(-1)).all()


# Inputs of 4-bit experts are rounded to 8 bits; V4 chooses other tokens by index for less.
MOST_DIVERGENCE = {"gpt-oss": 1e-3, "deepseek-v4": 3e-2}


@pytest.mark.parametrize("layout", MOST_DIVERGENCE)
def test_experts_stay_as_they_are_in_every_mix(layout: str, tmp_path: Path) -> None:
    folder = tmp_path / layout
    model = LAYOUTS[layout][0](folder)
    opened = open_model(str(folder))
    for mix in ("BF16", "F16", "Q8_0", "Q4_K_M", "COPY"):
        made = written(opened, folder / f"{mix}.gguf", mix)
        for name, tensor in opened.tensors.items():
            if tensor.type_name in ("MXFP4", "I32"):
                assert made.tensors[name].type_name == tensor.type_name
                rows = made.read(name, 0, tensor.rows)
                assert np.array_equal(rows, opened.read(name, 0, tensor.rows)), name
    ids = agreement.token_ids(320)
    reference, found = torch_logits(model, ids), llama_logits(folder / "F16.gguf", ids)[:, :320]
    assert divergence(reference, found) < MOST_DIVERGENCE[layout]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_commands_say_what_it_takes(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write, types = LAYOUTS[layout]
    write(tmp_path / layout)
    opened = open_model(str(tmp_path / layout))
    sizes = Counter[str]()
    for tensor in opened.tensors.values():
        sizes[tensor.type_name] += tensor.size_bytes

    def said(command: str, *options: str) -> Any:
        capsys.readouterr()
        assert main([command, str(tmp_path / layout), *options, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    inspected = said("inspect")
    assert inspected["bytes_of_type"] == dict(sizes) and set(sizes) == types
    assert inspected["weights_bytes"] == sizes.total()
    assert inspected["file_bytes"] == (tmp_path / layout / "model.safetensors").stat().st_size
    assert said("memory", "--ram", "8GiB")["weights_bytes"] == sizes.total()
    planned = said("plan", "--ram", "8GiB")
    assert planned["memory"]["weights_bytes"] <= sizes.total()
    if layout == "gpt-oss":  # which nobody calibrates, and which is packed already
        assert (
            main(
                [
                    "fit",
                    str(tmp_path / layout),
                    "-o",
                    str(tmp_path / "fitted.gguf"),
                    "--no-score",
                    "--ram",
                    "8GiB",
                ]
            )
            == 0
        )
        assert open_model(str(tmp_path / "fitted.gguf")).tensors == opened.tensors
