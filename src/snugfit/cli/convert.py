"""snugfit convert MODEL"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snugfit.cli import cuts_text, render
from snugfit.cli.options import Json, ModelArgument, OutIfAny, Pre, Threads
from snugfit.cli.quantize_options import DryRun, OverrideKv
from snugfit.errors import UsageError
from snugfit.units import parse_size

if TYPE_CHECKING:
    from snugfit.mixes import Chosen
    from snugfit.models import Model

FULL_PRECISION = ("BF16", "F16", "F32")
OF_TOWERS = (*FULL_PRECISION, "Q8_0")
Type = Annotated[
    str,
    typer.Option(
        "--type",
        "--outtype",
        metavar="TYPE",
        help="bf16 (default), f16 or f32; with --mmproj q8_0 too, by default as stored.",
    ),
]
Towers = Annotated[
    bool,
    typer.Option(
        "--mmproj", help="Write the towers for pictures and sound instead, as a projector file."
    ),
]
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
    type: Type = "",
    mmproj: Towers = False,
    pre: Pre = "",
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
    from snugfit.edits import metadata_from
    from snugfit.quantize import Output, quantize_all

    mix = _mix(model, type, output, is_projector=mmproj)
    if output is None and not dry_run:
        raise UsageError(f"say which file to write, as: snugfit convert {model} -o OUT.gguf")
    if mmproj and (pre or split_max_size or split_max_tensors):
        raise UsageError("--mmproj writes one file without a tokenizer: no --pre and no --split-*.")
    changed = metadata_from(override_kv or [])
    if mmproj:
        opened, chosen = _towers(model, mix, changed)
    else:
        opened, chosen = _language_model(model, mix, pre, changed)
    mix = chosen.mix
    prefix = "mmproj-" if mmproj else ""
    made = Output(
        output or Path(f"{prefix}{opened.name}-{mix}.gguf"),
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
    if mmproj:
        words = ("snugfit", "memory", model, "--mmproj", str(written.path))
        render.next_command(shlex.join(words))
    else:
        render.next_command(f'snugfit run {written.path} "import os"')


def _mix(name: str, type: str, output: Path | None, *, is_projector: bool) -> str:
    """Return the type that was asked for, "" where a projector's own decides. Raises UsageError."""
    mix = type.upper() or ("" if is_projector else "BF16")
    if is_projector and mix not in ("", *OF_TOWERS):
        raise UsageError(f"--type {type}: a projector is written in {', '.join(OF_TOWERS)}.")
    if not is_projector and mix not in FULL_PRECISION:
        raise UsageError(
            f"--type {type}: convert writes {', '.join(FULL_PRECISION)}. "
            f"For {mix} use: snugfit quantize {name} {output or 'OUT.gguf'} {mix}"
        )
    return mix


def _language_model(
    name: str, mix: str, pre: str, changed: Mapping[str, Any]
) -> tuple[Model, Chosen]:
    from snugfit.edits import with_metadata
    from snugfit.mixes import chosen_types
    from snugfit.models import open_model

    opened = with_metadata(open_model(name, pre=pre), changed)
    return opened, chosen_types(opened, mix)


def _towers(name: str, mix: str, changed: Mapping[str, Any]) -> tuple[Model, Chosen]:
    from snugfit.archs.conversion.projectors import projector_types, stored_type
    from snugfit.edits import with_metadata
    from snugfit.mixes import Chosen
    from snugfit.models import open_projector
    from snugfit.quants.recipes import recipe_named

    opened = with_metadata(open_projector(name), changed)
    mix = mix or stored_type(opened.tensors.values())
    types = projector_types(opened.metadata, opened.shapes, mix)
    return opened, Chosen(mix, types, recipe_named(mix).file_type)
