"""snugfit run MODEL [PROMPT]"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snugfit.cli import documents, render
from snugfit.cli.options import (
    CpuExperts,
    Ctx,
    FlashAttention,
    GpuLayers,
    Json,
    Kv,
    KvUnified,
    KvValues,
    MachineName,
    MinSpeed,
    ModelArgument,
    Objective,
    Ram,
    Slots,
    SwaFull,
    UbatchOrAny,
    Vram,
    goal_from,
    machine_from,
)
from snugfit.core import Answer, Configuration, Machine, MemoryUse, ModelSpec
from snugfit.errors import OutputError, UsageError
from snugfit.units import format_size

if TYPE_CHECKING:
    from snugfit.bench import Ran
    from snugfit.models import Model
    from snugfit.runtimes.base import Runtime

Prompt = Annotated[
    str, typer.Argument(metavar="[PROMPT]", help="Text to answer; without it, chat.")
]
MaxTokens = Annotated[
    int, typer.Option("--max-tokens", "-n", "--predict", min=1, metavar="N", help="Longest answer.")
]
Temperature = Annotated[
    float, typer.Option("--temperature", "--temp", min=0.0, help="0 takes the likeliest token.")
]
Seed = Annotated[int, typer.Option("--seed", help="Fixes the draw; -1 draws anew.")]
PARTS = ("weights", "kv_cache", "recurrent_state", "compute")


def run_command(
    model: ModelArgument,
    prompt: Prompt = "",
    max_tokens: MaxTokens = 128,
    temperature: Temperature = 0.8,
    seed: Seed = -1,
    ctx: Ctx = 0,
    kv: Kv = "",
    kv_values: KvValues = "",
    slots: Slots = 1,
    kv_unified: KvUnified = False,
    swa_full: SwaFull = False,
    ubatch: UbatchOrAny = 0,
    flash_attention: FlashAttention = "on",
    gpu_layers: GpuLayers = -1,
    cpu_experts: CpuExperts = -1,
    objective: Objective = "balanced",
    min_speed: MinSpeed = 0.0,
    machine_name: MachineName = "",
    vram: Vram = "",
    ram: Ram = "",
    json: Json = False,
) -> None:
    """Answer a prompt, or chat without one; then show the memory predicted and allocated.

    The answer alone goes to stdout. The engine is llama.cpp, in a process of its own.

    Example:  snugfit run demo-moe "import os" --temperature 0
    """
    from snugfit.models import open_model
    from snugfit.planning.cuts import AS_IT_IS
    from snugfit.planning.search import choose
    from snugfit.runtimes.base import create_runtime

    if json and not prompt:
        raise UsageError("--json needs a PROMPT; a chat is not one document.")
    opened = open_model(model)
    path = runnable(opened)
    spec, machine = open_model(str(path)).spec(), machine_from(vram, ram, machine_name)
    goal = goal_from(
        *(ctx, None, AS_IT_IS, kv, slots, ubatch, flash_attention, gpu_layers, cpu_experts),
        kv_values=kv_values,
        kv_unified=kv_unified,
        swa_full=swa_full,
        objective=objective,
        min_speed=min_speed,
    )
    plan = choose(spec, machine, goal)
    drawn = None if seed < 0 else seed
    with create_runtime() as runtime:
        with render.waiting(f"loading {spec.name}"):
            runtime.start(path, plan.memory.configuration)
        if prompt:
            on_text = None if json else print_piece
            answer = runtime.generate(prompt, max_tokens, temperature, drawn, on_text)
            ran = learned(answer, spec, plan.memory.configuration, machine)
            report(answer, plan.memory, runtime.allocated(), ran, json)
        else:
            chat(runtime, opened, max_tokens, temperature, drawn)


def runnable(model: Model) -> Path:
    """Return a GGUF file of the model; a Hugging Face directory is converted once and kept."""
    from platformdirs import user_cache_path

    from snugfit.mixes import types_of_mix
    from snugfit.quantize import quantize

    if model.is_gguf:
        return model.path
    newest = max(file.stat().st_mtime_ns for file in model.path.iterdir())
    folder = user_cache_path("snugfit", appauthor=False, ensure_exists=True) / "converted"
    folder.mkdir(exist_ok=True)
    kept = folder / f"{model.name}-{newest:x}.gguf"
    if not kept.is_file():
        render.note(f"converting {model.name} once, to {kept}")
        with render.bar("converting", "weights") as bar:
            quantize(model, kept, types_of_mix(model, "BF16"), mix="BF16", progress=bar)
    return kept


def print_piece(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def learned(
    answer: Answer, spec: ModelSpec, configuration: Configuration, machine: Machine
) -> Ran | None:
    """Correct the calibration by this run; a cache that cannot be written spoils no answer."""
    from snugfit.bench import after_run

    try:
        return after_run(answer, spec, configuration, machine)
    except OutputError as error:
        render.warn(str(error))
        return None


def report(
    answer: Answer,
    predicted: MemoryUse,
    allocated: dict[str, int],
    ran: Ran | None,
    json: bool,
) -> None:
    """Say how fast the answer came and what the engine allocated beside what was predicted."""
    expected = dict(
        zip(
            PARTS,
            (
                predicted.weights_bytes,
                predicted.kv_cache_bytes,
                predicted.recurrent_state_bytes,
                predicted.compute_bytes,
            ),
            strict=True,
        )
    )
    if json:
        render.print_json(
            documents.of_answer(answer)
            | {"predicted": expected, "allocated": allocated, "speed": of_ran(ran) if ran else None}
        )
        return
    print()
    render.err.print(
        f"\n[dim]{answer.generated_tokens} tokens, {answer.tokens_per_second:.1f} tokens/s; "
        f"prompt {answer.prompt_tokens} tokens[/]"
    )
    if ran is not None:
        render.err.print(f"[dim]{speed_line(ran)}[/]")
    table = render.table("memory", ">predicted", ">allocated", ">difference")
    for part, size_bytes in expected.items():
        found = allocated.get(part, 0)
        difference = f"{(found - size_bytes) / size_bytes:+.1%}" if size_bytes else ""
        table.add_row(
            part.replace("_", " "), format_size(size_bytes), format_size(found), difference
        )
    render.err.print(table)


def of_ran(ran: Ran) -> dict[str, Any]:
    return {
        "predicted": dataclasses.asdict(ran.predicted),
        "measured_tokens_per_s": ran.tokens_per_s,
        "correction": ran.row.correction if ran.row else None,
        "runs": len(ran.row.runs) if ran.row else 0,
    }


def speed_line(ran: Ran) -> str:
    """Say what speed was predicted and how far off that was, or how to have better ones."""
    band, found = ran.predicted.decode_tokens_per_s, ran.tokens_per_s
    text = f"predicted {band.middle:.1f} tokens/s ({band.low:.1f}-{band.high:.1f})"
    if found is None:
        return f"{text}; the answer is too short to compare"
    text += f", {band.middle / found - 1:+.0%} off"
    if ran.predicted.basis == "estimated":
        return f"{text}; snugfit bench calibrates it"
    return text + (f"; {len(ran.row.runs)} runs correct it" if ran.row else "")


def chat(
    runtime: Runtime, model: Model, max_tokens: int, temperature: float, seed: int | None
) -> None:
    """Talk until /bye or the end of input; a model without a chat template continues each text."""
    has_template = "tokenizer.chat_template" in model.metadata
    if not has_template:
        render.note(f"{model.name} has no chat template; it continues what you write.")
    render.note("Write, and press Enter; /bye or Ctrl-D ends.")
    messages: list[dict[str, str]] = []
    for text in lines_of_input():
        if not has_template:
            runtime.generate(text, max_tokens, temperature, seed, print_piece)
        else:
            messages.append({"role": "user", "content": text})
            answer = runtime.chat(messages, max_tokens, temperature, seed, print_piece)
            messages.append({"role": "assistant", "content": answer.text})
        print()


def lines_of_input() -> Iterator[str]:
    """Yield what is typed, without empty lines, until /bye or the end of input."""
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            print()
            return
        if text == "/bye":
            return
        if text:
            yield text
