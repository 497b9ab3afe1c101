"""snugfit plan MODEL"""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

from snugfit.cli import commands, documents, memory, render
from snugfit.cli.inspect import say_where_from, warn_of_unknown
from snugfit.cli.options import (
    Bpw,
    CommandsFolder,
    CpuExperts,
    Ctx,
    Explain,
    FlashAttention,
    GpuLayers,
    HeadersArgument,
    Json,
    Kv,
    KvUnified,
    KvValues,
    Like,
    MachineName,
    Measure,
    MinSpeed,
    Nodes,
    Objective,
    Offline,
    Ram,
    Rollback,
    Size,
    Slots,
    SwaFull,
    Target,
    UbatchOrAny,
    Vram,
    goal_from,
    machine_from,
    machine_options,
    size_limit,
)
from snugfit.core import Plan, Speed
from snugfit.quants.recipes import RECIPES
from snugfit.units import format_rate, format_size

if TYPE_CHECKING:
    from snugfit.planning.explain import Line
    from snugfit.planning.search import Found


def plan_command(
    model: HeadersArgument,
    ctx: Ctx = 0,
    size: Size = "",
    bpw: Bpw = 0.0,
    like: Like = "",
    objective: Objective = "balanced",
    min_speed: MinSpeed = 0.0,
    kv: Kv = "",
    kv_values: KvValues = "",
    slots: Slots = 1,
    kv_unified: KvUnified = False,
    swa_full: SwaFull = False,
    rollback: Rollback = 0,
    ubatch: UbatchOrAny = 0,
    flash_attention: FlashAttention = "on",
    gpu_layers: GpuLayers = -1,
    cpu_experts: CpuExperts = -1,
    explain: Explain = False,
    measure: Measure = False,
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
    from snugfit.planning.explain import explanation
    from snugfit.planning.search import search

    headers = open_headers(model, is_offline=offline)
    site = commands.site_of(machine_from(vram, ram, machine_name), nodes)
    specs = {pick: found.spec() for pick, found in headers.models.items()}
    spec = next(iter(specs.values()))
    goal = goal_from(
        *(ctx, size_limit(size, bpw, spec.parameters), like, kv, slots, ubatch),
        *(flash_attention, gpu_layers, cpu_experts),
        kv_values=kv_values,
        kv_unified=kv_unified,
        swa_full=swa_full,
        rollback=rollback,
        objective=objective,
        min_speed=min_speed,
    )
    found = search(specs, site.whole, site.goal(goal))
    found, named = site.spread(found), headers.weights or model
    if measure:
        from snugfit.sizing import with_measured_plan

        picked = headers.models.get(found.chosen.mix) or next(iter(headers.models.values()))
        found = replace(found, chosen=with_measured_plan(found.chosen, picked))
    explained = explanation(found, site.whole, goal) if explain else ()
    made = commands.commands_of(found.chosen, specs, headers, named, site, target)
    if folder is not None:
        commands.write_files(made, folder)
    if json:
        document = documents.of_search(found, explained) | {"headers": headers.note}
        render.print_json(document | {"commands": commands.documents_of(made)})
        return
    say_where_from(found.chosen.model, headers.note)
    warn_of_unknown(spec)
    show(found.chosen)
    show_explanation(explained)
    show_frontier(found)
    show_ways(found)
    commands.show(made, folder)
    if site.nodes:
        commands.show_next(found.chosen, named)
        return
    weights = f"{named}:{found.chosen.mix}" if len(specs) > 1 else named
    machine = machine_options(machine_name, vram, ram)
    render.next_command(next_of(found.chosen, weights, machine))


def next_of(plan: Plan, weights: str, machine: str) -> str:
    """Return the command that makes the file that was chosen, or runs the one that there is."""
    configuration = plan.memory.configuration
    options = f" --ctx {configuration.ctx}"
    if configuration.kv_type != "F16":
        options += f" --kv {configuration.kv_type.lower()}"
    if plan.mix not in RECIPES or weights.endswith(f":{plan.mix}"):
        return f"snugfit run {shlex.quote(weights)}{options}"
    out = shlex.quote(f"{plan.model}-{plan.mix}.gguf")
    return f"snugfit fit {shlex.quote(weights)} -o {out} --like {plan.mix}{options}{machine}"


def show(plan: Plan) -> None:
    """Print the choice, its reasons and its bytes on each device."""
    configuration = plan.memory.configuration
    render.out.print(
        f"[bold]{render.safe(plan.model)}: {render.safe(plan.mix)}[/], "
        f"{plan.bits_per_weight:.2f} bits a weight, file "
        f"{format_size(plan.file_bytes)} ({plan.file_bytes:,} bytes), {configuration.ctx:,} tokens"
    )
    render.items(plan.reasons)
    memory.show(plan.memory)


def show_explanation(explained: tuple[Line, ...]) -> None:
    """Print one line a number, under a heading for each part."""
    from rich.padding import Padding

    part = ""
    for line in explained:
        if line.part != part:
            render.heading(line.part)
            part = line.part
        render.out.print(f"{render.safe(line.what)}: [bold]{line.value}[/]", soft_wrap=True)
        render.out.print(Padding(f"[dim]{render.safe(line.how)}[/]", (0, 0, 0, 4)))


def show_frontier(found: Found) -> None:
    """Print the ways that no other beats in quality, speed and context at once."""
    if len(found.frontier) < 2:
        return
    render.heading("Worth a thought")
    table = render.table("", "mix", ">loss", ">tokens/s", ">context", "KV", "layers in RAM")
    for plan in found.frontier:
        configuration = plan.memory.configuration
        table.add_row(
            "->" if plan.mix == found.chosen.mix and is_same(plan, found.chosen) else "",
            render.safe(plan.mix),
            f"{plan.expected_loss:.2g}",
            decode_of(plan.speed),
            f"{configuration.ctx:,}",
            configuration.kv_type.lower(),
            in_ram(plan),
        )
    render.out.print(table)
    render.out.print(
        "[dim]loss: KL divergence to expect, nats a token; `snugfit evaluate` measures it[/]"
    )


def is_same(one: Plan, other: Plan) -> bool:
    return one.memory.configuration == other.memory.configuration


def decode_of(speed: Speed | None) -> str:
    if speed is None:
        return "?"
    band = speed.decode_tokens_per_s
    return f"{format_rate(band.low)}-{format_rate(band.high)}"


def in_ram(plan: Plan) -> str:
    """Say what of the layers is in RAM where there are GPUs: experts of some, or whole ones."""
    use = plan.memory
    if len(use.devices) == 1:
        return "all"
    configuration = use.configuration
    whole = plan.layers - max(0, configuration.gpu_layers - 1)  # the first on GPUs is the output
    if whole > 0:
        return f"{whole} of {plan.layers}"
    if configuration.cpu_expert_layers:
        return f"experts of {configuration.cpu_expert_layers}"
    return "none"


def show_ways(found: Found) -> None:
    """Print the best way of every mix."""
    render.heading("Every mix")
    table = render.table("", "mix", ">bits", ">file", ">context", "KV", ">memory", ">tokens/s")
    for plan in found.ways:
        configuration = plan.memory.configuration
        missing = sum(use.missing_bytes for use in plan.memory.devices)
        table.add_row(
            "->" if plan.mix == found.chosen.mix else "",
            render.safe(plan.mix),
            f"{plan.bits_per_weight:.2f}",
            format_size(plan.file_bytes),
            f"{configuration.ctx:,}",
            configuration.kv_type.lower(),
            format_size(plan.memory.total_bytes),
            f"[red]{format_size(missing)} short[/]" if missing else decode_of(plan.speed),
        )
    render.out.print(table)
    render.out.print(f"[dim]the best of {found.considered:,} configurations[/]")
