"""KL divergence of our mixes against llama.cpp's own kernels: same model, types, importance, bytes.

python benchmarks/quality.py [--model demo] [--mixes Q4_K_M,IQ3_M] [--json]

Both files have the same types and so the same size; only who chose scales and rounding differs.
llama.cpp's blocks come from the `ggml_quantize_chunk` that the engine's package carries.
Each row is a ratio of two means over the same held-out tokens, in the same torch modules.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "tests" / "quants"))

import ggml_library

from snugfit import quantize as verb
from snugfit.calibrate import calibrate
from snugfit.evaluate import evaluate
from snugfit.mixes import types_of_mix
from snugfit.models import open_model
from snugfit.quants.recipes import RECIPES
from snugfit.quants.types import TYPES

# These are for models that were trained to hold no more values.
TRAINED_FOR = ("MXFP4_MOE", "Q2_0", "TQ2_0", "TQ1_0", "Q1_0")
MIXES = [
    name
    for name, recipe in RECIPES.items()
    if TYPES[recipe.base].is_quantized and name not in TRAINED_FOR
]


def ggml_quantize_rows(
    rows: Any, type_name: str, importance: Any = None, threads: int = 1, quality: str = "fast"
) -> np.ndarray[Any, Any]:
    """Stand in for our quantize_rows with llama.cpp's kernels, which know one quality."""
    weights = None if importance is None else np.ascontiguousarray(importance, np.float32)
    return ggml_library.quantize(rows, type_name, weights)


def measure(model_name: str, mixes: list[str]) -> list[dict[str, Any]]:
    model = open_model(model_name)
    importance = calibrate(model)
    kernels = {"ours": verb.quantize_rows, "ggml": ggml_quantize_rows}
    results = []
    with TemporaryDirectory() as folder:
        for mix in mixes:
            row: dict[str, Any] = {"model": model_name, "mix": mix}
            for whose, kernel in kernels.items():
                verb.quantize_rows = kernel
                path = Path(folder) / f"{whose}.gguf"
                types = types_of_mix(model, mix, has_importance=True)
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
    parser.add_argument("--mixes", default=",".join(MIXES))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = measure(arguments.model, arguments.mixes.upper().split(","))
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
