"""snugfit calibrate MODEL"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snugfit.cli import render
from snugfit.cli.options import Json, ModelArgument, Out, Text

if TYPE_CHECKING:
    from snugfit.formats.imatrix import Importance
    from snugfit.models import Model

Sequences = Annotated[
    int, typer.Option("--chunks", min=1, metavar="N", help="Sequences of 512 tokens to use.")
]


def calibrate_command(
    model: ModelArgument,
    output: Out,
    text: Text = None,
    chunks: Sequences = 128,
    json: Json = False,
) -> None:
    """Measure which inputs of every matrix matter, and write llama.cpp's importance matrix.

    Example:  snugfit calibrate demo-moe -o demo-moe.imatrix.gguf
    """
    from snugfit.formats.imatrix import write_imatrix
    from snugfit.models import open_model

    importance = calibrated(open_model(model), text, chunks)
    write_imatrix(output, importance)
    unseen = unseen_experts(importance)
    if json:
        render.print_json(
            {
                "path": str(output),
                "tensors": len(importance.weights),
                "chunks": importance.chunk_count,
                "chunk_size": importance.chunk_size,
                "datasets": list(importance.datasets),
                "experts_without_tokens": unseen,
            }
        )
        return
    tokens = importance.chunk_count * importance.chunk_size
    render.out.print(
        f"[bold]{output}[/]: {len(importance.weights)} matrices over {tokens:,} tokens",
        soft_wrap=True,
    )
    if unseen:
        render.warn(f"{unseen} experts were reached by no token; use more or broader text (--text)")
    render.next_command(f"snugfit quantize {model} -o OUT.gguf --like Q4_K_M --imatrix {output}")


def calibrated(model: Model, text: Path | None, chunks: int = 128) -> Importance:
    """Calibrate with a progress bar."""
    from snugfit.calibrate import calibrate

    with render.bar("calibrating", "layers") as bar:
        return calibrate(model, text, sequences=chunks, progress=bar)


def unseen_experts(importance: Importance) -> int:
    return sum(int((sums.counts == 0).sum()) for sums in importance.weights.values())
