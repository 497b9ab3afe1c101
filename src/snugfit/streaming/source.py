"""Whether the files that a model is read from are still those that were opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from snugfit.errors import FormatError


@dataclass(frozen=True)
class SourceFile:
    """A file as it was when the pass began."""

    path: Path
    size: int
    modified_ns: int
    inode: int


def source_files(paths: Sequence[Path]) -> tuple[SourceFile, ...]:
    return tuple(_seen(path) for path in paths)


def check_unchanged(files: Sequence[SourceFile]) -> None:
    """Raise FormatError if a file is no longer what it was."""
    for file in files:
        if _seen(file.path) != file:
            raise FormatError(
                f"{file.path}: changed while it was read. Start again when it is complete."
            )


def _seen(path: Path) -> SourceFile:
    try:
        status = path.stat()
    except OSError as error:
        raise FormatError(f"{path}: cannot be read any more ({error.strerror}).") from None
    return SourceFile(path, status.st_size, status.st_mtime_ns, status.st_ino)
