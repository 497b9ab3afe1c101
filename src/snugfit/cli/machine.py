"""snugfit machine"""

from __future__ import annotations

from snugfit.cli import documents, render
from snugfit.cli.options import Json, Ram, Vram, machine_from
from snugfit.core import Machine
from snugfit.units import format_size


def machine_command(vram: Vram = "", ram: Ram = "", json: Json = False) -> None:
    """Show the memories of this machine: total, free, and what limits them.

    Example:  snugfit machine --json
    """
    machine = machine_from(vram, ram)
    if json:
        render.print_json(documents.of_machine(machine))
        return
    show(machine)
    render.next_command("snugfit plan MODEL")


def show(machine: Machine) -> None:
    render.out.print(f"[bold]{machine.name}[/]  {machine.processor}, {machine.cores} cores")
    table = render.table("memory", ">total", ">free", "note")
    for device in machine.devices:
        table.add_row(
            device.name,
            format_size(device.total_bytes),
            format_size(device.free_bytes),
            device.note,
        )
    render.out.print(table)
