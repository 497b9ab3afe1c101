"""Read rates that were measured here, kept in the user's cache so that they are measured once."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from snugfit.errors import OutputError

METAL = "mps"  # torch's name for the one GPU of a Mac, whose chip it does not tell
HIGHEST_RATE = 10**15  # bytes a second; beyond it a number is damage, not a memory


def path() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("snugfit", appauthor=False) / "read_rates.json"


def read(file: Path | None = None) -> dict[str, int]:
    """Return memory -> bytes a second. A file that is absent or damaged counts as empty."""
    try:
        document = json.loads((file or path()).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(document, dict):
        return {}
    return {
        name: rate
        for name, rate in document.items()
        if type(rate) is int and 0 < rate < HIGHEST_RATE
    }


def add(rates: Mapping[str, int], file: Path | None = None) -> Path:
    """Add to what is kept, in one step, and return the file. Raises OutputError."""
    file = file or path()
    beside = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(read(file) | dict(rates), indent=2) + "\n", encoding="utf-8")
        beside.replace(file)
    except OSError as error:
        raise OutputError(f"{file}: cannot be written ({error.strerror}).") from error
    return file
