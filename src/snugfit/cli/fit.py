"""snugfit fit MODEL"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from snugfit.cli import cuts_text, documents, evaluate, plan, render
from snugfit.cli.options import (
    Best,
    Bpw,
    CpuExperts,
    Ctx,
    FlashAttention,
    GpuLayers,
    Json,
    Kv,
    KvUnified,
    KvValues,
    Like,
    MachineName,
    MinSpeed,
    ModelArgument,
    Objective,
    Out,
    Pre,
    Ram,
    Rollback,
    Size,
    Slots,
    SwaFull,
    Text,
    Threads,
    UbatchOrAny,
    Vram,
    goal_from,
    machine_from,
    size_limit,
)
from snugfit.cli.quantize_options import Imatrix
from snugfit.errors import UsageError

NoScore = Annotated[bool, typer.Option("--no-score", help="Leave the evaluation out.")]
HeldOut = Annotated[
    Path | None,
    typer.Option("--held-out", metavar="FILE", help="Text to score on, never calibrated on."),
]


def fit_command(
    model: ModelArgument,
    output: Out,
    size: Size = "",
    bpw: Bpw = 0.0,
    like: Like = "",
    objective: Objective = "balanced",
    min_speed: MinSpeed = 0.0,
    ctx: Ctx = 0,
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
    machine_name: MachineName = "",
    vram: Vram = "",
    ram: Ram = "",
    text: Text = None,
    imatrix: Imatrix = None,
    held_out: HeldOut = None,
    pre: Pre = "",
    threads: Threads = 0,
    best: Best = False,
    no_score: NoScore = False,
    json: Json = False,
) -> None:
    """Plan, calibrate, cut to size and prove the loss: one file, ready to run.

    Example:  snugfit fit demo-moe -o small.gguf --size 6MiB --ctx 1024
    """
    from snugfit.fit import can_measure, fit, given_importance, plan_fit
    from snugfit.models import open_model

    if imatrix and text:
        raise UsageError("give --imatrix FILE or --text FILE, not both.")
    opened, machine = open_model(model, pre=pre), machine_from(vram, ram, machine_name)
    limit = size_limit(size, bpw, opened.spec().parameters)
    goal = goal_from(
        *(ctx, limit, like, kv, slots, ubatch, flash_attention, gpu_layers, cpu_experts),
        kv_values=kv_values,
        kv_unified=kv_unified,
        swa_full=swa_full,
        rollback=rollback,
        objective=objective,
        min_speed=min_speed,
    )
    chosen = plan_fit(opened, machine, goal)
    importance = given_importance(opened, chosen, imatrix)
    if not json:
        plan.show(chosen)
    with render.stages({"quantizing": "weights"}, "layers") as progress:
        fitted = fit(
            opened,
            chosen,
            output,
            importance=importance,
            text=text,
            held_out=held_out,
            threads=threads,
            quality="best" if best else "fast",
            score=not no_score and can_measure(opened),
            progress=progress,
        )
    if json:
        render.print_json(
            {
                "plan": documents.of_plan(fitted.plan),
                "written": cuts_text.of_written(fitted.written),
                "as_predicted": fitted.as_predicted,
                "score": documents.of_score(fitted.score) if fitted.score else None,
            }
        )
        return
    render.heading("Written")
    cuts_text.show(fitted.written, chosen.mix)
    cuts_text.warn_of_missed(fitted.written.without_importance)
    render.out.print(
        f"predicted {chosen.file_bytes:,} bytes, written {fitted.written.file_bytes:,}: "
        + ("equal" if fitted.as_predicted else "[red]different[/]")
    )
    if fitted.score:
        render.heading("Loss against the original")
        evaluate.show(fitted.score)
    elif not no_score:
        render.warn("not scored: torch has no row for the layers of this architecture")
    configuration = chosen.memory.configuration
    out = shlex.quote(str(output))
    render.next_command(f'snugfit run {out} "import os" --ctx {configuration.ctx}')
