"""Options that several commands share, declared once; llama.cpp's spellings are accepted too."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snugfit.core import Configuration, Machine
from snugfit.errors import UsageError
from snugfit.units import parse_size, parse_sizes

if TYPE_CHECKING:
    from snugfit.planning.axes import Goal

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Hugging Face directory, GGUF file, Hub name owner/name[@revision][:file or mix], "
        "demo.",
        show_default=False,
    ),
]
HeadersArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Hugging Face directory, GGUF file, Hub name owner/name[@revision][:file or mix], "
        "demo, or a name of the catalogue, as qwen3.6-35b-a3b. Only headers are read.",
        show_default=False,
    ),
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Take headers of the Hub from the cache only.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")]
MachineName = Annotated[
    str,
    typer.Option(
        "--machine",
        metavar="NAME|FILE",
        help="A machine to plan for instead of this one, as 'RTX 4090', 'Apple M4 Max 64GB', "
        "g5.2xlarge, or a file from `snugfit machine --json`.",
    ),
]
Vram = Annotated[
    str,
    typer.Option(
        "--vram", metavar="SIZE[,SIZE..]", help="Memory of each GPU, instead of what is here."
    ),
]
Ram = Annotated[
    str,
    typer.Option("--ram", metavar="SIZE", help="Host memory to use, instead of what is free here."),
]
Ctx = Annotated[
    int,
    typer.Option(
        "--ctx", "-c", "--ctx-size", min=0, metavar="N", help="Tokens of context; 0 chooses one."
    ),
]
Kv = Annotated[
    str,
    typer.Option(
        "--kv", "-ctk", "--cache-type-k", metavar="TYPE", help="KV cache type: f16, q8_0, q4_0 ..."
    ),
]
KvValues = Annotated[
    str,
    typer.Option(
        "--kv-values", "-ctv", "--cache-type-v", metavar="TYPE", help="Values' type, if another."
    ),
]
KvUnified = Annotated[
    bool, typer.Option("--kv-unified", "-kvu", help="One cache for all slots, not one for each.")
]
SwaFull = Annotated[
    bool, typer.Option("--swa-full", help="Sliding windows keep the whole context.")
]
Rollback = Annotated[
    int,
    typer.Option(
        "--rollback",
        min=0,
        metavar="N",
        help="Tokens that a draft runs ahead, as states keep them.",
    ),
]
Mmproj = Annotated[
    str,
    typer.Option(
        "--mmproj", "-mm", metavar="FILE", help="Vision projector that runs beside it, a GGUF file."
    ),
]
Measure = Annotated[
    bool,
    typer.Option("--measure", help="Ask the engine for the compute buffer; without GPU layers."),
]
Slots = Annotated[
    int,
    typer.Option("--slots", "-np", "--parallel", min=1, metavar="N", help="Requests at a time."),
]
Ubatch = Annotated[
    int,
    typer.Option(
        "--ubatch", "-ub", "--ubatch-size", min=1, metavar="N", help="Tokens of one pass."
    ),
]
UbatchOrAny = Annotated[
    int,
    typer.Option(
        *("--ubatch", "-ub", "--ubatch-size"), min=0, metavar="N", help="Of one pass; 0 chooses."
    ),
]
Objective = Annotated[
    str,
    typer.Option(
        "--objective", metavar="WHAT", help="What counts most: balanced, quality, speed, context."
    ),
]
MinSpeed = Annotated[
    float,
    typer.Option("--min-speed", min=0, metavar="X", help="Tokens a second to decode at least."),
]
Explain = Annotated[
    bool, typer.Option("--explain", help="Say where every number of the choice comes from.")
]
FlashAttention = Annotated[
    str,
    typer.Option(
        "--flash-attention", "-fa", "--flash-attn", metavar="on|off", help="Fused attention."
    ),
]
GpuLayers = Annotated[
    int,
    typer.Option(
        *("--gpu-layers", "-ngl", "--n-gpu-layers"),
        min=-1,
        metavar="N",
        help="Layers on GPUs; -1 chooses.",
    ),
]
CpuExperts = Annotated[
    int,
    typer.Option(
        "--cpu-experts",
        "-ncmoe",
        "--n-cpu-moe",
        min=-1,
        metavar="N",
        help="First layers whose experts stay in RAM; -1 chooses.",
    ),
]
Target = Annotated[
    str,
    typer.Option(
        "--for",
        metavar="PROGRAM[,..]",
        help="Also print the commands for llama.cpp, ollama, lm-studio, vllm, sglang, "
        "ktransformers or mlx; with --nodes for rpc or ray; or for all.",
    ),
]
Nodes = Annotated[
    str,
    typer.Option(
        "--nodes",
        metavar="HOST=SIZE[,SIZE..];..",
        help="Other machines that lend their GPUs, as 'a=24GiB; 10.0.0.2:50052=2x RTX 3090'.",
    ),
]
CommandsFolder = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="DIR", help="Write the files of --for to a folder."),
]
Best = Annotated[
    bool,
    typer.Option("--best", help="Ten times slower, with a better choice of scales."),
]
Pre = Annotated[
    str,
    typer.Option(
        "--pre",
        metavar="NAME",
        help="llama.cpp's name for how a folder's tokenizer splits text, where it is not known.",
    ),
]
Threads = Annotated[
    int,
    typer.Option("--threads", "-t", min=0, metavar="N", help="Threads; 0 takes every processor."),
]
Out = Annotated[
    Path, typer.Option("-o", "--output", metavar="OUT", help="File to write.", show_default=False)
]
OutIfAny = Annotated[
    Path | None,
    typer.Option("-o", "--output", "--outfile", metavar="OUT", help="File to write."),
]
Text = Annotated[
    Path | None,
    typer.Option("--text", metavar="FILE", help="Text to use instead of the one that ships."),
]
Size = Annotated[str, typer.Option("--size", metavar="SIZE", help="Bytes that the file may have.")]
Like = Annotated[
    str, typer.Option("--like", "--mix", metavar="MIX", help="A named mix, as Q4_K_M.")
]
Bpw = Annotated[
    float, typer.Option("--bpw", min=0, metavar="X", help="Bits per weight that the file may have.")
]


def machine_from(vram: str, ram: str, named: str = "") -> Machine:
    """Return the machine that is here or `named`, with memories replaced by those that were given.

    Raises UsageError, and FormatError for a file that describes no machine.
    """
    from snugfit.hardware.detect import detect, machine_of

    gpus, memory = parse_sizes(vram) if vram else None, parse_size(ram) if ram else None
    if named:
        from snugfit.hardware.named import machine_named

        return machine_of(gpus, memory, machine_named(named))
    return machine_of(gpus, memory) if vram or ram else detect()


def machine_options(named: str, vram: str = "", ram: str = "") -> str:
    """Return the options as they were given, so that a next command plans for the same machine."""
    given = (("--machine", named), ("--vram", vram), ("--ram", ram))
    return "".join(f" {option} {shlex.quote(value)}" for option, value in given if value)


def size_limit(size: str, bpw: float, parameters: int) -> int | None:
    """Return the bytes that --size or --bpw allow the file, or None without either."""
    if not math.isfinite(bpw):
        raise UsageError(f"--bpw is {bpw}. Give bits a weight, as 4.5.")
    if size:
        return parse_size(size)
    return int(bpw * parameters / 8) if bpw else None


def is_on(text: str) -> bool:
    """Read `on` or `off`. Raises UsageError for anything else."""
    if text.lower() not in ("on", "off"):
        raise UsageError(f"--flash-attention takes on or off, not '{text}'.")
    return text.lower() == "on"


def configuration_from(
    ctx: int,
    kv: str,
    slots: int,
    ubatch: int,
    flash_attention: str,
    gpu_layers: int,
    experts: int,
    *,
    kv_values: str = "",
    kv_unified: bool = False,
    swa_full: bool = False,
    rollback: int = 0,
) -> Configuration:
    return Configuration(
        ctx=ctx,
        kv_type=kv.upper(),
        slots=slots,
        ubatch=ubatch,
        flash_attention=is_on(flash_attention),
        gpu_layers=max(0, gpu_layers),
        cpu_expert_layers=max(0, experts),
        kv_unified=kv_unified,
        value_type=kv_values.upper(),
        swa_full=swa_full,
        rollback=rollback,
    )


def goal_from(
    ctx: int,
    size_bytes: int | None,
    like: str,
    kv: str,
    slots: int,
    ubatch: int,
    flash_attention: str,
    gpu_layers: int,
    experts: int,
    *,
    kv_values: str = "",
    kv_unified: bool = False,
    swa_full: bool = False,
    rollback: int = 0,
    objective: str = "balanced",
    min_speed: float = 0.0,
) -> Goal:
    """Return what planning aims at; 0, -1 and empty text leave the choice to it."""
    from snugfit.planning.axes import Goal

    if not math.isfinite(min_speed):
        raise UsageError(f"--min-speed is {min_speed}. Give tokens a second, as 10.")
    return Goal(
        ctx=ctx or None,
        size_bytes=size_bytes,
        mix=like or None,
        kv_type=kv.upper() or None,
        slots=slots,
        ubatch=ubatch or None,
        flash_attention=is_on(flash_attention),
        gpu_layers=gpu_layers if gpu_layers >= 0 else None,
        cpu_expert_layers=experts if experts >= 0 else None,
        value_type=kv_values.upper(),
        kv_unified=kv_unified,
        swa_full=swa_full,
        rollback=rollback,
        objective=objective.lower(),
        least_tokens_per_s=min_speed,
    )
