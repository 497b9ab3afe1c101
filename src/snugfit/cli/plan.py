"""snugfit plan MODEL"""

from __future__ import annotations

from snugfit.cli import commands, documents, memory, render
from snugfit.cli.inspect import say_where_from, warn_of_unknown
from snugfit.cli.options import (
    Bpw,
    CommandsFolder,
    CpuExperts,
    Ctx,
    FlashAttention,
    GpuLayers,
    HeadersArgument,
    Json,
    Kv,
    Like,
    MachineName,
    Nodes,
    Offline,
    Ram,
    Size,
    Slots,
    Target,
    Ubatch,
    Vram,
    goal_from,
    machine_from,
    machine_options,
    size_limit,
)
from snugfit.core import Plan
from snugfit.units import format_size


def plan_command(
    model: HeadersArgument,
    ctx: Ctx = 0,
    size: Size = "",
    bpw: Bpw = 0.0,
    like: Like = "",
    kv: Kv = "",
    slots: Slots = 1,
    ubatch: Ubatch = 512,
    flash_attention: FlashAttention = "on",
    gpu_layers: GpuLayers = -1,
    cpu_experts: CpuExperts = -1,
    machine_name: MachineName = "",
    vram: Vram = "",
    ram: Ram = "",
    nodes: Nodes = "",
    target: Target = "",
    folder: CommandsFolder = None,
    offline: Offline = False,
    json: Json = False,
) -> None:
    """Choose a mix, a context and a place for every layer, and say why.

    Example:  snugfit plan demo-moe --size 6MiB --ctx 1024
    """
    from snugfit.headers import open_headers
    from snugfit.sizing import choose

    headers = open_headers(model, is_offline=offline)
    site = commands.site_of(machine_from(vram, ram, machine_name), nodes)
    specs = {pick: found.spec() for pick, found in headers.models.items()}
    spec = next(iter(specs.values()))
    size_bytes = size_limit(size, bpw, spec.parameters)
    goal = goal_from(
        ctx, size_bytes, like, kv, slots, ubatch, flash_attention, gpu_layers, cpu_experts
    )
    others, chosen = choose(specs, site.whole, site.goal(goal))
    chosen, named = site.spread(chosen, spec.layers), headers.weights or model
    made = commands.commands_of(chosen, specs, headers, named, site, target)
    if folder is not None:
        commands.write_files(made, folder)
    if json:
        document = documents.of_plan(chosen) | {"headers": headers.note}
        document["candidates"] = [documents.of_candidate(plan) for plan in others]
        document["commands"] = commands.documents_of(made)
        render.print_json(document)
        return
    say_where_from(chosen.model, headers.note)
    warn_of_unknown(spec)
    show(chosen)
    show_candidates(others, chosen)
    commands.show(made, folder)
    limit = (f" --size {size}" if size else "") + machine_options(machine_name, vram, ram)
    if site.nodes:
        commands.show_next(chosen, named)
        return
    weights = named
    if len(specs) > 1:
        weights += f":{chosen.mix}"
    if spec.is_quantized or len(specs) > 1:
        render.next_command(f"snugfit run {weights} --ctx {chosen.memory.configuration.ctx}")
    else:
        render.next_command(f"snugfit fit {weights} -o {spec.name}-{chosen.mix}.gguf{limit}")


def show(plan: Plan) -> None:
    """Print the choice, its reasons and its bytes on each device."""
    configuration = plan.memory.configuration
    render.out.print(
        f"[bold]{plan.model}: {plan.mix}[/], {plan.bits_per_weight:.2f} bits a weight, file "
        f"{format_size(plan.file_bytes)} ({plan.file_bytes:,} bytes), {configuration.ctx:,} tokens"
    )
    render.items(plan.reasons)
    memory.show(plan.memory)


def show_candidates(plans: list[Plan], chosen: Plan) -> None:
    render.heading("Every way")
    table = render.table("", "mix", ">bits", ">file", ">context", "KV", ">memory", "fits")
    for plan in plans:
        configuration = plan.memory.configuration
        table.add_row(
            "->" if plan.mix == chosen.mix else "",
            plan.mix,
            f"{plan.bits_per_weight:.2f}",
            format_size(plan.file_bytes),
            f"{configuration.ctx:,}",
            configuration.kv_type.lower(),
            format_size(plan.memory.total_bytes),
            "[green]yes[/]" if plan.memory.fits else "[red]no[/]",
        )
    render.out.print(table)
