"""Records data/packed/*.safetensors.gz: python tests/make_packed.py AUTOAWQ GPTQMODEL.

Small weights packed, and unpacked again in float32, by the packages that people pack with. They
are no dependencies of the tests: run this where compressed-tensors 0.20.0, bitsandbytes 0.50.2 and
nvidia-modelopt 0.47.0 are installed; AUTOAWQ and GPTQMODEL are the unpacked sources of
autoawq 0.2.9 and gptqmodel 7.7.0, which are on PyPI without wheels.
"""

from __future__ import annotations

import gzip
import json
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

FOLDER = Path(__file__).parent / "data" / "packed"
ROWS, COLUMNS = 32, 96
# Settings as a config.json has them, the stored parts, and the weight in float32.
Case = tuple[dict[str, Any], dict[str, torch.Tensor], torch.Tensor]


def weight(rows: int = ROWS, columns: int = COLUMNS) -> torch.Tensor:
    found = torch.randn(rows, columns) * 0.02
    found[3, 5] = 0.3  # an outlier
    return found


def minimum_and_step(values: torch.Tensor, bits: int, size: int, symmetric: bool) -> Any:
    """Return scales and zero points of groups, as [rows, groups], the plain way."""
    grouped = values.reshape(len(values), -1, size)
    low, high = grouped.amin(-1).clamp(max=0), grouped.amax(-1).clamp(min=0)
    if symmetric:
        high = torch.maximum(-low, high)
        low = -high
    scales = ((high - low) / (2**bits - 1)).half().float()
    if symmetric:
        return scales, torch.full_like(scales, 2 ** (bits - 1))
    return scales, torch.clamp(torch.round(-low / scales), 0, 2**bits - 1)


def gptq(source: str) -> Iterator[tuple[str, Case]]:
    sys.path.insert(0, source)
    for name in ("gptqmodel", "gptqmodel.models", "gptqmodel.looper"):  # their imports are heavy
        package = types.ModuleType(name)
        package.__path__ = [str(Path(source, *name.split(".")))]
        sys.modules[name] = package
    sys.modules["gptqmodel"].DEBUG_ON = False  # type: ignore[attr-defined]
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module

    for bits, symmetric, version, act_order in (
        (4, True, 1, False),
        (4, False, 1, False),
        (4, False, 2, True),
        (3, False, 2, False),
        (3, True, 1, True),
        (2, False, 1, True),
        (8, True, 1, False),
        (8, False, 2, False),
    ):
        size = 32
        linear = torch.nn.Linear(COLUMNS, ROWS, bias=False)
        linear.weight.data = weight()
        order = torch.arange(COLUMNS, dtype=torch.int32) // size
        if act_order:
            order = order[torch.randperm(COLUMNS)]
        ranked = linear.weight.data[:, torch.argsort(order, stable=True)]
        scales, zeros = minimum_and_step(ranked, bits, size, symmetric)
        module = TorchLinear(
            bits=bits,
            group_size=size,
            sym=symmetric,
            desc_act=act_order,
            in_features=COLUMNS,
            out_features=ROWS,
            bias=False,
        )
        module.pack_original(linear, scales, zeros, g_idx=order)
        module.optimize = lambda *_: None
        module.post_init()
        stored = {name: getattr(module, name).clone() for name in ("qweight", "qzeros", "g_idx")}
        stored["scales"] = module.scales.clone()
        module.scales = module.scales.float()
        reference = module.dequantize_weight().T.float()
        if version == 1:
            module.qzero_format(format=2)
            convert_gptq_v2_to_v1_format_module(
                module, types.SimpleNamespace(bits=bits, pack_dtype=torch.int32, planar=False)
            )
            stored["qzeros"] = module.qzeros.clone()
        settings = {
            "quant_method": "gptq",
            "bits": bits,
            "group_size": size,
            "sym": symmetric,
            "desc_act": act_order,
            "checkpoint_format": "gptq" if version == 1 else "gptq_v2",
        }
        kind = "sym" if symmetric else "asym"
        name = f"{bits}-{kind}-v{version}" + ("-ordered" if act_order else "")
        yield name, (settings, {f".{part}": value for part, value in stored.items()}, reference)


