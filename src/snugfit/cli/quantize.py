"""snugfit quantize MODEL"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from snugfit.cli import render
from snugfit.cli.calibrate import calibrated
from snugfit.cli.options import (
    Best,
    Bpw,
    Json,
    Like,
    ModelArgument,
    Out,
    Size,
    Text,
    Threads,
    size_limit,
)
from snugfit.errors import UsageError
from snugfit.quantize import Written
from snugfit.units import format_size

Imatrix = Annotated[
    Path | None, typer.Option("--imatrix", metavar="FILE", help="Importance from a file.")
]
AllowRequantize = Annotated[
    bool, typer.Option("--allow-requantize", help="Quantize tensors that already are.")
]


def quantize_command(
    model: ModelArgument,
    output: Out,
    like: Like = "",
    size: Size = "",
    bpw: Bpw = 0.0,
    imatrix: Imatrix = None,
    text: Text = None,
    threads: Threads = 0,
    best: Best = False,
    allow_requantize: AllowRequantize = False,
    json: Json = False,
) -> None:
    """Write one mix of tensor types as GGUF: by name, or the best within a size.

    Weighted by importance with --imatrix or --text; `snugfit fit` does all of it.

    Example:  snugfit quantize demo -o demo-Q4_K_M.gguf --like Q4_K_M
    """
    from snugfit.formats.imatrix import read_imatrix
    from snugfit.models import open_model
    from snugfit.planning.cuts import largest_mix
    from snugfit.quantize import quantize, types_of_mix
    from snugfit.quants.recipes import recipe_named

    if sum(map(bool, (like, size, bpw))) != 1:
        raise UsageError("give one of --like MIX, --size SIZE or --bpw X.")
    opened = open_model(model)
    limit = size_limit(size, bpw, opened.spec().parameters)
    has_importance = imatrix is not None or text is not None
    if limit:
        mix = largest_mix(opened.spec(), limit, has_importance=has_importance)
    else:
        mix = like.upper()
    types = types_of_mix(opened, mix)
    if not has_importance and recipe_named(mix).needs_importance:
        render.warn(
            f"{mix} loses far more without importance. Add --text FILE or --imatrix FILE, "
            "or use snugfit fit."
        )
    importance = read_imatrix(imatrix) if imatrix else None
    if text:
        importance = calibrated(opened, text)
    with render.bar(f"quantizing to {mix}", "weights") as bar:
        written = quantize(
            opened,
            output,
            types,
            mix=mix,
            importance=importance,
            threads=threads,
            quality="best" if best else "fast",
            allow_requantize=allow_requantize,
            progress=bar,
        )
    if json:
        render.print_json({"mix": mix} | of_written(written))
        return
    show(written, mix)
    render.next_command(f"snugfit evaluate {output} --against {model}")


def of_written(written: Written) -> dict[str, object]:
    return {
        "path": str(written.path),
        "file_bytes": written.file_bytes,
        "bits_per_weight": written.bits_per_weight,
        "seconds": written.seconds,
        "weights_of_type": written.types,
        "without_importance": list(written.without_importance),
    }


def show(written: Written, mix: str) -> None:
    weights = sum(written.types.values())
    render.out.print(
        f"[bold]{written.path}[/]: {mix}, {format_size(written.file_bytes)} "
        f"({written.file_bytes:,} bytes), {written.bits_per_weight:.2f} bits a weight, "
        f"{render.scaled(weights / max(written.seconds, 1e-9))} weights/s",
        soft_wrap=True,
    )
    if written.without_importance:
        render.warn(
            f"{len(written.without_importance)} tensors had no importance and count all columns "
            f"alike, first {written.without_importance[0]}"
        )
