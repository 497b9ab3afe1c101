"""What every hand-over is given and gives back, and the registry of programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Literal

from snugfit.core import Configuration, Machine, ModelSpec, Plan
from snugfit.errors import UsageError
from snugfit.hardware.nodes import Node


@dataclass(frozen=True)
class Exporter:
    """One program: the function that writes its commands, and what it can be given."""

    function: str  # "module:function", imported when it is first asked for
    loads: Literal["gguf", "original"]  # a GGUF file, or the model as published in safetensors
    over_nodes: bool = False  # whether it is for several machines, or for one


_HOME = "snugfit.runtimes.commands."
EXPORTERS: dict[str, Exporter] = {
    "llama.cpp": Exporter(_HOME + "llama_cpp:commands", "gguf"),
    "ollama": Exporter(_HOME + "ollama:commands", "gguf"),
    "lm-studio": Exporter(_HOME + "lm_studio:commands", "gguf"),
    "vllm": Exporter(_HOME + "vllm:commands", "original"),
    "sglang": Exporter(_HOME + "sglang:commands", "original"),
    "ktransformers": Exporter(_HOME + "ktransformers:commands", "original"),
    "mlx": Exporter(_HOME + "mlx:commands", "original"),
    "rpc": Exporter(_HOME + "rpc:commands", "gguf", over_nodes=True),
    "ray": Exporter(_HOME + "ray:commands", "original", over_nodes=True),
}


@dataclass(frozen=True)
class Weights:
    """Where the weights are."""

    gguf: str = ""  # a path, which `snugfit fit` may have yet to write, or a file of `repository`
    repository: str = ""  # of the Hub, that has the GGUF file
    mix: str = ""  # what picks the file in its repository, where the mix alone does
    original: str = ""  # a folder or a repository of safetensors


@dataclass(frozen=True)
class Request:
    """A chosen plan, and what it was chosen for."""

    plan: Plan
    spec: ModelSpec  # of what was planned: the chosen file, or the original that is cut
    machine: Machine  # this one alone, without `nodes`
    weights: Weights
    nodes: tuple[Node, ...] = ()

    @property
    def configuration(self) -> Configuration:
        return self.plan.memory.configuration

    @property
    def ctx_per_slot(self) -> int:
        """Tokens that one request may have."""
        configuration = self.configuration
        return configuration.ctx // (1 if configuration.kv_unified else configuration.slots)


@dataclass(frozen=True)
class Commands:
    """What to do to run a plan: files to write, then lines for a shell; or why it cannot be."""

    target: str
    lines: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)  # name -> text
    notes: tuple[str, ...] = ()  # what the program cannot express, or needs to be told elsewhere
    refusal: str = ""  # then there is nothing else


Export = Callable[[Request], Commands]


def refused(target: str, reason: str) -> Commands:
    return Commands(target, refusal=reason)


def targets_of(text: str, *, has_nodes: bool) -> list[str]:
    """Return the programs that `--for` names: one, several with commas between, or all that fit.

    Raises UsageError for a name that is none.
    """
    if text.strip().lower() == "all":
        return [name for name, one in EXPORTERS.items() if one.over_nodes == has_nodes]
    named = [name.strip().lower() for name in text.split(",") if name.strip()]
    unknown = next((name for name in named if name not in EXPORTERS), None)
    if unknown is not None or not named:
        known = ", ".join(EXPORTERS)
        raise UsageError(f"--for: '{unknown or text}' is not among {known}, all.")
    return list(dict.fromkeys(named))


def commands_for(targets: Sequence[str], request: Request) -> list[Commands]:
    """Return what each program is to be told. Raises UnsupportedError for a hostile file name."""
    return [_commands(target, request) for target in targets]


def _commands(target: str, request: Request) -> Commands:
    exporter = EXPORTERS[target]
    machines = len(request.nodes) + 1
    if exporter.over_nodes and not request.nodes:
        return refused(target, "is for several machines: name the others with --nodes.")
    if request.nodes and not exporter.over_nodes:
        spanning = " or ".join(name for name, one in EXPORTERS.items() if one.over_nodes)
        return refused(target, f"runs on one machine, the plan on {machines}: --for {spanning}.")
    if exporter.loads == "gguf" and not request.weights.gguf:
        return refused(target, "loads GGUF files: plan one, as snugfit plan OWNER/NAME-GGUF.")
    if exporter.loads == "original" and not request.weights.original:
        return refused(
            target,
            "serves the model as published, in safetensors, not this GGUF file. Plan the original: "
            f"snugfit plan OWNER/NAME --for {target}",
        )
    module, _, function = exporter.function.partition(":")
    export: Export = getattr(import_module(module), function)
    return export(request)
