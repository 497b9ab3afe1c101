"""Headers that were read from the Hub, kept on disk: the same ones serve again, and offline.

A kept file is keyed by what it came from: endpoint, repository, commit and name. A commit never
changes, so nothing kept goes stale but a repository's listing, which is read anew when it can be.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path


def cache_folder() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("snugfit", appauthor=False) / "headers"


@dataclass(frozen=True)
class HeaderCache:
    """Bytes by key, below one folder. A cache that cannot be written is one that stays empty."""

    folder: Path

    def path(self, repository: str, *key: str) -> Path:
        # Names come from strangers; none of them becomes part of a path as it is.
        digest = hashlib.sha256("\n".join((repository, *key)).encode()).hexdigest()
        readable = "".join(c if c.isalnum() or c in "-_" else "-" for c in repository)
        return self.folder / readable / digest[:32]

    def read(self, repository: str, *key: str) -> bytes | None:
        with contextlib.suppress(OSError):
            return self.path(repository, *key).read_bytes()
        return None

    def write(self, content: bytes, repository: str, *key: str) -> None:
        path = self.path(repository, *key)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, partial = tempfile.mkstemp(dir=path.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(content)
                Path(partial).replace(path)
            except BaseException:
                Path(partial).unlink(missing_ok=True)
                raise
