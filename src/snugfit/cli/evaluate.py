"""snugfit evaluate MODEL"""

from __future__ import annotations

from typing import Annotated

import typer

from snugfit.cli import documents, render
from snugfit.cli.calibrate import Sequences
from snugfit.cli.options import Json, ModelArgument, Text
from snugfit.core import Score

Against = Annotated[
    str,
    typer.Option(
        "--against", "--reference", metavar="MODEL", help="The original, for the KL divergence."
    ),
]


def evaluate_command(
    model: ModelArgument,
    against: Against = "",
    text: Text = None,
    chunks: Sequences = 64,
    json: Json = False,
) -> None:
    """Measure perplexity on held-out text and, with --against, how far the model moved.

    Example:  snugfit evaluate small.gguf --against demo-moe
    """
    from snugfit.evaluate import evaluate
    from snugfit.models import open_model

    reference = open_model(against) if against else None
    with render.bar("evaluating", "layers") as bar:
        score = evaluate(open_model(model), reference, text, sequences=chunks, progress=bar)
    if json:
        render.print_json(documents.of_score(score))
        return
    show(score)
    if against:
        render.next_command(f'snugfit run {model} "import os"')
    else:
        render.next_command(f"snugfit evaluate {model} --against ORIGINAL")


def show(score: Score) -> None:
    """Print perplexity and, against an original, the divergence, with what each number means."""
    table = render.table("measure", ">value", "", "meaning")
    table.add_row(
        "perplexity",
        f"{score.perplexity:.3f}",
        f"± {score.perplexity_error:.3f}",
        f"of {score.tokens:,} tokens; lower is better",
    )
    if score.reference_perplexity is not None:
        table.add_row("  of the original", f"{score.reference_perplexity:.3f}", "", "")
    if score.divergence is not None:
        error = "" if score.divergence_error is None else f"± {score.divergence_error:.5f}"
        table.add_row("KL divergence", f"{score.divergence:.5f}", error, "nats a token; 0 is equal")
    if score.divergence_99 is not None:
        table.add_row("  worst 1 % above", f"{score.divergence_99:.4f}", "", "nats")
    if score.top1_agreement is not None:
        table.add_row("same first choice", f"{score.top1_agreement:.2%}", "", "of tokens")
    render.out.print(table)
