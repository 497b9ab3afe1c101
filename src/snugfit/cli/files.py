"""Text files that appear under their name when they are whole."""

from __future__ import annotations

from pathlib import Path

from snugfit.errors import OutputError


def write_text(path: Path, text: str) -> None:
    """Write UTF-8, line ends as they are, beside `path`, then rename. Raises OutputError."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        try:
            partial.write_bytes(text.encode())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror}). Choose another path with -o."
        ) from None