def awq(source: str) -> Iterator[tuple[str, Case]]:
    sys.path.insert(0, source)
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.utils.packing_utils import dequantize_gemm

    for size in (32, 96):
        linear = torch.nn.Linear(COLUMNS, ROWS, bias=False)
        linear.weight.data = weight()
        scales, zeros = minimum_and_step(linear.weight.data, 4, size, False)
        module = WQLinear_GEMM.from_linear(
            linear, 4, size, scales=scales.T.contiguous(), zeros=zeros.T.contiguous()
        )
        reference = dequantize_gemm(module.qweight, module.qzeros, module.scales.float(), 4, size).T
        parts = {f".{part}": getattr(module, part) for part in ("qweight", "qzeros", "scales")}
        settings = {"quant_method": "awq", "bits": 4, "group_size": size, "version": "gemm"}
        yield f"group{size}", (settings | {"zero_point": True}, parts, reference)


# compressed-tensors: format, bits, type, symmetric, strategy, group size
SCHEMES = (
    ("pack-quantized", 4, "int", True, "group", 32),
    ("pack-quantized", 4, "int", False, "group", 32),
    ("pack-quantized", 4, "int", False, "channel", None),
    ("pack-quantized", 8, "int", True, "channel", None),
    ("pack-quantized", 8, "int", False, "group", 48),
    ("pack-quantized", 3, "int", True, "group", 48),
    ("pack-quantized", 6, "int", False, "channel", None),
    ("pack-quantized", 4, "int", True, "tensor", None),
    ("int-quantized", 8, "int", True, "channel", None),
    ("int-quantized", 8, "int", False, "tensor", None),
    ("float-quantized", 8, "float", True, "channel", None),
    ("float-quantized", 8, "float", True, "tensor", None),
    ("float-quantized", 8, "float", True, "block", None),
    ("nvfp4-pack-quantized", 4, "float", True, "tensor_group", 16),
    ("mxfp4-pack-quantized", 4, "float", True, "group", 32),
    ("mxfp8-quantized", 8, "float", True, "group", 32),
)


def compressed() -> Iterator[tuple[str, Case]]:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    for form, bits, kind, symmetric, strategy, size in SCHEMES:
        block = [16, 40] if strategy == "block" else None  # cuts the last block of columns
        extra = {"scale_dtype": torch.uint8} if form.startswith("mxfp") else {}
        weights = QuantizationArgs(
            num_bits=bits,
            type=kind,
            symmetric=symmetric,
            strategy=strategy,
            group_size=size,
            block_structure=block,
            **extra,
        )
        scheme = QuantizationScheme(targets=["Linear"], weights=weights, format=form)
        state = compressed_state(weights, form)
        compressor = BaseCompressor.get_value_from_registry(form)
        stored = compressor.compress(state, scheme)
        stored = {name: value for name, value in stored.items() if torch.is_tensor(value)}
        reference = compressed_reference(compressor, stored, scheme)
        group = json.loads(scheme.model_dump_json())
        settings = {
            "quant_method": "compressed-tensors",
            "format": form,
            "config_groups": {"group_0": group},
            "ignore": ["lm_head"],
        }
        parts = {f".{name}": value for name, value in stored.items()}
        name = f"{form}-{bits}-{strategy}" + ("" if symmetric else "-asym")
        yield name, (settings, parts, reference.float())


