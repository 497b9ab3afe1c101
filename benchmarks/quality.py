"""KL divergence of our mixes against llama.cpp's own kernels: same model, types, importance, bytes.

python benchmarks/quality.py [--model demo] [--json]

Both files have the same types and so the same size; only who chose scales and rounding differs.
llama.cpp's blocks come from the `ggml_quantize_chunk` that the engine's package carries.
Each row is a ratio of two means over the same held-out tokens, in the same torch modules.
"""

from __future__ import annotations

import argparse
import ctypes
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from snugfit import quantize as verb
from snugfit.calibrate import calibrate
from snugfit.evaluate import evaluate
from snugfit.models import open_model
from snugfit.quants.recipes import RECIPES
from snugfit.quants.types import TYPES

MIXES = [name for name, recipe in RECIPES.items() if TYPES[recipe.base].is_quantized]


def ggml_quantize_rows(
    rows: np.ndarray[Any, Any], type_name: str, importance: Any = None, threads: int = 1
) -> np.ndarray[Any, Any]:
    """Quantize with llama.cpp's kernels, through the C symbol that xllamacpp's library exports."""
    import xllamacpp

    path = next(Path(xllamacpp.__file__).parent.glob("*.so"))
    call = ctypes.CDLL(str(path)).ggml_quantize_chunk
    call.restype = ctypes.c_size_t
    call.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    kind, rows = TYPES[type_name], np.ascontiguousarray(rows, np.float32)
    out = np.empty((len(rows), kind.row_bytes(rows.shape[1])), np.uint8)
    weights = None if importance is None else np.ascontiguousarray(importance, np.float32)
    call(
        kind.id,
        rows.ctypes.data,
        out.ctypes.data,
        0,
        *rows.shape,
        None if weights is None else weights.ctypes.data,
    )
    return out


def measure(model_name: str) -> list[dict[str, Any]]:
    model = open_model(model_name)
    importance = calibrate(model)
    kernels = {"ours": verb.quantize_rows, "ggml": ggml_quantize_rows}
    results = []
    with TemporaryDirectory() as folder:
        for mix in MIXES:
            row: dict[str, Any] = {"model": model_name, "mix": mix}
            for whose, kernel in kernels.items():
                verb.quantize_rows = kernel
                path = Path(folder) / f"{whose}.gguf"
                types = verb.types_of_mix(model, mix)
                written = verb.quantize(model, path, types, mix=mix, importance=importance)
                score = evaluate(open_model(str(path)), model)
                row["file_bytes"] = written.file_bytes
                row[whose] = score.divergence
                row[f"{whose}_top1"] = score.top1_agreement
            row["ratio"] = row["ours"] / row["ggml"]
            results.append(row)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = measure(arguments.model)
    if arguments.json:
        print(json.dumps(results, indent=2))
        return
    print("| mix | file bytes | KL divergence | llama.cpp's kernels | ratio | same first choice |")
    print("|---|--:|--:|--:|--:|--:|")
    for row in results:
        print(
            f"| {row['mix']} | {row['file_bytes']:,} | {row['ours']:.5f} | {row['ggml']:.5f} "
            f"| {row['ratio']:.3f} | {row['ours_top1']:.2%} |"
        )


if __name__ == "__main__":
    main()
