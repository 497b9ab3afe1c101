"""What public measurements of memory were made of: a model of the catalogue and a configuration.

One entry a row of data/measured_memory.csv, counted from 1, and of data/gpu_logs.csv; a text is the
reason why a row cannot be compared. Used by the tests and by benchmarks/plan_accuracy.py.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from snugfit.archs.cache import cache_bytes
from snugfit.archs.table import spec_of
from snugfit.core import Configuration, MemoryUse, ModelSpec, TensorInfo
from snugfit.hardware.detect import machine_of
from snugfit.headers import open_headers
from snugfit.planning.memory import footprint_of, use_of
from snugfit.quants.assignment import assign_types
from snugfit.units import GIB, MIB

DATA = Path(__file__).parent / "data"
CHECKS = ("weights", "context", "compute", "total")
EVERY_LAYER = 99


@dataclass(frozen=True)
class Measured:
    """One row. `checks` are the columns that can be compared; `why_not` says why not the others."""

    model: str
    configuration: Configuration
    mix: str = ""  # of recipes, or "Q4_K + Q6_K": all matrices, output; empty: a vendor's own
    gpus: tuple[int, ...] = (1,)  # what each has, as shares
    checks: tuple[str, ...] = ("context",)
    why_not: str = ""
    # An older build computes the logits of every token of a pass, not one a slot.
    all_logits: bool = False
    in_ram: str = ""  # a tensor that an older build keeps in RAM
    is_unified: bool = False  # one memory: what we count in RAM is in its buffer too
    others_mib: float | None = None  # the desktop's part of a total of the card; None: of buffers
    context_mib: float | None = None  # the part of the context that is compared, where not all
    part: str = "context"  # or "kv", "state", "whole" (caches without a window)


def _of(ctx: int, kv_type: str = "F16", **options: int | bool | str) -> Configuration:
    placed = {"gpu_layers": EVERY_LAYER} | options
    return Configuration(ctx, kv_type, **placed)  # type: ignore[arg-type]


_FOUR = {"slots": 4, "kv_unified": True}
_FORK = "a fork of llama.cpp with caches or buffers of its own"
_NO_MEMORY = "a row of speed: it has no memory column"
_NO_CONTEXT = "the context is not given"
_VENDOR = "a vendor's own mix, and no buffer of its weights is given"
_MASKS = "an older build, with masks of 32 bits beside their copies"
_BACKEND = "buffers of another backend than those that the rules are of"
_VLLM = "vLLM, whose pages are not llama.cpp's cache"
_ADDITION = "the size of the pass is not given: rows are compared with each other"
_RTX_3060 = {"mix": "IQ4_XS", "checks": ("total",), "others_mib": 490.0}


def _rtx_3060(ctx: int, experts: int) -> Measured:
    configuration = _of(ctx, cpu_expert_layers=experts)
    return Measured("qwen3.6-35b-a3b", configuration, **_RTX_3060)  # type: ignore[arg-type]


ROWS: tuple[Measured | str, ...] = (
    Measured(
        "qwen3-30b-a3b",
        _of(4096, cpu_expert_layers=34),
        "F16",
        checks=CHECKS,
        in_ram="output.weight",
    ),
    Measured(
        "qwen3-coder-next",
        _of(4096, **_FOUR),
        checks=("context", "total"),
        why_not="how much of a vendor's mix is streamed from RAM is not known",
        all_logits=True,
    ),
    Measured(
        "qwen3.6-27b",
        _of(131072, "Q8_0", **_FOUR),
        checks=("context", "compute", "total"),
        all_logits=True,
    ),
    Measured(
        "qwen3.6-27b",
        _of(200192, "Q8_0"),
        checks=("context", "total"),
        why_not=_MASKS,
        all_logits=True,
    ),
    Measured(
        "qwen3.6-35b-a3b",
        _of(131072, "Q8_0"),
        gpus=(9, 17),
        part="state",
        context_mib=62.81,
        why_not=f"{_FORK} (turbo3); {_MASKS}",
    ),
    Measured("qwen3.5-35b-a3b", _of(4096, **_FOUR), part="state"),
    Measured(
        "qwen3.6-35b-a3b",
        _of(32768),
        checks=("context", "compute", "total"),
        all_logits=True,
    ),
    f"{_FORK}; the draft layer's cache is in the figures",
    _NO_CONTEXT,
    Measured("llama-3.1-8b", _of(32768), "Q4_K + Q6_K", checks=CHECKS),
    Measured("gpt-oss-20b", _of(131072), gpus=(1,) * 8, why_not=_BACKEND),
    Measured(
        "gpt-oss-20b",
        _of(131072, ubatch=2048),
        "as published",
        checks=("weights", "context", "compute"),
        all_logits=True,
        is_unified=True,
    ),
    Measured(
        "gpt-oss-20b",
        _of(131072, swa_full=True, gpu_layers=0),
        "as published",
        gpus=(),
        checks=("weights", "context"),
    ),
    Measured("gpt-oss-20b", _of(8192, "Q8_0", ubatch=128), why_not=_BACKEND),
    _NO_CONTEXT,
    Measured(
        "gemma-4-26b-a4b",
        _of(65536, "Q8_0"),
        "Q4_0 + Q4_0",
        checks=("weights", "context"),
    ),
    Measured("gemma-4-31b", _of(97024, "Q8_0"), part="whole"),
    Measured("qwen3.6-35b-a3b", _of(54784)),
    Measured("qwen3-14b", _of(32768), "Q8_0", checks=("weights",)),
    f"{_FORK}, where the layer that drafts has a cache",
    f"{_FORK}; flags are missing",
    Measured(
        "qwen3-30b-a3b",
        _of(4096, gpu_layers=31),
        "Q4_K_M",
        checks=("weights",),
        in_ram="output.weight",
    ),
    "no cache is given, and the shape is not in the catalogue",
    Measured("laguna", _of(1048576, "Q4_0")),
    "an architecture that the table and the engine do not know",
    Measured(
        "deepseek-v4-flash",
        _of(200192, ubatch=4096, cpu_expert_layers=43),
        gpus=(1, 1),
        checks=("compute",),
        why_not="a mix of the vendor's; the context is rounded",
    ),
    "the cache's type is not given, and the total is rounded to a GB",
    "matrices are split over the cards (-sm tensor)",
    Measured("qwen3.5-9b", _of(262144, "Q8_0"), part="kv", why_not=_FORK),
    _rtx_3060(32768, 20),
    _rtx_3060(32768, 22),
    _rtx_3060(65536, 22),
    _rtx_3060(65536, 23),
    _rtx_3060(65536, 24),
    _VENDOR,
    _VENDOR,
    *[_NO_MEMORY] * 5,
    Measured(
        "qwen3.5-35b-a3b",
        _of(65536, "Q8_0", cpu_expert_layers=40),
        "Q8_0",
        checks=(),
        why_not=_ADDITION,
    ),
    "what --fit chose is not given",
    Measured(
        "qwen3.5-35b-a3b",
        _of(65536, "Q8_0", cpu_expert_layers=40),
        "Q4_K_M",
        checks=(),
        why_not=_ADDITION,
    ),
    Measured(
        "qwen3.5-35b-a3b",
        _of(65536, "Q8_0", cpu_expert_layers=24),
        "Q4_K_M",
        checks=(),
        why_not=_ADDITION,
    ),
    *[_NO_MEMORY] * 4,
    "matrices are split by rows over the cards (-sm row)",
    "the total is rounded (~20GB; 20.0 GB are predicted for F16 beside experts in MXFP4)",
    *[_NO_MEMORY] * 5,
    *[_VLLM] * 2,
)
LOGS: tuple[Measured | str, ...] = (
    Measured("qwen3-4b", _of(8192, **_FOUR), "Q4_K_M", checks=("weights", "context", "compute")),
    Measured("qwen3.6-27b", _of(196608), part="kv", checks=("context", "compute")),
    Measured("qwen3.6-27b", _of(4096), checks=("compute",)),
    Measured("qwen3.6-27b", _of(4096, ubatch=2048), checks=("compute",)),
)
# Rows of one machine whose flags are the same but for what is named: their difference is compared.
PAIRS = ((42, 44, "types of the weights"), (45, 44, "16 layers of experts"))


def read(name: str) -> list[dict[str, str]]:
    with (DATA / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@cache
def spec_in(model: str, mix: str) -> ModelSpec:
    """Return a model of the catalogue, or laguna's caches alone, cut to `mix`."""
    spec = _laguna() if model == "laguna" else open_headers(model).model.spec()
    if not mix or mix == "as published":
        return spec
    types = _types(spec, mix)
    tensors = tuple(replace(tensor, type_name=types[tensor.name]) for tensor in spec.tensors)
    file_bytes = spec.file_bytes - spec.weights_bytes
    cut = replace(spec, tensors=tensors)
    return replace(cut, file_bytes=file_bytes + cut.weights_bytes)


