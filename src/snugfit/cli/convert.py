"""snugfit convert MODEL"""

from __future__ import annotations

from typing import Annotated

import typer

from snugfit.cli import cuts_text, render
from snugfit.cli.options import Json, ModelArgument, Out, Threads
from snugfit.errors import UsageError

FULL_PRECISION = ("BF16", "F16", "F32")
Type = Annotated[str, typer.Option("--type", "--outtype", metavar="TYPE", help="bf16, f16 or f32.")]


def convert_command(
    model: ModelArgument,
    output: Out,
    type: Type = "bf16",
    threads: Threads = 0,
    json: Json = False,
) -> None:
    """Write a model as GGUF without quantizing it, tokenizer and chat template included.

    Example:  snugfit convert demo -o demo-bf16.gguf
    """
    from snugfit.mixes import types_of_mix
    from snugfit.models import open_model
    from snugfit.quantize import quantize

    mix = type.upper()
    if mix not in FULL_PRECISION:
        raise UsageError(
            f"--type {type}: convert writes {', '.join(FULL_PRECISION)}. "
            f"For {mix} use: snugfit quantize {model} -o {output} --like {mix}"
        )
    opened = open_model(model)
    with render.bar(f"converting to {mix}", "weights") as bar:
        written = quantize(
            opened, output, types_of_mix(opened, mix), mix=mix, threads=threads, progress=bar
        )
    if json:
        render.print_json({"mix": mix} | cuts_text.of_written(written))
        return
    cuts_text.show(written, mix)
    render.next_command(f'snugfit run {output} "import os"')
