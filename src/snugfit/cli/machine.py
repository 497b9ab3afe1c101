"""snugfit machine"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Annotated

import typer

from snugfit.cli import documents, render
from snugfit.cli.options import Json, MachineName, Ram, Vram, machine_from, machine_options
from snugfit.core import Device, Machine
from snugfit.errors import UsageError
from snugfit.units import GIB, format_size

Measure = Annotated[
    bool,
    typer.Option("--measure", help="Time how fast memory is read, a second each, and keep it."),
]
List = Annotated[
    bool, typer.Option("--list", help="List the machines and GPUs that --machine knows.")
]
HOLDERS_SHOWN = 4
KINDS_SHOWN = {
    "gpu": "GPUs, in this computer",
    "unified": "computers with one memory",
    "phone": "phones and boards",
    "cloud": "cloud shapes",
}
BASIS_SHOWN = {"measured": "measured", "profile": "specified", "unknown": ""}


def machine_command(
    machine_name: MachineName = "",
    vram: Vram = "",
    ram: Ram = "",
    measure: Measure = False,
    list_known: List = False,
    json: Json = False,
) -> None:
    """Show the memories of this machine: total, free, how fast, and what limits them.

    Example:  snugfit machine --json
    """
    if list_known:
        show_known(json)
        return
    if measure:
        if machine_name or vram or ram:
            raise UsageError("--measure times this machine; leave out --machine, --vram and --ram.")
        from snugfit.hardware.detect import measure as measure_here

        with render.waiting("reading memory"):
            measure_here()
    machine = machine_from(vram, ram, machine_name)
    if json:
        render.print_json(documents.of_machine(machine))
        return
    show(machine)
    if machine.ram.read_basis == "unknown" and not machine_name:
        render.next_command("snugfit machine --measure")
    else:
        render.next_command(f"snugfit plan MODEL{machine_options(machine_name, vram, ram)}")


def show(machine: Machine) -> None:
    """Print one row a memory, then what is to be said of each."""
    parts = (render.safe(machine.processor), f"{machine.cores} cores" if machine.cores else "")
    render.out.print(f"[bold]{render.safe(machine.name)}[/]  {', '.join(filter(None, parts))}")
    table = render.table("memory", ">total", ">free", ">read", "basis", "link")
    for device in machine.devices:
        table.add_row(
            render.safe(device.name),
            format_size(device.total_bytes),
            format_size(device.free_bytes),
            rate(device.read_bytes_per_s) if device.read_bytes_per_s else "not measured",
            BASIS_SHOWN[device.read_basis],
            render.safe(device.link),
        )
    render.out.print(table)
    lines = notes(machine.devices)
    if lines:
        render.items(lines)


def notes(devices: Iterable[Device]) -> list[str]:
    """Return what limits each memory and who holds the rest, in lines; alike ones together."""
    names: dict[str, list[str]] = {}
    for device in devices:
        for note in (device.note, held_by(device)):
            if note:
                names.setdefault(note, []).append(device.name)
    return [f"{', '.join(those)}: {note}" for note, those in names.items()]


def held_by(device: Device) -> str:
    """Return the processes that hold most of a memory, or nothing if nobody is known to."""
    held = [
        f"{holder.name} {format_size(holder.used_bytes)}" if holder.used_bytes else holder.name
        for holder in device.holders[:HOLDERS_SHOWN]
    ]
    more = len(device.holders) - len(held)
    if not held:
        return ""
    return f"held by {', '.join(held)}" + (f" and {more} more" if more else "")


def rate(bytes_per_s: int) -> str:
    """Write a read rate as makers do, in 10^9 bytes: `1,008 GB/s`, `19.3 GB/s`."""
    value = bytes_per_s / 1e9
    return f"{value:,.0f} GB/s" if value >= 100 else f"{value:.1f} GB/s"


def show_known(json: bool) -> None:
    """List the profiles, each with its source in the JSON document."""
    from snugfit.hardware import profiles

    rows = profiles.rows()
    if json:
        render.print_json({"profiles": [dataclasses.asdict(row) for row in rows]})
        return
    for kind in dict.fromkeys(row.kind for row in rows):
        table = render.table(KINDS_SHOWN[kind], ">memory", ">RAM", ">read")
        for row in rows:
            if row.kind == kind:
                sizes = "/".join(str(size // GIB) for size in row.memory_bytes)
                gpus = f"{row.gpus} x " if row.gpus > 1 else ""
                ram = format_size(row.ram_bytes) if row.ram_bytes else ""
                table.add_row(row.name, f"{gpus}{sizes} GiB", ram, rate(row.read_bytes_per_s))
        render.out.print(table)
        render.out.print()
    render.out.print("Their sources: snugfit machine --list --json")
    render.next_command(f"snugfit plan MODEL{machine_options(rows[0].name)}")