def compressed_state(weights: Any, form: str) -> dict[str, torch.Tensor]:
    """Return a weight and its scales as a calibration leaves them, BF16 unless packed as floats."""
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    values = weight()
    grouped = values
    if weights.strategy == "block":
        height, width = weights.block_structure
        padded = torch.nn.functional.pad(values, (0, -COLUMNS % width))
        grouped = padded.reshape(ROWS // height, height, -1, width).transpose(1, 2).flatten(2)
    elif weights.group_size:
        grouped = values.reshape(ROWS, -1, weights.group_size)
    elif weights.strategy == "channel":
        grouped = values.reshape(ROWS, 1, -1)
    else:
        grouped = values.reshape(1, 1, -1)
    low, high = grouped.amin(-1), grouped.amax(-1)
    state = {"weight": values}
    second = None
    if form.startswith("nvfp4"):
        second = generate_gparam(low.amin().reshape(1), high.amax().reshape(1))
        state["weight_global_scale"] = second
    scales, zeros = calculate_qparams(low, high, weights, global_scale=second)
    if weights.strategy == "tensor":
        scales, zeros = scales.reshape(1), zeros.reshape(1)
    if not form.startswith(("nvfp4", "mxfp")):
        scales = scales.bfloat16().float()
    return state | {"weight_scale": scales, "weight_zero_point": zeros}


def compressed_reference(compressor: Any, stored: Any, scheme: Any) -> torch.Tensor:
    """Unpack in float32: the package itself works in the type of the scales, or in bfloat16."""
    from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
    from compressed_tensors.quantization.lifecycle.forward import dequantize

    if scheme.format.startswith(("nvfp4", "mxfp4")):
        packed = stored["weight_packed"]
        codes = unpack_fp4_from_uint8(packed, len(packed), 2 * packed.shape[1], torch.float32)
        scales = compressor._decompress_scale(stored["weight_scale"], torch.float32)
        return dequantize(
            codes,
            scales,
            args=scheme.weights,
            dtype=torch.float32,
            global_scale=stored.get("weight_global_scale"),
        )
    if scheme.format == "mxfp8-quantized":
        scales = compressor._decompress_scale(stored["weight_scale"]).float()
        return dequantize(stored["weight"].float(), scales, args=scheme.weights)
    return compressor.decompress(stored, scheme)["weight"]


def bitsandbytes() -> Iterator[tuple[str, Case]]:
    from bitsandbytes import functional

    for kind, nested, block, shape in (
        ("nf4", True, 64, (ROWS, COLUMNS)),
        ("nf4", False, 64, (ROWS, COLUMNS)),
        ("fp4", True, 128, (ROWS, COLUMNS)),
        ("fp4", False, 64, (ROWS, COLUMNS - 24)),  # blocks run on into the next row
        ("nf4", True, 256, (ROWS - 3, COLUMNS - 8)),  # and the last is cut
    ):
        packed, state = functional.quantize_4bit(
            weight(*shape), blocksize=block, compress_statistics=nested, quant_type=kind
        )
        parts = {f".weight.{name}": value for name, value in state.as_dict(packed=True).items()}
        reference = functional.dequantize_4bit(packed, state)
        settings = {
            "quant_method": "bitsandbytes",
            "load_in_4bit": True,
            "bnb_4bit_quant_type": kind,
            "bnb_4bit_use_double_quant": nested,
        }
        name = f"{kind}-{block}" + ("-nested" if nested else "") + f"-{shape[1]}"
        yield name, (settings, {".weight": packed} | parts, reference)
    codes, largest, _ = functional.int8_vectorwise_quant(weight().half())
    parts = {
        ".weight": codes,
        ".SCB": largest,
        ".weight_format": torch.tensor(0, dtype=torch.uint8),
    }
    reference = functional.int8_vectorwise_dequant(codes, largest)
    yield "int8", ({"quant_method": "bitsandbytes", "load_in_8bit": True}, parts, reference)


def modelopt() -> Iterator[tuple[str, Case]]:
    from modelopt.torch.quantization.qtensor import FP8QTensor, NVFP4QTensor

    packed, scales, second = NVFP4QTensor.quantize(weight(), 16)
    reference = packed.dequantize(
        torch.float32, scale=scales, double_scale=second, block_sizes={-1: 16}
    )
    settings = {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}
    parts = {
        ".weight": packed._quantized_data,
        ".weight_scale": scales,
        ".weight_scale_2": second,
        ".input_scale": torch.tensor(0.01),
    }
    yield "nvfp4", (settings, parts, reference)
    packed, scales = FP8QTensor.quantize(weight())
    reference = packed.dequantize(torch.float32, scale=scales, block_sizes=None)
    parts = {
        ".weight": packed._quantized_data,
        ".weight_scale": scales,
        ".input_scale": torch.tensor(0.01),
    }
    yield "fp8", ({"quant_method": "modelopt", "quant_algo": "FP8"}, parts, reference)


def record(name: str, cases: Iterator[tuple[str, Case]]) -> None:
    """Write the cases of a method into one file: CASE/linear.PART, and CASE/reference."""
    tensors, settings = {}, {}
    for case, (said, parts, reference) in cases:
        settings[case] = json.dumps(said)
        tensors |= {f"{case}/linear{part}": value.contiguous() for part, value in parts.items()}
        tensors[f"{case}/reference"] = reference.contiguous()
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.safetensors.gz"
    path.write_bytes(gzip.compress(save(tensors, settings), 9, mtime=0))
    print(path.name, path.stat().st_size, *settings)


METHODS: dict[str, Callable[[], Iterator[tuple[str, Case]]]] = {
    "awq": lambda: awq(sys.argv[1]),
    "gptq": lambda: gptq(sys.argv[2]),
    "compressed": compressed,
    "bitsandbytes": bitsandbytes,
    "modelopt": modelopt,
}

if __name__ == "__main__":
    for method, cases in METHODS.items():
        if method in (sys.argv[3:] or METHODS):
            torch.manual_seed(5)
            with torch.no_grad():
                record(method, cases())
