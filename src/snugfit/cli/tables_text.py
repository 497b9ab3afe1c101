"""What every rendering of the tables shares, and two of them: Markdown and CSV."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass

from snugfit.cli.render import scaled
from snugfit.errors import printable
from snugfit.tables import Cards, Need, Row, Tables, definitions, examples_of
from snugfit.units import GIB

NOBODY_SELLS = "more"
# A spreadsheet takes text that begins with one of these for a formula.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Section:
    """One table: every row with its needs in one placement of the experts."""

    title: str
    rows: tuple[tuple[Row, tuple[Need, ...]], ...]
    is_whole: bool  # everything on the GPU; else experts in RAM, which is a column then

    @property
    def lead(self) -> tuple[str, ...]:
        """Headings of the columns before those of each context."""
        if self.is_whole:
            return ("mix", "bits", "file GiB")
        return ("mix", "file GiB", "RAM GiB", "of")


def sections(tables: Tables) -> list[Section]:
    whole = tuple((row, row.whole) for row in tables.rows)
    found = [Section("All on the GPU", whole, True)]
    if tables.has_experts:
        in_ram = tuple((row, row.experts_in_ram) for row in tables.rows)
        found.append(Section(f"Experts in RAM (-ncmoe {tables.layers})", in_ram, False))
    return found


def lead_cells(section: Section, row: Row, needs: tuple[Need, ...]) -> tuple[str, ...]:
    """Return the texts under `Section.lead`; RAM is that of the longest context."""
    name, file = printable(row.quantization), gib(row.file_bytes)
    if section.is_whole:
        return name, f"{row.bits_per_weight:.2f}", file
    most = max(needs, key=lambda need: need.ram_bytes)
    size = most.ram_size_bytes
    return name, file, gib(most.ram_bytes), str(size // GIB) if size else NOBODY_SELLS


def need_cells(need: Need) -> tuple[str, str, str]:
    return gib(need.gpu_bytes), label_of(need.minimum), label_of(need.safer)


def gib(size_bytes: int) -> str:
    """Write GiB without the unit, which stands in the heading: 0.02, 15.8, 792."""
    value = size_bytes / GIB
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}"


def label_of(cards: Cards | None) -> str:
    return cards.label if cards else NOBODY_SELLS


def short_context(ctx: int) -> str:
    """Write a context as people do: 8k, 128k, 1M; others in full."""
    for unit, tokens in (("M", 2**20), ("k", 2**10)):
        if ctx % tokens == 0 and ctx:
            return f"{ctx // tokens}{unit}"
    return f"{ctx:,}"


def facts(tables: Tables) -> str:
    """Return what the tables are about, in one line."""
    parts = [
        printable(tables.architecture),
        f"{scaled(tables.parameters)} parameters",
        f"KV cache in {tables.kv_type.lower()}",
        "one request at a time",
    ]
    return ", ".join(parts) + (f"; {printable(tables.note)}" if tables.note else "")


def markdown(tables: Tables) -> str:
    """Return tables in the dialect of GitHub."""
    lines = [f"# {_for_markdown(tables.model)}: GPU memory by quantization and context", ""]
    lines += [_for_markdown(facts(tables)), ""]
    for section in sections(tables):
        columns = list(section.lead)
        for ctx in tables.contexts:
            columns += [f"GiB at {short_context(ctx)}", "min", "safer"]
        lines += [f"## {section.title}", "", _line(columns)]
        lines += ["|---|" + "--:|" * (len(columns) - 1)]
        for row, needs in section.rows:
            cells = [*lead_cells(section, row, needs)]
            for need in needs:
                cells += need_cells(need)
            lines.append(_line([_for_markdown(cell) for cell in cells]))
        lines.append("")
    lines += ["## What the columns say", ""]
    lines += [f"- **{term}**: {_for_markdown(text)}" for term, text in definitions(tables).items()]
    lines += ["", "GPUs and servers with so many GiB:", ""]
    lines += [f"- **{cards.label}**: {', '.join(examples_of(cards))}" for cards in tables.cards]
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _for_markdown(text: str) -> str:
    """Escape what would end a cell, or become a link, emphasis, code or HTML."""
    return re.sub(r"([\\|`*\[\]<>&])", r"\\\1", printable(text))


CSV_COLUMNS = (
    "model",
    "quantization",
    "bits_per_weight",
    "file_bytes",
    "kv_type",
    "experts",
    "ctx",
    "gpu_weights_bytes",
    "gpu_cache_bytes",
    "gpu_compute_bytes",
    "gpu_overhead_bytes",
    "gpu_bytes",
    "gpu_safer_bytes",
    "minimum_gpus",
    "minimum_gpu_bytes",
    "safer_gpus",
    "safer_gpu_bytes",
    "ram_bytes",
    "ram_size_bytes",
)


def comma_separated(tables: Tables) -> str:
    """Return one line for each file, placement of experts and context, as RFC 4180 writes it."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\r\n")
    writer.writerow(CSV_COLUMNS)
    for section in sections(tables):
        experts = ("gpu" if section.is_whole else "ram") if tables.has_experts else ""
        for row, needs in section.rows:
            for need in needs:
                known = vars(row) | vars(need)
                known |= {"model": tables.model, "kv_type": tables.kv_type.lower()}
                known |= {"experts": experts}
                for name, cards in (("minimum", need.minimum), ("safer", need.safer)):
                    known[f"{name}_gpus"] = cards.gpus if cards else ""
                    known[f"{name}_gpu_bytes"] = cards.size_bytes if cards else ""
                writer.writerow([_for_csv(known[column]) for column in CSV_COLUMNS])
    return stream.getvalue()


def _for_csv(value: object) -> object:
    if value is None:
        return ""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.lstrip().startswith(FORMULA_STARTS) else text