def predicted(row: Measured) -> MemoryUse:
    """Return what `row` would take, over the devices that it names and RAM."""
    spec = spec_in(row.model, row.mix)
    devices = machine_of([share * 1024 * GIB for share in row.gpus], 1024 * GIB).devices
    configuration = row.configuration
    outputs = configuration.ubatch if row.all_logits else None
    return use_of(footprint_of(spec), configuration, devices, outputs=outputs)


def figures(entry: Measured, row: Mapping[str, str]) -> dict[str, float]:
    """Return what we say of the devices that `row` is about, by check, in MiB.

    The weights of a vendor's own mix are taken from the row. A total is of the row's kind: of
    buffers, or of a card with its driver and its desktop.
    """
    use = predicted(entry)
    devices = use.devices[:-1] or use.devices
    spec = spec_in(entry.model, entry.mix)
    weights = sum(device.weights_bytes for device in (use.devices if entry.is_unified else devices))
    weights -= sum(tensor.size_bytes for tensor in spec.tensors if tensor.name == entry.in_ram)
    if not entry.mix and row["model_buf_MiB"]:
        weights = round(float(row["model_buf_MiB"]) * MIB)
    kv = sum(device.kv_cache_bytes for device in devices)
    state = sum(device.recurrent_state_bytes for device in devices)
    compute = sum(device.compute_bytes for device in devices)
    unwindowed = [cache for cache in spec.caches if not cache.window]
    contexts = {
        "context": kv + state,
        "kv": kv,
        "state": state,
        "whole": sum(cache_bytes(unwindowed, entry.configuration).values()),
    }
    total = float(weights + kv + state + compute)
    if entry.others_mib is not None:
        total += sum(device.overhead_bytes for device in devices) + entry.others_mib * MIB
    found = {"weights": weights, "context": contexts[entry.part], "compute": compute}
    return {check: size / MIB for check, size in (found | {"total": total}).items()}


