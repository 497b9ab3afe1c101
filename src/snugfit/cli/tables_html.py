"""The tables as one HTML file: readable in light and dark, and nothing is loaded from elsewhere."""

from __future__ import annotations

import html
import importlib.metadata
from pathlib import Path

from snugfit.cli.tables_text import (
    Section,
    facts,
    label_of,
    lead_cells,
    need_cells,
    sections,
)
from snugfit.errors import printable
from snugfit.tables import Cards, Need, Row, Tables, definitions, examples_of
from snugfit.units import GIB, format_size

STYLE = Path(__file__).with_name("tables.css")
# Largest memory of each colour, in GiB; what no single GPU of these has comes last.
COLOUR_STEPS = (8, 12, 16, 24, 32, 48, 96)


def page(tables: Tables) -> str:
    """Return the whole document. Names come from strangers, so every text is escaped."""
    title = f"{_text(tables.model)}: GPU memory by quantization and context"
    version = importlib.metadata.version("snugfit")
    head = [
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>{title}</title>",
        f"<style>\n{STYLE.read_text(encoding='utf-8')}</style>",
    ]
    body = [
        f"<h1>{title}</h1>",
        f'<p class="facts">{_text(facts(tables))}</p>',
        *(_section(section, tables) for section in sections(tables)),
        "<h2>GPUs and servers with so much</h2>",
        f'<ul class="legend">{"".join(map(_legend, tables.cards))}</ul>',
        "<h2>What the columns say</h2>",
        f"<dl>{''.join(_definition(*one) for one in definitions(tables).items())}</dl>",
        f"<footer>Written by snugfit tables, version {_text(version)}.</footer>",
    ]
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en">\n<head>',
            *head,
            "</head>\n<body>\n<main>",
            *body,
            "</main>\n</body>\n</html>\n",
        )
    )


def _text(text: str) -> str:
    return html.escape(printable(text))


def _section(section: Section, tables: Tables) -> str:
    upper = "".join(f'<th scope="col" rowspan="2">{_text(name)}</th>' for name in section.lead)
    upper += "".join(
        f'<th scope="colgroup" colspan="3" class="first">{ctx:,} tokens</th>'
        for ctx in tables.contexts
    )
    lower = (
        '<th scope="col" class="first">GiB</th><th scope="col">min</th><th scope="col">safer</th>'
    ) * len(tables.contexts)
    rows = "\n".join(_row(section, row, needs) for row, needs in section.rows)
    return (
        f'<h2>{_text(section.title)}</h2>\n<div class="wide" tabindex="0"><table>\n'
        f"<thead><tr>{upper}</tr>\n<tr>{lower}</tr></thead>\n"
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )


def _row(section: Section, row: Row, needs: tuple[Need, ...]) -> str:
    name, *others = map(_text, lead_cells(section, row, needs))
    cells = [
        f'<th scope="row" title="{row.file_bytes:,} bytes">{name}</th>',
        *(f"<td>{cell}</td>" for cell in others),
        *map(_need, needs),
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _need(need: Need) -> str:
    exact, minimum, safer = map(_text, need_cells(need))
    parts = (
        f"{need.gpu_bytes:,} bytes: weights {format_size(need.gpu_weights_bytes)}, "
        f"cache {format_size(need.gpu_cache_bytes)}, compute "
        f"{format_size(need.gpu_compute_bytes)}, other {format_size(need.gpu_overhead_bytes)}"
    )
    return (
        f'<td class="first" title="{parts}">{exact}</td>'
        f'<td class="{_colour(need.minimum)}">{minimum}</td>'
        f'<td class="{_colour(need.safer)}" title="{need.gpu_safer_bytes:,} bytes">{safer}</td>'
    )


def _colour(cards: Cards | None) -> str:
    if cards is None or cards.gpus > 1:
        return "to-more"
    size = cards.size_bytes // GIB
    return next((f"to-{step}" for step in COLOUR_STEPS if size <= step), "to-more")


def _legend(cards: Cards) -> str:
    examples = _text(", ".join(examples_of(cards)))
    return f'<li><b class="{_colour(cards)}">{label_of(cards)} GiB</b>{examples}</li>'


def _definition(term: str, text: str) -> str:
    return f"<dt>{_text(term)}</dt><dd>{_text(text)}</dd>"
