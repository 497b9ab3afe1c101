"""What is done of an output, kept beside its partial files; the lock on them, too.

The first line names what is being made: a hash of everything that its bytes depend on. Each line
after it is a finished run of rows: `CHECK TENSOR FIRST ROWS`, CHECK being the CRC-32 of the rest.
A line is added when its bytes are on the disk, so that what was written is believed after a kill
at any moment; a last line that is cut short fails its check.
"""

from __future__ import annotations

import contextlib
import os
import sys
import zlib
from collections.abc import Iterable
from pathlib import Path

from snugfit.errors import OutputError
from snugfit.formats.gguf_writer import OUT_OF_SPACE

TITLE = "snugfit journal 1"
Runs = dict[int, list[tuple[int, int]]]  # number of a tensor -> (first row, end) of runs


def journal_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial.journal")


class Journal:
    """The open and locked journal of one output; only one process has it at a time.

    Raises OutputError if another process has it, or the folder cannot be written to.
    """

    def __init__(self, output: Path) -> None:
        self.output, self.path = output, journal_of(output)
        try:
            self.descriptor = self._locked()
        except OSError as error:
            if error.errno in OUT_OF_SPACE:
                raise OutputError(f"{output}: the disk is full. Free some, then go on.") from None
            raise OutputError(
                f"{output}: cannot be written ({error.strerror}). Choose another path with -o."
            ) from None

    def _locked(self) -> int:
        """Return the journal's descriptor once its file is both locked and still there."""
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0))
            try:
                if not lock(descriptor):
                    raise OutputError(
                        f"{self.output}: another process is writing it. Wait for it, or choose "
                        "another path with -o."
                    )
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(descriptor), self.path.stat()):
                        return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    @property
    def is_empty(self) -> bool:
        return os.fstat(self.descriptor).st_size == 0

    def done(self, fingerprint: str) -> Runs | None:
        """Return the finished runs, or None if the journal is of something else."""
        runs: Runs = {}
        with self.path.open("rb") as file:
            title = file.readline()
            if title != _first_line(fingerprint):
                return None
            sound_bytes = len(title)
            for line in file:
                run = _parsed(line)
                if run is None:  # cut short, and with it all that may follow
                    break
                tensor, first, rows = run
                runs.setdefault(tensor, []).append((first, first + rows))
                sound_bytes += len(line)
        os.truncate(self.descriptor, sound_bytes)
        return {tensor: merged(of_tensor) for tensor, of_tensor in runs.items()}

    def clear(self) -> None:
        os.truncate(self.descriptor, 0)

    def begin(self, fingerprint: str) -> None:
        """Start anew; the partial files are there by now."""
        self.clear()
        self._append(_first_line(fingerprint))

    def add(self, runs: Iterable[tuple[int, int, int]]) -> None:
        """Note finished runs (tensor, first row, rows), whose bytes are on the disk."""
        self._append(b"".join(_line(*run) for run in runs))

    def _append(self, text: bytes) -> None:
        os.lseek(self.descriptor, 0, os.SEEK_END)
        while text:
            text = text[os.write(self.descriptor, text) :]

    def close(self, *, keep: bool) -> None:
        """Unlock the journal; without `keep`, it is gone."""
        if not keep:
            self.path.unlink(missing_ok=True)
        os.close(self.descriptor)


def lock(descriptor: int) -> bool:
    """Lock a file until it is closed; return whether nobody else has."""
    if sys.platform == "win32":  # there an open file cannot be replaced anyway
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def merged(runs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return runs (first, end) in order, those that touch as one."""
    found: list[tuple[int, int]] = []
    for first, end in sorted(runs):
        if found and first <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((first, end))
    return found


def covers(runs: Iterable[tuple[int, int]], first: int, rows: int) -> bool:
    """Return whether merged runs hold all rows of another."""
    return any(begin <= first and first + rows <= end for begin, end in runs)


def _first_line(fingerprint: str) -> bytes:
    return f"{TITLE} {fingerprint}\n".encode()


def _line(tensor: int, first: int, rows: int) -> bytes:
    text = f"{tensor} {first} {rows}".encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _parsed(line: bytes) -> tuple[int, int, int] | None:
    check, _, text = line.removesuffix(b"\n").partition(b" ")
    if not line.endswith(b"\n") or check != b"%08x" % zlib.crc32(text):
        return None
    try:
        tensor, first, rows = map(int, text.split())
    except ValueError:
        return None
    return tensor, first, rows