def _types(spec: ModelSpec, mix: str) -> Mapping[str, str]:
    if "+" not in mix:
        return assign_types(mix, spec.placed)
    base, head = mix.split(" + ")
    kept = ("F32", "I32", "MXFP4")
    names = {tensor.name for tensor in spec.tensors}
    output = "output.weight" if "output.weight" in names else "token_embd.weight"
    return {
        tensor.name: tensor.type_name
        if tensor.type_name in kept
        else head
        if tensor.name == output
        else base
        for tensor in spec.tensors
    }


def _laguna() -> ModelSpec:
    """Return what of Laguna is public: its caches."""
    keys = {
        "block_count": 48,
        "context_length": 1048576,
        "embedding_length": 3072,
        "attention.head_count": 48,
        "attention.head_count_kv": 8,
        "attention.key_length": 128,
        "attention.value_length": 128,
        "attention.sliding_window": 512,
        "expert_count": 256,
        "vocab_size": 100352,
    }
    metadata = {"general.architecture": "laguna"} | {f"laguna.{key}": keys[key] for key in keys}
    tensors = [TensorInfo(f"blk.{layer}.attn_norm.weight", (3072,), "F32") for layer in range(48)]
    return spec_of("laguna", metadata, tensors, file_bytes=0, header_bytes=0)
