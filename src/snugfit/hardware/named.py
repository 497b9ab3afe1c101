"""A machine that is not here: by the name of a profile, or from a file that describes it."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from snugfit.core import Device, Holder, Machine
from snugfit.errors import FormatError, UsageError, printable
from snugfit.hardware import apple, detect, profiles
from snugfit.hardware.pci import link_of
from snugfit.hardware.profiles import Named, Profile
from snugfit.units import GIB, MIB, format_size, parse_size

# What an NVIDIA driver keeps for itself: of 24564 MiB on an RTX 4090, llama.cpp is offered 24077
# (tools/fit-params/README.md). Assumed of all vendors.
DRIVER_BYTES = 512 * MIB
# What system and desktop hold where nothing else runs: assumed, as the table's note says.
SYSTEM_BYTES: Mapping[profiles.Kind, int] = {"unified": 4 * GIB, "phone": 4 * GIB, "cloud": GIB}

LONGEST_FILE_BYTES, MOST_DEVICES, LONGEST_TEXT = 1 * MIB, 64, 200
LARGEST_NUMBER = 2**60  # an exbibyte, beyond any memory and any rate


def machine_named(text: str, here: Callable[[], Machine] = detect.detect) -> Machine:
    """Return the machine that `--machine` names: a .json or .toml file, a profile, or GPUs.

    `RTX 4090` or `2x RTX 3090` are GPUs in the machine that `here` returns, in place of its own;
    an `Apple M4 Max 64GB` or a `g5.2xlarge` is a whole machine. Raises UsageError, FormatError.
    """
    path = Path(text)
    if path.suffix.lower() in (".json", ".toml") or path.is_file():
        return machine_in(path)
    parts = profiles.parse(text)
    if all(part.profile.kind == "gpu" for part in parts):
        base = here()
        gpus = [
            replace(gpu, note=f"{gpu.note}; {part.profile.source}")
            for part in parts
            for gpu in _gpus_of(part)
        ]
        ram = replace(detect.whole_ram(base), note="of this computer")
        return Machine(text, base.processor, base.cores, detect.assemble(ram, gpus))
    if len(parts) > 1 or parts[0].count > 1:
        raise UsageError(f"'{text}': only GPUs can be put together; name one machine.")
    return _whole_machine(parts[0])


def _gpus_of(part: Named) -> list[Device]:
    profile = part.profile
    memory = _memory_of(part)
    total = profile.driver_bytes or memory
    link = link_of(profile.link)
    gpu = Device(
        profile.gpu_name,
        "gpu",
        total,
        total - DRIVER_BYTES,
        f"{format_size(DRIVER_BYTES)} for its driver, assumed",
        read_bytes_per_s=profile.read_bytes_per_s,
        read_basis="profile",
        link=str(link) if link else "",
        link_bytes_per_s=link.bytes_per_s if link else None,
    )
    return [gpu] * (profile.gpus * part.count)


def _memory_of(part: Named) -> int:
    """Return the memory that was written, or the only one there is. Raises UsageError."""
    name, sizes = part.profile.name, part.sizes
    if part.memory_bytes is None and len(sizes) == 1:
        return sizes[0]
    if part.memory_bytes in sizes:
        return part.memory_bytes or 0
    listed = " or ".join(f"{size // GIB}GB" for size in sizes)
    raise UsageError(f"{name} comes with {listed}. Write it, as '{name} {sizes[-1] // GIB}GB'.")


def _whole_machine(part: Named) -> Machine:
    profile = part.profile
    memory = profile.ram_bytes or _memory_of(part)
    system = min(SYSTEM_BYTES[profile.kind], memory // 2)
    is_shared = profile.kind != "cloud"
    ram = Device(
        "RAM",
        "ram",
        memory,
        memory - system,
        f"{format_size(system)} for the system assumed; {profile.source}",
        read_bytes_per_s=profile.read_bytes_per_s if is_shared else None,
        read_basis="profile" if is_shared else "unknown",
    )
    gpus: list[Device] = []
    if profile.kind == "cloud":
        gpus = _gpus_of(part)
    elif profile.kind == "unified":
        gpus = [_shared_gpu(profile, memory)]
    return Machine(profile.name, "", profile.cores, detect.assemble(ram, gpus))


def _shared_gpu(profile: Profile, memory: int) -> Device:
    share = profile.gpu_share
    limit = round(share * memory) if share else apple.wired_limit(memory)
    return Device(
        f"{profile.name} GPU",
        "gpu",
        limit,
        limit,
        "a share of RAM",
        read_bytes_per_s=profile.read_bytes_per_s,
        read_basis="profile",
        shares_ram=True,
    )


def machine_in(path: Path) -> Machine:
    """Read a machine from a file as `snugfit machine --json` writes it, in JSON or TOML.

    A device needs name, kind and total_bytes; sizes may be text, as "24GiB". Fields that are not
    known are passed over, so that files of later versions can be read. Raises UsageError for a file
    that cannot be read, FormatError for one that is not a machine.
    """
    try:
        if path.stat().st_size > LONGEST_FILE_BYTES:
            raise FormatError(f"{path}: is {format_size(path.stat().st_size)}, too long.")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: is not text.") from error
    is_toml = path.suffix.lower() == ".toml"
    try:
        document = tomllib.loads(text) if is_toml else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: is not {'TOML' if is_toml else 'JSON'} ({error}).") from error
    try:
        return _machine(document)
    except ValueError as error:
        raise FormatError(f"{path}: {error}. Compare: snugfit machine --json") from error


def _machine(document: Any) -> Machine:
    """Check and convert. Raises ValueError with what is wrong."""
    devices = document.get("devices") if isinstance(document, dict) else None
    if not isinstance(devices, list) or not 0 < len(devices) <= MOST_DEVICES:
        raise ValueError(f"needs `devices`, a list of 1 to {MOST_DEVICES}")
    found = [_device(entry, number) for number, entry in enumerate(devices)]
    ram = [device for device in found if device.kind == "ram"]
    if len(ram) != 1:
        raise ValueError(f"has {len(ram)} devices of kind ram; a machine has one")
    return Machine(
        _text(document, "name") or "as described",
        _text(document, "processor"),
        _number(document, "cores") or 0,
        (*(device for device in found if device.kind == "gpu"), *ram),
    )


def _device(entry: Any, number: int) -> Device:
    if not isinstance(entry, dict):
        raise ValueError(f"device {number} is not a table")
    try:
        kind, total = entry.get("kind"), _number(entry, "total_bytes")
        free = _number(entry, "free_bytes")
        if kind not in ("gpu", "ram"):
            raise ValueError("needs `kind`, gpu or ram")
        if total is None:
            raise ValueError("needs `total_bytes`")
        if free is not None and free > total:
            raise ValueError("has more free than total bytes")
        rate, basis = _number(entry, "read_bytes_per_s"), entry.get("read_basis")
        return Device(
            _text(entry, "name") or kind.upper(),
            kind,
            total,
            total if free is None else free,
            _text(entry, "note"),
            read_bytes_per_s=rate,
            read_basis=basis if rate and basis in ("measured", "profile") else "unknown",
            link=_text(entry, "link"),
            link_bytes_per_s=_number(entry, "link_bytes_per_s"),
            shares_ram=entry.get("shares_ram") is True,
            holders=_holders(entry.get("holders")),
        )
    except ValueError as error:
        raise ValueError(f"device {number} {error}") from error


def _holders(entries: Any) -> tuple[Holder, ...]:
    listed = entries if isinstance(entries, list) else []
    return tuple(
        Holder(_text(entry, "name"), _number(entry, "used_bytes"))
        for entry in listed
        if isinstance(entry, dict)
    )


def _text(table: Mapping[str, Any], field: str) -> str:
    value = table.get(field, "")
    if not isinstance(value, str) or len(value) > LONGEST_TEXT:
        raise ValueError(f"has a `{field}` that is no text of at most {LONGEST_TEXT} letters")
    return printable(value)


def _number(table: Mapping[str, Any], field: str) -> int | None:
    """Return a whole number, or a size such as "24GiB"; None where it is absent or null."""
    value = table.get(field)
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = parse_size(value)
        except UsageError as error:
            raise ValueError(f"has `{field}` {error}") from error
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not 0 <= value <= LARGEST_NUMBER:
        raise ValueError(f"has a `{field}` that is not a number of 0 or more")
    return int(value)
