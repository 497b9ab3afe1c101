"""`snugfit`: the table of commands, loaded only when called, and the one place where errors end."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click
from typer.core import TyperGroup
from typer.main import get_command_from_info
from typer.models import CommandInfo

from snugfit.errors import SnugfitError

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
    "run": ("snugfit.cli.run", "answer a prompt, or chat"),
}
HEADLINE = "Fit the best possible language model into the memory you have."
EXAMPLES = """\
  snugfit plan demo-moe --ram 8GiB
  snugfit fit demo-moe -o small.gguf --size 6MiB
  snugfit run small.gguf "import os"
"""


class LazyGroup(TyperGroup):
    """A group that imports a command when it is called, so that --help is instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return load_command(cmd_name) if cmd_name in COMMANDS else None

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write(overview())


def load_command(name: str) -> click.Command:
    """Import a command's module and build its options from the function of the same name."""
    module = importlib.import_module(COMMANDS[name][0])
    function = getattr(module, name + "_command")
    info = CommandInfo(name=name, callback=function, help=function.__doc__)
    return get_command_from_info(info, pretty_exceptions_short=True, rich_markup_mode=None)


def overview() -> str:
    lines = [HEADLINE, "", "Usage: snugfit COMMAND [OPTIONS]", "", "Commands:"]
    lines += [f"  {name:<10} {text}" for name, (_, text) in COMMANDS.items()]
    lines += ["", "Examples:", EXAMPLES, "MODEL is a Hugging Face directory, a GGUF file, a Hub name"]
    lines += ["owner/name[:file], or demo, demo-moe. Sizes: 15.2GiB, 16GB, 900MiB. Every command"]
    lines += ["takes --json and --help.", ""]
    return "\n".join(lines)


def print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        from importlib.metadata import version

        click.echo(f"snugfit {version('snugfit')}")
        ctx.exit()


def build_group() -> LazyGroup:
    version = click.Option(
        ["--version"], is_flag=True, expose_value=False, is_eager=True, callback=print_version
    )
    return LazyGroup(
        name="snugfit",
        help=HEADLINE,
        params=[version],
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, 1 for an explained failure, 2 for wrong usage."""
    try:
        outcome: Any = build_group().main(arguments, prog_name="snugfit", standalone_mode=False)
    except SnugfitError as error:
        print(f"snugfit: {error}", file=sys.stderr)
        return error.exit_status
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        return 2
    except click.UsageError as error:
        error.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        print("snugfit: interrupted; nothing half-written was left.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (`| head`) has gone; Python would complain once more while closing stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return outcome if isinstance(outcome, int) else 0


if __name__ == "__main__":
    sys.exit(main())
