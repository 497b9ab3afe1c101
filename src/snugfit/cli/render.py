"""How results look: tables on stdout, progress and warnings on stderr, or one JSON document."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from snugfit.errors import printable

if TYPE_CHECKING:
    from rich.progress import Progress

VENDOR_WORDS = ("NVIDIA ", "GeForce ", "AMD ", "Radeon ", "Intel ", "Apple ")
SECONDS_BEFORE_A_BAR = 2.0
SECONDS_BETWEEN_LINES = 15.0  # where stderr is a log, not a terminal

# Without emoji: a `:key:` in a model's name is no picture, and the table of them is slow to load.
out = Console(highlight=False, emoji=False)
err = Console(stderr=True, highlight=False, emoji=False)


def print_json(document: Mapping[str, Any]) -> None:
    """Write one document to stdout. A NaN would not be JSON, and none is ever meant."""
    json.dump(document, sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


def table(*columns: str, title: str = "") -> Table:
    """Return an empty table; a column whose name starts with `>` holds numbers."""
    made = Table(
        title=title or None, title_justify="left", title_style="bold", box=None, pad_edge=False
    )
    for column in columns:
        is_number = column.startswith(">")
        made.add_column(
            column.lstrip(">"),
            justify="right" if is_number else "left",
            header_style="dim",
            no_wrap=is_number,
        )
    return made


def safe(text: str) -> str:
    """Return text from a file, such as a tensor's name, so that it cannot steer the terminal."""
    return escape(printable(text))


def heading(text: str) -> None:
    out.print(f"\n[bold]{text}[/]")


def short_name(device: str) -> str:
    """Return a device's name without what all of its vendor's have, so that tables stay narrow."""
    for words in VENDOR_WORDS:
        device = device.removeprefix(words)
    return safe(device)


def items(lines: Iterable[str]) -> None:
    """Print a list whose long lines fold under their own beginning."""
    made = Table.grid(padding=(0, 1))
    for line in lines:
        made.add_row("  -", escape(line))
    out.print(made)


def note(text: str) -> None:
    err.print(f"[dim]{text}[/]")


def warn(text: str) -> None:
    err.print(f"[yellow]warning:[/] {text}")


def next_command(command: str) -> None:
    """Print the command that people want next; never folded, so that it can be copied."""
    out.print(f"\n[dim]Next:[/] [bold]{safe(command)}[/]", soft_wrap=True)


class Bar:
    """Progress that shows itself only once a job turns out to take longer than two seconds.

    Called with (done, total). On a terminal it is a bar with rate and time left; in a log, a line
    every quarter of a minute.
    """

    def __init__(self, label: str, unit: str) -> None:
        self.label, self.unit = label, unit
        self.began = self.last_line = time.monotonic()
        self.progress: Progress | None = None  # of one task

    def __call__(self, done: int, total: int) -> None:
        elapsed = time.monotonic() - self.began
        if elapsed < SECONDS_BEFORE_A_BAR or not done:
            return
        rate = done / elapsed
        if not err.is_terminal:
            self._line(done, total, rate)
            return
        if self.progress is None:
            self.progress = self._shown(total)
        (task,) = self.progress.task_ids
        shown = f"{scaled(rate)} {self.unit}/s"
        self.progress.update(task, completed=done, total=total, rate=shown)

    def _shown(self, total: int) -> Progress:
        from rich.progress import (
            BarColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=err,
            transient=True,
        )
        progress.start()
        progress.add_task(self.label, total=total, rate="")
        return progress

    def _line(self, done: int, total: int, rate: float) -> None:
        now = time.monotonic()
        if now - self.last_line < SECONDS_BETWEEN_LINES:
            return
        self.last_line = now
        left = (total - done) / rate
        err.print(
            f"{self.label}: {done / total:.0%}, {scaled(rate)} {self.unit}/s, {left:.0f} s left"
        )

    def close(self) -> None:
        if self.progress is not None:
            self.progress.stop()


@contextmanager
def bar(label: str, unit: str) -> Iterator[Bar]:
    shown = Bar(label, unit)
    try:
        yield shown
    finally:
        shown.close()


@contextmanager
def waiting(label: str) -> Iterator[None]:
    """Show, on a terminal, how long something has taken that cannot say how far it is."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        progress.add_task(label, total=None)
        yield


def scaled(value: float) -> str:
    """Write a count with three digits: 8.14 million, 117 billion, 45.1 thousand, 7.25."""
    for limit, prefix in (
        (1e12, " trillion"),
        (1e9, " billion"),
        (1e6, " million"),
        (1e3, " thousand"),
    ):
        if value >= limit:
            return f"{value / limit:.3g}{prefix}"
    return f"{value:.3g}"


@contextmanager
def stages(units: Mapping[str, str], otherwise: str) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a callable (stage, done, total) that shows one bar after another, a bar a stage."""
    shown: dict[str, Bar] = {}

    def report(stage: str, done: int, total: int) -> None:
        if stage not in shown:
            for earlier in shown.values():
                earlier.close()
            shown[stage] = Bar(stage, units.get(stage, otherwise))
        shown[stage](done, total)

    try:
        yield report
    finally:
        for one in shown.values():
            one.close()
