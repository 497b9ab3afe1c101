"""`snugfit`: the table of commands, loaded only when called, and the one place where errors end."""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import sys
from typing import TYPE_CHECKING

from snugfit.errors import SnugfitError, UsageError

if TYPE_CHECKING:
    import typer

# Name -> (module with a function of that name, what it does in one line).
COMMANDS: dict[str, tuple[str, str]] = {
    "machine": ("snugfit.cli.machine", "show the memory that is here, and what is free"),
    "inspect": ("snugfit.cli.inspect", "show a model's shapes, types and bytes"),
    "memory": ("snugfit.cli.memory", "say how many bytes one configuration takes, and where"),
    "plan": ("snugfit.cli.plan", "choose a mix, a context and a place for every layer"),
    "fit": ("snugfit.cli.fit", "plan, cut to size, prove the loss: ready to run"),
    "convert": ("snugfit.cli.convert", "write a Hugging Face model as GGUF, in full precision"),
    "calibrate": ("snugfit.cli.calibrate", "measure which weights matter, on text"),
    "quantize": ("snugfit.cli.quantize", "write one mix of tensor types as GGUF"),
    "evaluate": ("snugfit.cli.evaluate", "measure perplexity and the distance from the original"),
    "tables": ("snugfit.cli.tables", "say what every quantization needs, as tables to publish"),
    "bench": ("snugfit.cli.bench", "calibrate speed on this machine, or time a model"),
    "run": ("snugfit.cli.run", "answer a prompt, or chat"),
}
# These read headers and end, within half a second.
BRIEF = ("inspect", "memory", "plan")
HEADLINE = "Fit the best possible language model into the memory you have."
EXAMPLES = """\
  snugfit plan demo-moe --ram 8GiB
  snugfit fit demo-moe -o small.gguf --size 6MiB
  snugfit run small.gguf "import os"
"""


def overview() -> str:
    lines = [HEADLINE, "", "Usage: snugfit COMMAND [OPTIONS]", "", "Commands:"]
    lines += [f"  {name:<10} {text}" for name, (_, text) in COMMANDS.items()]
    lines += [
        "",
        "Examples:",
        EXAMPLES,
        "MODEL is a Hugging Face directory, a GGUF file, a Hub name",
    ]
    lines += [
        "owner/name[@revision][:file], demo or demo-moe; to plan, a name such as",
        "qwen3.6-35b-a3b too.",
        "Sizes: 15.2GiB, 16GB, 900MiB. Every command takes --json and --help.\n",
    ]
    return "\n".join(lines)


def app_of(name: str) -> typer.Typer:
    """Import one command and build its options from the function called NAME_command."""
    import typer

    function = getattr(importlib.import_module(COMMANDS[name][0]), f"{name}_command")
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.callback()(lambda: None)  # keeps `snugfit NAME` in usage lines
    settings = {"help_option_names": ["-h", "--help"], "max_content_width": 80}
    app.command(name, context_settings=settings)(function)
    return app


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns 0, 1 for an explained failure, or 2 for wrong usage."""
    is_process = arguments is None
    arguments = sys.argv[1:] if arguments is None else arguments
    command = arguments[0] if arguments else ""
    if is_process and command in BRIEF:
        hurry()
    if command in ("", "-h", "--help"):
        print(overview(), end="")
        return 0 if command else 2
    if command == "--version":
        from importlib.metadata import version

        print(f"snugfit {version('snugfit')}")
        return 0
    try:
        if command not in COMMANDS:
            import difflib

            near = difflib.get_close_matches(command, COMMANDS, 1)
            meant = f" Did you mean {near[0]}?" if near else ""
            raise UsageError(f"'{command}' is not a command.{meant} See: snugfit --help")
        return run(command, arguments)
    except SnugfitError as error:
        print(f"snugfit: {error}", file=sys.stderr)
        return error.exit_status


def hurry() -> None:
    """Leave out what costs this process a tenth of a second and gives it nothing."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # starting threads for products of matrices
    gc.disable()
    atexit.register(gc.freeze)  # or the interpreter would look for garbage on its way out


def run(command: str, arguments: list[str]) -> int:
    # Threads of torch that wait for each other would spin, and halt a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app_of(command)(arguments, prog_name="snugfit")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    return 0


if __name__ == "__main__":
    sys.exit(main())
