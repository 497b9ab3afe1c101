"""Hardware by name: the rows of profiles.toml, and how a name that someone wrote finds its row."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from snugfit.errors import UsageError
from snugfit.units import GIB, MIB

TABLE = Path(__file__).with_name("profiles.toml")
Kind = Literal["gpu", "unified", "phone", "cloud"]

# Words that drivers and people add or leave out; what is left tells products apart.
VENDOR_WORDS = re.compile(
    r"\b(?:nvidia|geforce|tesla|amd|ati|radeon|instinct|intel|apple|qualcomm|mediatek"
    r"|graphics|gpu|generation|corporation|integrated)\b"
)
SIZE = re.compile(r"(\d+(?:\.\d+)?) ?gi?b\b")
COUNT = re.compile(r"^(\d{1,2}) ?x +")


@dataclass(frozen=True)
class Profile:
    """One row. A cloud shape has the memory and bandwidth of its GPU, and RAM of its own."""

    name: str
    kind: Kind
    memory_bytes: tuple[int, ...]  # of one GPU, or of the one memory; each that can be bought
    read_bytes_per_s: int
    source: str
    gpus: int = 1
    gpu_name: str = ""
    driver_bytes: int = 0  # what the driver shows of the memory; 0: all
    gpu_share: float = 0.0  # of a shared memory; 0: Apple's rule
    ram_bytes: int = 0
    cores: int = 0
    link: str = ""
    operations_per_s: float = 0.0  # of 32-bit floats; 0: the maker does not say


@dataclass(frozen=True)
class Named:
    """One part of a hardware name: `2x RTX 3060 12GB` is two of a profile, with this memory."""

    profile: Profile
    count: int
    memory_bytes: int | None  # as written
    sizes: tuple[int, ...]  # that the name was sold with, in all its rows


def lookup(name: str, memory_bytes: float | None = None) -> Profile | None:
    """Return the profile that `name` names, of several parts the first; None if there is none.

    Exact but for case, vendors' words, sizes and repetitions, so that `RTX 4070` is never taken for
    a `RTX 4070 SUPER`. Where a name was sold with several bandwidths, `memory_bytes` or a size in
    the name decides, by the nearest; without one, the row that comes first.
    """
    part = name.split(" + ")[0].split(", ")[0]
    found = _named(part, memory_bytes)
    return found.profile if found else None


def parse(name: str) -> list[Named]:
    """Return the parts of `2x RTX 3090` or `RTX 5080 + RTX 3060 12GB`.

    Raises UsageError, with names that are close, for a part that has no profile.
    """
    parts = []
    for part in re.split(r" \+ |, ", name):
        named = _named(part, None)
        if named is None:
            import difflib

            near = difflib.get_close_matches(key_of(part), _by_key(), 3, 0.5)
            close = " or ".join(dict.fromkeys(_by_key()[key][0].name for key in near))
            meant = f" Did you mean {close}?" if close else ""
            raise UsageError(
                f"'{part}' is neither a machine file nor a known machine.{meant} "
                "See: snugfit machine --list"
            )
        parts.append(named)
    return parts


def rows() -> list[Profile]:
    """Return every row, in the table's order."""
    return list(dict.fromkeys(row for found in _by_key().values() for row in found))


def key_of(name: str) -> str:
    """Return the words of a name that tell products apart, in lower case."""
    text = re.sub(r"\([^)]*\)|[®™]|#\d+$", " ", name.lower())
    text = SIZE.sub(" ", re.sub(r"[-_\[\]]", " ", text)).strip()
    words = VENDOR_WORDS.sub(" ", COUNT.sub("", text)).split()
    return " ".join(word for at, word in enumerate(words) if at == 0 or word != words[at - 1])


def _named(part: str, memory_bytes: float | None) -> Named | None:
    rows = _by_key().get(key_of(part))
    if not rows:
        return None
    lowered = part.lower().strip()
    size = SIZE.search(lowered.replace("-", " "))
    count = COUNT.match(lowered)
    wanted = memory_bytes or (float(size[1]) * GIB if size else None)
    row = rows[0]
    if wanted:
        row = min(rows, key=lambda row: min(abs(size / wanted - 1) for size in row.memory_bytes))
    written = round(float(size[1]) * GIB) if size else None
    sizes = sorted({size for row in rows for size in row.memory_bytes})
    return Named(row, int(count[1]) if count else 1, written, tuple(sizes))


@functools.cache
def _by_key() -> Mapping[str, tuple[Profile, ...]]:
    """Return key -> rows, rows of one key in the table's order."""
    import tomllib

    document = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    sources, table = document["sources"], document["profiles"]
    found: dict[str, tuple[Profile, ...]] = {}

    def add(row: Mapping[str, Any], profile: Profile) -> None:
        for name in dict.fromkeys(map(key_of, (row["name"], *row.get("aliases", ())))):
            found[name] = (*found.get(name, ()), profile)

    for kind in ("gpu", "unified", "phone"):
        for row in table[kind]:
            add(row, _of_memory(row, kind, sources[row["source"]]))
    gpus = dict(found)
    for row in table["cloud"]:
        add(row, _of_shape(row, gpus, sources[row["source"]]))
    return found


def _of_memory(row: Mapping[str, Any], kind: Kind, source: str) -> Profile:
    return Profile(
        name=row["name"],
        kind=kind,
        memory_bytes=tuple(size * GIB for size in row["memory_gib"]),
        read_bytes_per_s=round(row["gb_per_s"] * 1e9),
        source=source,
        gpus=row.get("gpus", 1),
        gpu_name=row["name"],
        driver_bytes=row.get("driver_mib", 0) * MIB,
        gpu_share=row.get("gpu_share", 0.0),
        link=row.get("link", ""),
        operations_per_s=row.get("tflops", 0.0) * 1e12,
    )


def _of_shape(
    row: Mapping[str, Any], gpus: Mapping[str, tuple[Profile, ...]], source: str
) -> Profile:
    size = SIZE.search(row["gpu"].lower())
    of_gpu = gpus[key_of(row["gpu"])]
    wanted = int(size[1]) * GIB if size else of_gpu[0].memory_bytes[0]
    gpu = next(one for one in of_gpu if wanted in one.memory_bytes)
    return Profile(
        name=row["name"],
        kind="cloud",
        memory_bytes=(wanted,),
        read_bytes_per_s=gpu.read_bytes_per_s,
        source=source,
        gpus=row.get("gpus", 1),
        gpu_name=gpu.name,
        driver_bytes=gpu.driver_bytes,
        ram_bytes=row["ram_gib"] * GIB,
        cores=row["vcpus"] // 2,  # two hyper-threads a core
        link=gpu.link,
        operations_per_s=gpu.operations_per_s,
    )
