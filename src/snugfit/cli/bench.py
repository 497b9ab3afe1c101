"""snugfit bench [MODEL]"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snugfit.cli import render
from snugfit.cli.machine import rate
from snugfit.cli.options import Json, Threads
from snugfit.core import Band, Machine
from snugfit.errors import UsageError

if TYPE_CHECKING:
    from snugfit.bench import Measured
    from snugfit.hardware.calibration import Calibration
    from snugfit.models import Model

WIDE_HEAD = 128

Name = Annotated[
    str,
    typer.Argument(metavar="[MODEL]", help="Model to time; without it, calibrate this machine."),
]
Option = Annotated[
    str,
    typer.Option("--model", "-m", metavar="MODEL", help="The same, as llama-bench has it."),
]
PromptTokens = Annotated[
    int,
    typer.Option("--prompt", "-p", "--n-prompt", min=0, metavar="N", help="Prompt tokens."),
]
Tokens = Annotated[
    int, typer.Option("--tokens", "-n", "--n-gen", min=0, metavar="N", help="Tokens to generate.")
]
Depth = Annotated[
    int,
    typer.Option(
        "--depth", "-d", "--n-depth", min=0, metavar="N", help="Tokens in the cache before those."
    ),
]
Repeats = Annotated[
    int, typer.Option("--repeats", "-r", "--repetitions", min=1, metavar="N", help="Times each.")
]
Types = Annotated[
    str,
    typer.Option(
        "--types",
        metavar="TYPE,..",
        help="Types to time instead of the usual ones; all: every one.",
    ),
]
Seconds = Annotated[
    float, typer.Option("--seconds", min=1.0, metavar="S", help="Time for a calibration.")
]


def bench_command(
    model: Name = "",
    model_option: Option = "",
    prompt: PromptTokens = 512,
    tokens: Tokens = 128,
    depth: Depth = 0,
    repeats: Repeats = 3,
    threads: Threads = 0,
    types: Types = "",
    seconds: Seconds = 30.0,
    json: Json = False,
) -> None:
    """Calibrate speed on this machine in half a minute, or time one model.

    Predictions of speed are made from what a calibration finds. A model's times are shown beside
    what was predicted, and correct it. The engine is the one of `snugfit run`.

    Example:  snugfit bench
    """
    if model and model_option:
        raise UsageError("two models; give one, as MODEL or with -m.")
    if model or model_option:
        if types:
            raise UsageError("--types is for a calibration; leave out MODEL or --types.")
        if not prompt and not tokens:
            raise UsageError("-p 0 and -n 0 leave nothing to time.")
        time_model(model or model_option, prompt, tokens, depth, repeats, threads, json)
    else:
        calibrate(types, threads, seconds, json)


def calibrate(types: str, threads: int, seconds: float, json: bool) -> None:
    from snugfit.bench import TYPES_TIMED
    from snugfit.bench import calibrate as calibrate_here
    from snugfit.hardware import calibration
    from snugfit.hardware.detect import detect
    from snugfit.planning.calibrated import LIKE

    wanted = tuple(filter(None, types.upper().split(",")))
    if wanted == ("ALL",):
        wanted = tuple(dict.fromkeys((*TYPES_TIMED, *(name for name in LIKE if name != "F32"))))
    with render.stages({"timing": "models"}, "steps") as progress:
        rows = calibrate_here(
            detect(), types=wanted, threads=threads, seconds=seconds, progress=progress
        )
    if json:
        document: dict[str, Any] = {
            "engine": calibration.engine_release(),
            "kept_in": str(calibration.path()),
            "devices": {name: of_row(row) for name, row in rows.items()},
        }
        render.print_json(document)
        return
    machine = detect()
    for name, row in rows.items():
        show_row(name, row, machine)
    render.note(f"kept in {calibration.path()}")
    render.next_command("snugfit bench MODEL.gguf")


def of_row(row: Calibration) -> dict[str, Any]:
    return dataclasses.asdict(row) | {"correction": row.correction, "scatter": row.scatter}


def show_row(name: str, row: Calibration, machine: Machine) -> None:
    """Print what each type reaches, against the rate at which the memory is read."""
    render.out.print(
        f"[bold]{render.safe(name)}[/]  {render.safe(machine.processor)}, read at "
        f"{rate(round(row.read_bytes_per_s))}"
    )
    table = render.table("type", ">decoding", ">of memory", ">weights", ">prompts")
    for type_name, found in sorted(row.bytes_per_s.items(), key=lambda pair: -pair[1]):
        of_memory = f"{found / row.read_bytes_per_s:.0%}" if row.read_bytes_per_s else ""
        operations = row.operations_per_s.get(type_name)
        table.add_row(
            type_name,
            rate(round(found)),
            of_memory,
            f"{found / bytes_of_weight(type_name) / 1e9:.1f} billion/s",
            f"{operations / 1e9:,.0f} GFLOP/s" if operations else "",
        )
    render.out.print(table)
    of_experts = row.expert_bytes_per_s / row.bytes_per_s[row.expert_type]
    look = row.score_seconds + 4 * WIDE_HEAD / row.attention_operations_per_s
    fetch = row.row_seconds + 4 * WIDE_HEAD / row.cache_bytes_per_s
    render.items(
        [
            f"experts are read at {of_experts:.0%} of the rate of other matrices",
            f"a layer takes {row.layer_seconds * 1e6:.0f} us beside its bytes, one with experts "
            f"{row.expert_layer_seconds * 1e6:.0f} us more, a token {row.token_seconds * 1e6:.0f}",
            f"a head of {WIDE_HEAD} takes {look * 1e9:.0f} ns for each token that it looks at, "
            f"fetching key and value {fetch * 1e9:.0f} ns, which heads may share",
            f"predictions: within {row.band:.0%}, prompts within {row.prefill_band:.0%}",
        ]
    )


def bytes_of_weight(type_name: str) -> float:
    from snugfit.quants.types import TYPES

    return TYPES[type_name].bits_per_weight / 8


def time_model(
    name: str, prompt: int, tokens: int, depth: int, repeats: int, threads: int, json: bool
) -> None:
    from snugfit.bench import configuration_for, measure
    from snugfit.cli.run import runnable
    from snugfit.hardware.detect import detect
    from snugfit.models import open_model

    path = runnable(open_model(name))
    opened: Model = open_model(str(path))
    spec, machine = opened.spec(), detect()
    ctx = 256 * (max(prompt, depth + tokens) // 256 + 1)
    configuration = configuration_for(spec, machine, ctx)
    with render.stages({"timing": "runs"}, "steps") as progress:
        measured = measure(
            path,
            spec,
            configuration,
            machine,
            prompt_tokens=prompt,
            tokens=tokens,
            depth=depth,
            repeats=repeats,
            threads=threads,
            progress=progress,
        )
    if json:
        render.print_json(of_measured(measured, tokens, depth))
        return
    show_measured(spec.name, measured, tokens, depth)
    if measured.predicted.basis == "estimated":
        render.next_command("snugfit bench")
    else:
        render.next_command(f"snugfit plan {name}")


def of_measured(measured: Measured, tokens: int, depth: int) -> dict[str, Any]:
    row = measured.row
    return {
        "configuration": dataclasses.asdict(measured.configuration),
        "prompt_tokens": measured.prompt_tokens,
        "prompt_seconds": list(measured.prompt_seconds),
        "tokens": tokens,
        "depth": depth,
        "token_seconds": list(measured.token_seconds),
        "predicted": dataclasses.asdict(measured.predicted),
        "correction": row.correction if row else None,
        "runs": len(row.runs) if row else 0,
    }


def show_measured(name: str, measured: Measured, tokens: int, depth: int) -> None:
    """Print a line a test, called as llama-bench calls it, measured beside predicted."""
    speed = measured.predicted
    table = render.table("test", ">tokens/s", ">from", ">to", ">predicted", ">within", ">off")
    rates = [measured.prompt_tokens / seconds for seconds in measured.prompt_seconds]
    if rates:
        add_rates(table, f"pp{measured.prompt_tokens}", rates, speed.prefill_tokens_per_s)
    rates = [1 / seconds for seconds in measured.token_seconds]
    if rates:
        at = f" @ d{depth}" if depth else ""
        add_rates(table, f"tg{tokens}{at}", rates, speed.decode_tokens_per_s)
    render.out.print(f"[bold]{render.safe(name)}[/]")
    render.out.print(table)
    if measured.row is not None:
        row = measured.row
        render.out.print(
            f"[dim]calibrated {row.date}; {len(row.runs)} runs since say that this machine takes "
            f"{row.correction:.2f} times as long[/]"
        )
    elif speed.basis == "estimated":
        render.out.print("[dim]estimated: this machine is not calibrated[/]")


def add_rates(table: Any, test: str, rates: list[float], predicted: Band) -> None:
    middle = sorted(rates)[len(rates) // 2]
    table.add_row(
        test,
        tokens_per_s(middle),
        tokens_per_s(min(rates)),
        tokens_per_s(max(rates)),
        tokens_per_s(predicted.middle),
        f"{tokens_per_s(predicted.low)}-{tokens_per_s(predicted.high)}",
        f"{predicted.middle / middle - 1:+.0%}",
    )


def tokens_per_s(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
