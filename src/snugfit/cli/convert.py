"""snugfit convert MODEL"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from snugfit.cli import cuts_text, render
from snugfit.cli.options import Json, ModelArgument, OutIfAny, Threads
from snugfit.cli.quantize_options import DryRun, OverrideKv
from snugfit.errors import UsageError
from snugfit.units import parse_size

FULL_PRECISION = ("BF16", "F16", "F32")
Type = Annotated[str, typer.Option("--type", "--outtype", metavar="TYPE", help="bf16, f16 or f32.")]
SplitSize = Annotated[
    str, typer.Option("--split-max-size", metavar="SIZE", help="Split into files of at most this.")
]
SplitTensors = Annotated[
    int,
    typer.Option(
        "--split-max-tensors", min=0, metavar="N", help="Split into files of so many tensors."
    ),
]


def parse_split(text: str) -> int:
    """Read a size, 300M and 2G as llama.cpp's converter writes them too. Raises UsageError."""
    if not text:
        return 0
    unit = text[-1:].upper()
    return parse_size(f"{text}B" if unit in ("K", "M", "G") else text)


def convert_command(
    model: ModelArgument,
    output: OutIfAny = None,
    type: Type = "bf16",
    override_kv: OverrideKv = None,
    split_max_size: SplitSize = "",
    split_max_tensors: SplitTensors = 0,
    dry_run: DryRun = False,
    threads: Threads = 0,
    json: Json = False,
) -> None:
    """Write a model as GGUF without quantizing it, tokenizer and chat template included.

    Example:  snugfit convert demo -o demo-bf16.gguf
    """
    from snugfit.edits import metadata_from, with_metadata
    from snugfit.mixes import chosen_types
    from snugfit.models import open_model
    from snugfit.quantize import Output, quantize_all

    mix = type.upper()
    if mix not in FULL_PRECISION:
        raise UsageError(
            f"--type {type}: convert writes {', '.join(FULL_PRECISION)}. "
            f"For {mix} use: snugfit quantize {model} {output or 'OUT.gguf'} {mix}"
        )
    if output is None and not dry_run:
        raise UsageError(f"say which file to write, as: snugfit convert {model} -o OUT.gguf")
    changed = metadata_from(override_kv or [])
    opened = with_metadata(open_model(model), changed)
    chosen = chosen_types(opened, mix)
    made = Output(
        output or Path(f"{opened.name}-{mix}.gguf"),
        chosen.types,
        chosen.file_type,
        metadata=changed,
        split_bytes=parse_split(split_max_size),
        split_tensors=split_max_tensors,
    )
    if dry_run:
        cuts_text.show_plans([cuts_text.CutPlan.of(opened, made, chosen, None)], None, json)
        return
    with render.bar(f"converting to {mix}", "weights") as bar:
        (written,) = quantize_all(opened, [made], threads=threads, progress=bar)
    if json:
        render.print_json({"mix": mix} | cuts_text.of_written(written))
        return
    cuts_text.show(written, mix)
    render.next_command(f'snugfit run {written.path} "import os"')
