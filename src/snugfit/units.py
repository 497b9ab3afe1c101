"""Sizes in bytes, read from and written for people. GiB (2^30) and GB (1e9) differ by 7 %."""

from __future__ import annotations

import re

from snugfit.errors import UsageError

BYTES_OF_UNIT = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
UNIT_OF_LOWER_CASE = {unit.lower(): unit for unit in BYTES_OF_UNIT}
KIB, MIB, GIB = 2**10, 2**20, 2**30


def parse_size(text: str) -> int:
    """Return the bytes that `15.2GiB`, `16GB`, `900MiB` or `3777568B` name, rounded down.

    Raises UsageError without a unit: nobody knows whether `16` or `16G` means GB or GiB.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", text)
    unit = UNIT_OF_LOWER_CASE.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise UsageError(
            f"'{text}' is not a size. Write a number and a unit, as 15.2GiB, 16GB or 900MiB."
        )
    return int(float(match[1]) * BYTES_OF_UNIT[unit])


def parse_sizes(text: str) -> list[int]:
    """Return the bytes of a comma-separated list of sizes, such as `24GiB,16GiB`."""
    return [parse_size(part) for part in text.split(",")]


def format_rate(per_second: float) -> str:
    """Write a rate with three digits, and never as a power of ten: 0.84, 42.3, 1,210."""
    return f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:.3g}"


def format_size(size_bytes: float) -> str:
    """Write bytes with a binary unit and three or four digits: `15.2 GiB`, `900 MiB`, `512 B`."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if abs(size_bytes) >= BYTES_OF_UNIT[unit]:
            value = size_bytes / BYTES_OF_UNIT[unit]
            return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"
    return f"{size_bytes:.0f} B"


def format_seconds(seconds: float) -> str:
    """Write a time with its two largest units: `5 h 20 min`, `3 min 8 s`, `12 s`, `under 1 s`."""
    whole = round(seconds)
    if whole < 1:
        return "under 1 s"
    units = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
    first = next(place for place, (_, length) in enumerate(units) if whole >= length)
    parts = []
    for name, length in units[first : first + 2]:
        count, whole = divmod(whole, length)
        if count:
            parts.append(f"{count} {name}")
    return " ".join(parts)
