"""Small models in every form that a pass reads, and passes in processes that can be killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from snugfit.core import TensorInfo
from snugfit.formats.gguf_writer import GgufWriter
from snugfit.formats.imatrix import ColumnSums, Importance
from snugfit.models import Model, open_model
from snugfit.quantize import Output
from snugfit.streaming.tasks import slabs

COLUMNS = 512
SHAPES: dict[str, tuple[int, ...]] = {
    "token_embd.weight": (384, COLUMNS),
    "blk.0.attn_norm.weight": (COLUMNS,),
    "blk.0.attn_q.weight": (COLUMNS, COLUMNS),
    "blk.0.ffn_up_exps.weight": (3, 96, COLUMNS),
    "blk.1.attn_q.weight": (COLUMNS, COLUMNS),
    "output.weight": (384, COLUMNS),
}
METADATA: dict[str, Any] = {"general.architecture": "llama", "general.name": "made"}
SMALL_SLAB = 64 * 4 * COLUMNS  # 64 rows


def bits_of(shape: tuple[int, ...], seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return random bfloat16 weights as bytes, [rows, row_bytes]."""
    rows = np.random.default_rng(seed).normal(0, 0.02, shape).astype(np.float32)
    upper = (rows.reshape(-1, shape[-1]).view(np.uint32) >> 16).astype(np.uint16)
    return upper.view(np.uint8)


def write_gguf(path: Path, shapes: dict[str, tuple[int, ...]] = SHAPES) -> Model:
    tensors = [TensorInfo(name, shape, "BF16") for name, shape in shapes.items()]
    with GgufWriter(path, METADATA, tensors, durable=False) as writer:
        for seed, tensor in enumerate(tensors):
            writer.write(tensor.name, bits_of(tensor.shape, seed))
    return open_model(str(path))


def importance_of(model: Model) -> Importance:
    """Return an importance that differs by expert, and misses one tensor and one expert."""
    random, weights = np.random.default_rng(7), {}
    for name, tensor in model.tensors.items():
        if len(tensor.shape) > 1 and name != "output.weight":
            count = tensor.shape[0] if len(tensor.shape) == 3 else 1
            squares = random.lognormal(0, 1, (count, tensor.columns)).astype(np.float32)
            counts = np.arange(count, dtype=np.float32) if count > 1 else np.ones(1, np.float32)
            weights[name] = ColumnSums(squares, counts)
    return Importance(weights, (), 1, 512)


def types_of(model: Model, type_name: str) -> dict[str, str]:
    return {
        name: "F32" if len(tensor.shape) == 1 else type_name
        for name, tensor in model.tensors.items()
    }


def output(path: Path, model: Model, type_name: str = "Q4_K", **options: Any) -> Output:
    return Output(path, types_of(model, type_name), **options)


def count_of_tasks(model: Model, slab_bytes: int = SMALL_SLAB) -> int:
    return sum(1 for tensor in model.tensors.values() for _ in slabs(tensor, slab_bytes))
