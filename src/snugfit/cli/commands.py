"""A chosen plan as commands for other programs: `snugfit plan MODEL --for`, and `--nodes`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snugfit.cli import render
from snugfit.core import Machine, ModelSpec, Plan
from snugfit.errors import OutputError, UsageError

if TYPE_CHECKING:
    from snugfit.hardware.nodes import Node
    from snugfit.headers import Headers
    from snugfit.planning.axes import Goal
    from snugfit.planning.search import Found
    from snugfit.runtimes.commands.base import Commands, Weights


@dataclass(frozen=True)
class Site:
    """Where a plan is to run: this machine, and others that lend it their GPUs."""

    here: Machine
    nodes: tuple[Node, ...] = ()

    @property
    def whole(self) -> Machine:
        """All memories as one machine, in llama.cpp's order."""
        if not self.nodes:
            return self.here
        from snugfit.hardware.nodes import over_nodes

        return over_nodes(self.here, self.nodes)

    def goal(self, goal: Goal) -> Goal:
        """Return what can be planned here: over nodes, experts stay with their layers."""
        if not self.nodes:
            return goal
        if goal.cpu_expert_layers:
            raise UsageError(
                "--cpu-experts: experts of the first layers, which --nodes puts on other machines, "
                "cannot be in this one's RAM. Leave one of the two out."
            )
        return replace(goal, cpu_expert_layers=0)

    def spread(self, found: Found) -> Found:
        """Return a search over nodes with the layers of each GPU of its choice written out.

        Other machines may report their memory otherwise than it was named.
        """
        plan = found.chosen
        configuration = plan.memory.configuration
        if not self.nodes or configuration.gpu_split or not configuration.gpu_layers:
            return found
        from snugfit.planning.memory import places

        free = [gpu.free_bytes for gpu in self.whole.gpus]
        place = places(plan.layers, configuration.gpu_layers, free)
        split = tuple(place.count(gpu) for gpu in range(len(free)))
        configuration = replace(configuration, gpu_split=split)
        memory = replace(plan.memory, configuration=configuration)
        return replace(found, chosen=replace(plan, memory=memory))


def site_of(here: Machine, nodes: str) -> Site:
    """Return where to plan for. Raises UsageError for nodes that cannot be read."""
    if not nodes:
        return Site(here)
    from snugfit.hardware.nodes import parse_nodes

    return Site(here, parse_nodes(nodes))


def commands_of(
    plan: Plan,
    specs: Mapping[str, ModelSpec],
    headers: Headers,
    named: str,
    site: Site,
    targets: str,
) -> list[Commands]:
    """Return what each program of `--for` is told to run the plan of the model that was `named`.

    Raises UsageError for a program that is not known, UnsupportedError for a hostile file name.
    """
    if not targets and not site.nodes:
        return []
    from snugfit.runtimes.commands.base import Request, commands_for, targets_of

    names = targets_of(targets or "all", has_nodes=bool(site.nodes))
    spec = specs[plan.mix] if plan.mix in specs else next(iter(specs.values()))
    weights = weights_of(plan, spec, headers, named)
    return commands_for(names, Request(plan, spec, site.here, weights, site.nodes))


def weights_of(plan: Plan, spec: ModelSpec, headers: Headers, named: str) -> Weights:
    """Return what names the chosen file, and the original that other engines serve."""
    from snugfit.headers import FROM_DOWNLOAD
    from snugfit.planning.cuts import AS_IT_IS
    from snugfit.runtimes.commands.base import Weights

    picked = headers.models.get(plan.mix) or next(iter(headers.models.values()))
    is_gguf = picked.path.suffix.lower() == ".gguf"
    is_here = headers.note in ("", FROM_DOWNLOAD)
    if is_gguf and plan.mix in (AS_IT_IS, *headers.models):
        if is_here:
            return Weights(str(picked.path))
        owner, name, *file = picked.path.parts
        picks = plan.mix in headers.models and not plan.mix.endswith(".gguf")
        return Weights("/".join(file), f"{owner}/{name}", plan.mix if picks else "")
    cut = "" if plan.mix == AS_IT_IS else f"{spec.name}-{plan.mix}.gguf"
    original = str(picked.path) if is_here else headers.weights or named
    return Weights(cut, original="" if is_gguf else original)


def documents_of(made: Sequence[Commands]) -> dict[str, Any]:
    return {
        one.target: {"refusal": one.refusal}
        if one.refusal
        else {"lines": list(one.lines), "files": dict(one.files), "notes": list(one.notes)}
        for one in made
    }


def show(made: Sequence[Commands], folder: Path | None = None) -> None:
    """Print what to do, a program a heading; files are written to `folder`, or as lines too."""
    for one in made:
        render.heading(one.target)
        if one.refusal:
            print_line(f"{one.target} {one.refusal}")
            continue
        for line in lines_of(one, folder):
            print_line(line)
        if one.notes:
            render.items(one.notes)


def show_next(plan: Plan, named: str) -> None:
    """Print how to write the file that a plan over nodes needs, unless it is there."""
    from snugfit.quants.recipes import RECIPES
    from snugfit.runtimes.commands.shell import command, path_word

    if plan.mix in RECIPES:
        out = path_word(f"{plan.model}-{plan.mix}.gguf")
        words = ("snugfit", "quantize", named, "-o", out, "--like", plan.mix)
        render.next_command(command(*words))


def lines_of(one: Commands, folder: Path | None) -> list[str]:
    """Return the lines of one program, those that make its files first."""
    from snugfit.runtimes.commands.shell import command, here_document, path_word

    if not one.files:
        return list(one.lines)
    if folder is None:
        return [*(here_document(name, text) for name, text in one.files.items()), *one.lines]
    return [command("cd", path_word(str(folder))), *one.lines]


def write_files(made: Sequence[Commands], folder: Path) -> None:
    """Write every program's files to a folder. Raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for one in made:
            for name, text in one.files.items():
                (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror}).") from error


def print_line(line: str) -> None:
    """Print a line whole, however long, so that it can be copied."""
    render.out.print(line, soft_wrap=True, markup=False, emoji=False)
