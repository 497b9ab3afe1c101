"""snugfit tables MODEL"""

from __future__ import annotations

import json as json_format
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from snugfit.cli import documents, render
from snugfit.cli.inspect import warn_of_unknown
from snugfit.cli.options import HeadersArgument, Json, Kv, Offline
from snugfit.errors import UsageError
from snugfit.units import GIB, parse_size

if TYPE_CHECKING:
    from snugfit.cli.tables_text import Section
    from snugfit.tables import Cards, Tables

Contexts = Annotated[
    str,
    typer.Option(
        "--ctx",
        "-c",
        "--ctx-size",
        metavar="N[,N..]",
        help="Tokens of context, one or several; 0 is the model's own limit. Without it 8192, "
        "32768 and 131072, as far as the model goes.",
    ),
]
Mixes = Annotated[
    str, typer.Option("--like", "--mix", metavar="MIX[,MIX..]", help="Only these rows, as Q4_K_M.")
]
Desktop = Annotated[
    str,
    typer.Option(
        "--desktop",
        metavar="SIZE",
        help="GPU memory that a desktop and other programs hold, for the safer column; without "
        "it the most that was measured, 3.53GiB.",
    ),
]
Format = Annotated[
    str,
    typer.Option(
        "--format", metavar="markdown|csv|html|json", help="Write it so, to stdout or -o."
    ),
]
OutFile = Annotated[
    Path | None,
    typer.Option(
        "-o", "--output", metavar="FILE", help="Write .md, .csv, .html or .json, as it ends."
    ),
]
FORMAT_OF_SUFFIX = {
    ".md": "markdown",
    ".markdown": "markdown",
    ".csv": "csv",
    ".html": "html",
    ".htm": "html",
    ".json": "json",
}
FORMATS = tuple(dict.fromkeys(FORMAT_OF_SUFFIX.values()))
# Largest GPU memory of each colour, in GiB.
COLOURS = {8: "green", 16: "yellow", 32: "dark_orange", 96: "red"}


def tables_command(
    model: HeadersArgument,
    ctx: Contexts = "",
    kv: Kv = "f16",
    like: Mixes = "",
    desktop: Desktop = "",
    format_name: Format = "",
    output: OutFile = None,
    offline: Offline = False,
    json: Json = False,
) -> None:
    """Say what memory every quantization needs at each context, as tables to publish.

    Of a Hub repository the rows are its files, of a model that is not quantized all mixes.

    Example:  snugfit tables qwen3.6-27b --ctx 8192,131072 -o qwen3.6-27b.html
    """
    from snugfit.cli.files import write_text
    from snugfit.headers import open_headers
    from snugfit.tables import DESKTOP_BYTES, tables_of

    contexts = contexts_from(ctx)
    desktop_bytes = parse_size(desktop) if desktop else DESKTOP_BYTES
    chosen = format_from(format_name, output, json)
    headers = open_headers(model, is_offline=offline)
    specs = {pick: found.spec() for pick, found in headers.models.items()}
    spec = next(iter(specs.values()))
    tables = tables_of(
        spec.name if len(specs) == 1 else headers.weights,
        specs,
        contexts=contexts,
        kv_type=kv,
        mixes=[mix for mix in like.split(",") if mix],
        desktop_bytes=desktop_bytes,
        note=headers.note,
    )
    if output is not None:
        write_text(output, text_of(tables, chosen))
        if not json:
            written = f"{render.safe(str(output))}: {chosen}, {len(tables.rows)} rows"
            render.out.print(written, soft_wrap=True)
    if json or (chosen and output is None):
        print_exactly(text_of(tables, "json" if json else chosen))
    elif output is None:
        warn_of_unknown(spec)
        show(tables)
        file = re.sub(r"[^\w.-]+", "-", tables.model.split("/")[-1])
        render.next_command(f"snugfit tables {shlex.quote(model)} -o {file}.html")


