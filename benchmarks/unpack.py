"""How fast packed weights are read: python benchmarks/unpack.py [--folder /dev/shm/x].

A matrix of random codes is read as a pass reads it, a slab a task, on so many threads; what is
counted are the weights that are handed on, in bfloat16 or as blocks of MXFP4. No kernel runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from snugfit.archs.conversion.reading import read_rows
from snugfit.archs.conversion.tensors import ConvertedTensor, Piece
from snugfit.core import TensorInfo
from snugfit.formats.packed import logical_tensors, weights
from snugfit.formats.safetensors import read_safetensors
from snugfit.streaming.tasks import SLAB_BYTES, slabs

ROWS, COLUMNS, GROUP = 8192, 8192, 128
GROUPS = COLUMNS // GROUP
NAME = "model.layers.0.mlp.experts.0.up_proj"
Parts = dict[str, torch.Tensor]


def words(*shape: int) -> torch.Tensor:
    return torch.randint(-(2**31), 2**31 - 1, shape, dtype=torch.int32)


def halves(*shape: int) -> torch.Tensor:
    return (torch.rand(shape) * 0.01 + 0.001).half()


def codes(*shape: int) -> torch.Tensor:
    return torch.randint(0, 120, shape, dtype=torch.uint8)


def nf4() -> Parts:
    said = {"shape": [ROWS, COLUMNS], "blocksize": 64, "quant_type": "nf4", "dtype": "bfloat16"}
    text = torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)
    return {
        ".weight": codes(ROWS * COLUMNS // 2, 1),
        ".weight.absmax": torch.rand(ROWS * COLUMNS // 64),
        ".weight.quant_map": torch.linspace(-1, 1, 16),
        ".weight.quant_state.bitsandbytes__nf4": text,
    }


WORDS = {".qweight": words(COLUMNS // 8, ROWS), ".qzeros": words(GROUPS, ROWS // 8)}
SCHEME = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": GROUP}
# What is packed -> settings of config.json, and what is stored.
CASES: dict[str, tuple[dict[str, Any], Callable[[], Parts]]] = {
    "FP8, blocks of 128 x 128": (
        {"quant_method": "fp8"},
        lambda: {
            ".weight": codes(ROWS, COLUMNS).view(torch.float8_e4m3fn),
            ".weight_scale_inv": torch.rand(ROWS // 128, COLUMNS // 128),
        },
    ),
    "MXFP4 experts, kept": (
        {"quant_method": "fp8"},
        lambda: {
            ".weight": codes(ROWS, COLUMNS // 2),
            ".scale": codes(ROWS, COLUMNS // 32).view(torch.float8_e8m0fnu),
        },
    ),
    "NVFP4": (
        {"quant_method": "modelopt"},
        lambda: {
            ".weight": codes(ROWS, COLUMNS // 2),
            ".weight_scale": codes(ROWS, COLUMNS // 16).view(torch.float8_e4m3fn),
            ".weight_scale_2": torch.tensor(0.01),
        },
    ),
    "GPTQ, 4 bits, groups of 128": (
        {"quant_method": "gptq", "bits": 4, "group_size": GROUP},
        lambda: WORDS | {".scales": halves(GROUPS, ROWS)},
    ),
    "AWQ, groups of 128": (
        {"quant_method": "awq", "bits": 4, "version": "gemm"},
        lambda: WORDS | {".qweight": words(COLUMNS, ROWS // 8), ".scales": halves(GROUPS, ROWS)},
    ),
    "compressed-tensors, 4 bits": (
        {"quant_method": "compressed-tensors", "config_groups": {"0": {"weights": SCHEME}}},
        lambda: {
            ".weight_packed": words(ROWS, COLUMNS // 8),
            ".weight_scale": halves(ROWS, GROUPS),
            ".weight_shape": torch.tensor([ROWS, COLUMNS]),
        },
    ),
    "bitsandbytes NF4": ({"quant_method": "bitsandbytes"}, nf4),
}


def seconds(folder: Path, case: str, threads: int) -> float:
    """Return the time of one read of the whole matrix, opened anew."""
    settings = CASES[case][0]
    stored = logical_tensors(
        str(folder), read_safetensors(folder / "model.safetensors"), {}, settings
    )
    (name,) = stored
    info = TensorInfo("blk.0.ffn_up.weight", (ROWS, COLUMNS), stored[name].dtype)
    tensor = ConvertedTensor(info, stored[name].dtype, (Piece(name, ROWS, lambda given: given),))
    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(
            lambda run: read_rows(tensor, stored, *run).nbytes, slabs(info, SLAB_BYTES)
        ):
            pass
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--chunks", type=int, nargs="*", default=[weights.CHUNK_BYTES // 1024])
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as made:
        for case, (_, parts) in CASES.items():
            file = Path(made) / "model.safetensors"
            save_file({NAME + part: one.contiguous() for part, one in parts().items()}, file)
            for threads in given.threads:
                times: dict[int, list[float]] = {chunk: [] for chunk in given.chunks}
                for _ in range(given.rounds):  # in turns, for neighbours come and go
                    for chunk in given.chunks:
                        weights.CHUNK_BYTES = 1024 * chunk
                        times[chunk].append(seconds(Path(made), case, threads))
                rates = (
                    f"{chunk} KiB: {ROWS * COLUMNS / statistics.median(of) / 1e6:.0f}"
                    for chunk, of in times.items()
                )
                print(f"{case}, {threads} threads, million weights/s  " + "  ".join(rates))


if __name__ == "__main__":
    main()
