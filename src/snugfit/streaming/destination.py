"""The files of one output while they are made: begun or gone on with, then renamed or removed."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from snugfit.errors import OutputError
from snugfit.formats.gguf import SPLIT_NAME
from snugfit.formats.gguf_writer import Layout, check_space, output_errors, partial_of
from snugfit.streaming.journal import Journal, Runs, covers
from snugfit.streaming.outputs import Output, Part, whole_path
from snugfit.streaming.tasks import Place, Target

Notice = Callable[[str], None]


class Destination:
    """The partial files of one output, locked, and what its journal says of them.

    Raises OutputError if they cannot be made or another process makes them.
    """

    def __init__(self, output: Output, parts: Sequence[Part], fingerprint: str) -> None:
        self.output, self.parts, self.fingerprint = output, parts, fingerprint
        self.layouts = [part.layout for part in parts]
        self.file_bytes = sum(layout.file_bytes for layout in self.layouts)
        names = [tensor.name for part in parts for tensor in part.tensors]
        self.numbers = {name: number for number, name in enumerate(names)}
        self.descriptors: list[int] = []
        self.done: Runs = {}
        self.journal = Journal(whole_path(output))

    @property
    def target(self) -> Target:
        places = {
            tensor.name: Place(part.partial, layout.offsets[tensor.name], tensor)
            for part, layout in zip(self.parts, self.layouts, strict=True)
            for tensor in part.tensors
        }
        return Target(self.output.path, self.file_bytes, places)

    def find(self, notice: Notice) -> None:
        """Take over what an earlier run left of the same output, or remove it."""
        runs = self.journal.done(self.fingerprint)
        if runs is not None and all(map(_is_begun, self.parts, self.layouts)):
            self.done = runs
            if runs:
                notice(f"{self.output.path}: going on where an earlier run stopped.")
            return
        if not self.journal.is_empty:
            notice(
                f"{self.output.path}: what an earlier run left is of other weights or settings; "
                "starting anew."
            )
        self.journal.clear()
        for stale in self._partials():
            stale.unlink(missing_ok=True)

    def missing_bytes(self) -> int:
        """Return the bytes that the disk has still to give."""
        present = sum(
            getattr(part.partial.stat(), "st_blocks", 0) * 512
            for part in self.parts
            if part.partial.exists()
        )
        return max(0, self.file_bytes - present)

    def begin(self) -> None:
        """Make what is not there yet, of its full size, which takes no space by itself."""
        with output_errors(self.output.path, self.file_bytes):
            is_new = not all(part.partial.exists() for part in self.parts)
            for part, layout in zip(self.parts, self.layouts, strict=True):
                if is_new:
                    with part.partial.open("wb") as file:
                        file.write(layout.header)
                        file.truncate(layout.file_bytes)
                self.descriptors.append(
                    os.open(part.partial, os.O_RDWR | getattr(os, "O_BINARY", 0))
                )
            if is_new:
                self.journal.begin(self.fingerprint)

    def has(self, tensor: str, first: int, rows: int) -> bool:
        return covers(self.done.get(self.numbers[tensor], ()), first, rows)

    def sync(self) -> None:
        """Wait until what was written is on the disk."""
        with output_errors(self.output.path, self.file_bytes):
            for descriptor in self.descriptors:
                getattr(os, "fdatasync", os.fsync)(descriptor)

    def note(self, runs: Sequence[tuple[str, int, int]]) -> None:
        """Add finished runs (tensor, first row, rows) to the journal."""
        with output_errors(self.output.path, self.file_bytes):
            self.journal.add((self.numbers[name], first, rows) for name, first, rows in runs)

    def publish(self) -> None:
        """Give the whole files their names: the first split's last, so that it stands for all."""
        with output_errors(self.output.path, self.file_bytes):
            self._close_files()
            if len(self.parts) > 1:
                self.parts[0].path.unlink(missing_ok=True)
            for part in [*self.parts[1:], self.parts[0]]:
                part.partial.replace(part.path)
            _sync_folder(self.output.path.parent)
        self.journal.close(keep=False)

    def keep(self) -> None:
        """Leave what is done for a later run."""
        self._close_files()
        self.journal.close(keep=True)

    def abandon(self) -> None:
        self._close_files()
        for partial in self._partials():
            with contextlib.suppress(OSError):
                partial.unlink()
        with contextlib.suppress(OSError):
            self.journal.close(keep=False)

    def _close_files(self) -> None:
        while self.descriptors:
            os.close(self.descriptors.pop())

    def _partials(self) -> set[Path]:
        """Return the partial files of this output, those of another number of splits too."""
        whole = whole_path(self.output)
        found = {partial_of(whole), *(part.partial for part in self.parts)}
        for path in whole.parent.glob("." + "?" * len(whole.stem) + "-*.gguf.partial"):
            match = SPLIT_NAME.fullmatch(path.name.removeprefix(".").removesuffix(".partial"))
            if match and match[1] == whole.stem:
                found.add(path)
        return found


def _is_begun(part: Part, layout: Layout) -> bool:
    """Return whether a partial file is there, of its size and with its header."""
    try:
        with part.partial.open("rb") as file:
            header = file.read(len(layout.header))
            return header == layout.header and os.fstat(file.fileno()).st_size == layout.file_bytes
    except OSError:
        return False


def check_free(destinations: Sequence[Destination]) -> None:
    """Raise OutputError if a disk has no room for all that is to be written to it."""
    needed: dict[int, int] = {}
    for destination in destinations:
        path = destination.output.path
        with output_errors(path, destination.file_bytes):
            device = path.parent.stat().st_dev
            needed[device] = needed.get(device, 0) + destination.missing_bytes()
            check_space(path, needed[device])


def check_apart(parts: Sequence[Part]) -> None:
    """Raise OutputError if two files of a pass have one name."""
    seen: set[Path] = set()
    for part in parts:
        path = part.path.absolute()
        if path in seen:
            raise OutputError(f"{part.path}: is named twice. Give every output its own name.")
        seen.add(path)


def _sync_folder(folder: Path) -> None:
    """Make a rename outlive a power cut, where the system has a way to."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems refuse
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