def print_exactly(text: str) -> None:
    """Write text to stdout in UTF-8, with the line ends that it has."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()


def contexts_from(text: str) -> list[int]:
    """Read `8192,131072`. Raises UsageError."""
    parts = [part.strip() for part in text.split(",")] if text else []
    for part in parts:
        if not re.fullmatch(r"[0-9]{1,12}", part):
            raise UsageError(f"--ctx takes numbers of tokens, as 8192,131072, not '{part}'.")
    return [int(part) for part in parts]


def format_from(named: str, output: Path | None, json: bool) -> str:
    """Return the format of what is written, empty for a table on the terminal. Raises UsageError.

    The suffix of a file decides, and `--format` where there is none that is known.
    """
    if named and named.lower() not in FORMATS:
        raise UsageError(f"'{named}' is not a format. Write one of {', '.join(FORMATS)}.")
    named = named.lower()
    if output is None:
        if json and named not in ("", "json"):
            raise UsageError(f"--json and --format {named} cannot both be on stdout; use -o FILE.")
        return "json" if json else named
    by_suffix = FORMAT_OF_SUFFIX.get(output.suffix.lower(), "")
    if named and by_suffix and named != by_suffix:
        raise UsageError(f"{output}: ends as {by_suffix} does, but --format says {named}.")
    if not named and not by_suffix:
        endings = ", ".join(FORMAT_OF_SUFFIX)
        raise UsageError(f"{output}: ends in none of {endings}. Say --format.")
    return named or by_suffix


def text_of(tables: Tables, format_name: str) -> str:
    """Return the tables in one of FORMATS."""
    from snugfit.cli.tables_html import page
    from snugfit.cli.tables_text import comma_separated, markdown

    writers: dict[str, Callable[[Tables], str]] = {
        "markdown": markdown,
        "csv": comma_separated,
        "html": page,
        "json": json_text,
    }
    return writers[format_name](tables)


def json_text(tables: Tables) -> str:
    return json_format.dumps(documents.of_tables(tables), indent=2, allow_nan=False) + "\n"


def show(tables: Tables) -> None:
    """Print the tables, as many contexts beside each other as there is room for."""
    from snugfit.cli.tables_text import facts, sections
    from snugfit.tables import definitions

    render.out.print(f"[bold]{render.safe(tables.model)}[/]  {render.safe(facts(tables))}")
    for section in sections(tables):
        render.heading(render.safe(section.title))
        for at, part in enumerate(in_width(section, tables)):
            if at:
                render.out.print()
            render.out.print(part)
    render.out.print()
    told = Table.grid(padding=(0, 2))
    for term, text in definitions(tables).items():
        told.add_row(f"[dim]{render.safe(term)}[/]", f"[dim]{render.safe(text)}[/]")
    render.out.print(told)


def in_width(section: Section, tables: Tables) -> list[Table]:
    """Return a section as one table, or as several with fewer contexts each."""
    count = len(tables.contexts)
    for beside in range(count, 0, -1):
        parts = [
            terminal_table(section, tables, range(first, min(count, first + beside)))
            for first in range(0, count, beside)
        ]
        if max(map(width_of, parts)) <= render.out.width:
            break
    return parts


def width_of(table: Table) -> int:
    """Return the width of a table that nothing cuts short."""
    return render.out.measure(table, options=render.out.options.update(width=1000)).maximum


def terminal_table(section: Section, tables: Tables, contexts: range) -> Table:
    """Return a table of some of the contexts, by their numbers."""
    from snugfit.cli.tables_text import lead_cells, need_cells, short_context

    first, *rest = section.lead
    columns = [first, *(f">{name.replace(' ', chr(10))}" for name in rest)]
    for at in contexts:
        columns += [f"> {short_context(tables.contexts[at])}\n GiB", ">\nmin", ">\nsafer"]
    made = render.table(*columns)
    for row, needs in section.rows:
        cells = [render.safe(cell) for cell in lead_cells(section, row, needs)]
        for at in contexts:
            exact, minimum, safer = need_cells(needs[at])
            colours = (colour(needs[at].minimum), colour(needs[at].safer))
            cells += [f" {exact}", f"[{colours[0]}]{minimum}[/]", f"[{colours[1]}]{safer}[/]"]
        made.add_row(*cells)
    return made


def colour(cards: Cards | None) -> str:
    if cards is None or cards.gpus > 1:
        return "magenta"
    size = cards.size_bytes // GIB
    return next((name for most, name in COLOURS.items() if size <= most), "magenta")
