"""snugfit memory MODEL"""

from __future__ import annotations

import shlex

from snugfit.cli import documents, render
from snugfit.cli.inspect import say_where_from, warn_of_unknown
from snugfit.cli.options import (
    CpuExperts,
    Ctx,
    FlashAttention,
    GpuLayers,
    HeadersArgument,
    Json,
    Kv,
    KvUnified,
    KvValues,
    MachineName,
    Measure,
    Mmproj,
    Offline,
    Ram,
    Rollback,
    Slots,
    SwaFull,
    Ubatch,
    Vram,
    configuration_from,
    machine_from,
    machine_options,
)
from snugfit.core import MemoryUse
from snugfit.units import format_size


def memory_command(
    model: HeadersArgument,
    ctx: Ctx = 4096,
    kv: Kv = "f16",
    kv_values: KvValues = "",
    slots: Slots = 1,
    kv_unified: KvUnified = False,
    swa_full: SwaFull = False,
    rollback: Rollback = 0,
    ubatch: Ubatch = 512,
    flash_attention: FlashAttention = "on",
    gpu_layers: GpuLayers = -1,
    cpu_experts: CpuExperts = 0,
    mmproj: Mmproj = "",
    measure: Measure = False,
    machine_name: MachineName = "",
    vram: Vram = "",
    ram: Ram = "",
    offline: Offline = False,
    json: Json = False,
) -> None:
    """Say how many bytes exactly this configuration takes, on each device.

    Layers go to the GPUs if there are any, unless --gpu-layers says otherwise.

    Example:  snugfit memory demo-moe --ctx 1024 --kv q8_0
    """
    from snugfit.headers import open_headers
    from snugfit.planning.beside import NOT_COUNTED, with_projector
    from snugfit.planning.memory import every_layer, predict

    headers = open_headers(model, is_offline=offline)
    opened, machine = headers.model, machine_from(vram, ram, machine_name)
    spec = opened.spec()
    if gpu_layers < 0:
        gpu_layers = every_layer(spec, machine)
    configuration = configuration_from(
        ctx or spec.context_length,
        *(kv, slots, ubatch, flash_attention, gpu_layers, cpu_experts),
        kv_values=kv_values,
        kv_unified=kv_unified,
        swa_full=swa_full,
        rollback=rollback,
    )
    use = predict(spec, configuration, machine)
    if measure:
        from snugfit.sizing import with_measured_compute

        use = with_measured_compute(use, opened)
    projector_bytes = 0
    if mmproj:
        from snugfit.sizing import projector_weights

        projector_bytes = projector_weights(mmproj)
        use = with_projector(use, projector_bytes)
    if json:
        document = documents.of_memory(use) | {"projector_bytes": projector_bytes}
        render.print_json(document | {"headers": headers.note})
        return
    say_where_from(spec.name, headers.note)
    warn_of_unknown(spec)
    show(use)
    if mmproj:
        render.out.print(f"[dim]weights include {format_size(projector_bytes)} of the projector[/]")
    render.out.print(f"[dim]not counted: {NOT_COUNTED[0]}; --json says what else[/]")
    machine_given = machine_options(machine_name, vram, ram)
    render.next_command(f"snugfit plan {shlex.quote(model)}{machine_given}")


def show(use: MemoryUse) -> None:
    """Print one row a device, and how each column is known."""
    configuration = use.configuration
    types = (configuration.kv_type, configuration.value_type)
    kv = "/".join(name.lower() for name in types if name)
    flash = "on" if configuration.flash_attention else "off"
    render.out.print(
        f"[bold]{format_size(use.total_bytes)}[/] at {configuration.ctx:,} tokens, "
        f"KV {kv}, {configuration.slots} slot(s), "
        f"ubatch {configuration.ubatch}, flash attention {flash}"
    )
    has_state = use.recurrent_state_bytes > 0
    state = (">state",) if has_state else ()
    table = render.table(
        "device", ">weights", ">KV cache", *state, ">compute", ">other", ">total", ">free"
    )
    for device in use.devices:
        table.add_row(
            render.short_name(device.name),
            format_size(device.weights_bytes),
            format_size(device.kv_cache_bytes),
            *([format_size(device.recurrent_state_bytes)] if has_state else []),
            format_size(device.compute_bytes),
            format_size(device.overhead_bytes),
            f"[{'green' if device.fits else 'red'}]{format_size(device.total_bytes)}[/]",
            format_size(device.free_bytes),
        )
    render.out.print(table)
    band = f" (within {use.compute_band:.0%})" if use.compute_basis == "estimated" else ""
    render.out.print(
        f"[dim]weights exact, KV cache {use.kv_basis}, compute {use.compute_basis}{band}, "
        "other estimated[/]"
    )
    for device in use.devices:
        if not device.fits:
            short = format_size(device.missing_bytes)
            render.out.print(
                f"[red]does not fit:[/] {render.short_name(device.name)} is {short} short"
            )
