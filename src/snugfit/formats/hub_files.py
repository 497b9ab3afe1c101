"""What a Hub repository holds: its listing, checked, and its GGUF files grouped as people see them.

A quantization is one GGUF file or the set of its splits; projectors of images stand apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from snugfit.errors import FormatError, NetworkError
from snugfit.formats.gguf import SPLIT_NAME
from snugfit.formats.safetensors import INDEX_NAME

# How publishers write a mix into a file's name, the last one counting.
MIX = re.compile(
    r"(?<![A-Za-z0-9])((?:UD-)?(?:I?Q\d(?:_[A-Z0-9]+)*|TQ\d_\d|MXFP4(?:_MOE)?|NVFP4|BF16|F16|F32))"
    r"(?![A-Za-z0-9])",
    re.IGNORECASE,
)
# Files that are no language model of their own.
ASIDE = re.compile(r"mmproj|imatrix|^mtp-", re.IGNORECASE)


@dataclass(frozen=True)
class GgufSet:
    """One quantization: `files` in order; `parts` is how many there should be."""

    mix: str  # as its name says, or the name where it says nothing
    files: tuple[str, ...]
    size_bytes: int
    parts: int = 1
    is_aside: bool = False  # a projector, or a file that helps to quantize

    @property
    def is_whole(self) -> bool:
        return len(self.files) == self.parts


@dataclass(frozen=True)
class Listing:
    """A repository at one commit: file names and their bytes. Without a revision, of its main."""

    repository: str
    commit: str
    files: Mapping[str, int]
    is_kept: bool = False  # from the cache: the Hub was not asked, or did not answer
    revision: str | None = None  # as it was asked for: a branch, a tag or a commit

    @property
    def name(self) -> str:
        """The Hub name that stands for it."""
        return f"{self.repository}@{self.revision}" if self.revision else self.repository

    @property
    def has_safetensors(self) -> bool:
        return "config.json" in self.files and bool(self.safetensors)

    @property
    def safetensors(self) -> list[str]:
        """Weights at the top, as a folder has them; an index names its shards itself."""
        return sorted(n for n in self.files if n.endswith(".safetensors") and "/" not in n)

    @property
    def index(self) -> str | None:
        return INDEX_NAME if INDEX_NAME in self.files else None

    def gguf_sets(self) -> list[GgufSet]:
        """Return the quantizations, largest first, those aside last."""
        sets: dict[str, dict[int, str]] = {}
        parts: dict[str, int] = {}
        for name in sorted(self.files):
            if not name.lower().endswith(".gguf"):
                continue
            match = SPLIT_NAME.fullmatch(name)
            stem = match[1] if match else name[: -len(".gguf")]
            sets.setdefault(stem, {})[int(match[2]) if match else 1] = name
            parts[stem] = int(match[3]) if match else 1
        found = [self._set(stem, named, parts[stem]) for stem, named in sets.items()]
        return sorted(found, key=lambda one: (one.is_aside, -one.size_bytes, one.files))

    def _set(self, stem: str, named: Mapping[int, str], parts: int) -> GgufSet:
        files = tuple(named[number] for number in sorted(named))
        base = PurePosixPath(stem).name
        mixes = MIX.findall(base) or MIX.findall(stem)
        return GgufSet(
            mixes[-1].upper() if mixes else base,
            files,
            sum(self.files[name] for name in files),
            parts,
            bool(ASIDE.search(base)),
        )

    def models(self) -> list[GgufSet]:
        """Return the quantizations that are language models, each with all of its splits."""
        return [one for one in self.gguf_sets() if not one.is_aside and one.is_whole]

    def chosen(self, file: str) -> GgufSet:
        """Return the set that `file` names: a file, or a mix as Q4_K_M. Raises FormatError."""
        sets = self.gguf_sets()
        named = [one for one in sets if file in one.files]
        named = named or [one for one in self.models() if one.mix == file.upper()]
        if len(named) == 1 and named[0].is_whole:
            return named[0]
        if len(named) == 1:
            raise FormatError(
                f"{self.name}: of {file}, {len(named[0].files)} of {named[0].parts} splits "
                "are there. Name another file."
            )
        if named:
            raise FormatError(
                f"{self.name}: {len(named)} files are of the mix {file}. Name one: "
                f"{', '.join(one.files[0] for one in named)}."
            )
        mixes = ", ".join(dict.fromkeys(one.mix for one in self.models())) or "none"
        raise FormatError(f"{self.name}: no GGUF file or mix {file}. There are: {mixes}.")


def listing_of(repository: str, answer: Mapping[str, Any], revision: str | None = None) -> Listing:
    """Return the listing in the Hub's answer. Raises NetworkError where it makes no sense."""
    commit, siblings = answer.get("sha"), answer.get("siblings")
    if not isinstance(commit, str) or not commit or not isinstance(siblings, list):
        raise NetworkError(
            f"{repository}: the answer of the Hub lists no files. Check HF_ENDPOINT."
        )
    files: dict[str, int] = {}
    for sibling in siblings:
        name = sibling.get("rfilename") if isinstance(sibling, Mapping) else None
        if not isinstance(name, str):
            continue
        stored = sibling.get("lfs")
        size = stored.get("size") if isinstance(stored, Mapping) else sibling.get("size")
        if isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 2**60:
            files[name] = size
    return Listing(repository, commit, files, revision=revision)
