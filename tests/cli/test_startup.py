"""What a command loads: start-up time is promised, and its causes are tested, not the time."""

from __future__ import annotations

import subprocess
import sys

import pytest
from headers import unpacked_header

# Each costs 5 ms to some seconds to load, and none of them is needed to plan for what is described.
HEAVY = {
    *("pydantic", "torch", "transformers", "tokenizers", "huggingface_hub", "gguf", "safetensors"),
    *("httpx", "httpx2", "requests", "xllamacpp", "psutil", "pynvml", "platformdirs", "yaml"),
    *("asyncio", "email", "importlib.metadata", "rich.progress", "rich._emoji_codes"),
    *("snugfit.quants._native", "snugfit.formats.hub", "snugfit.runtimes"),
}
PROGRAM = """
import sys
from snugfit.cli.main import main
sys.argv = ["snugfit", {arguments}]
status = main()
sys.stdout.flush()
print(status, *sys.modules, file=sys.stderr)
"""
MACHINE = ("--vram", "24GiB", "--ram", "64GiB")


def loaded_by(*arguments: str) -> set[str]:
    """Return the modules that a process of this one command has loaded at its end."""
    program = PROGRAM.format(arguments=", ".join(map(repr, arguments)))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    status, *modules = done.stderr.splitlines()[-1].split()
    assert status == "0", done.stderr
    return set(modules)


def test_help_loads_nothing_heavy() -> None:
    loaded = loaded_by("--help")
    assert loaded & {"numpy", "rich", "typer", *HEAVY} == set()


@pytest.mark.parametrize("command", ["plan", "memory"])
def test_commands_that_read_a_header_load_nothing_heavy(command: str) -> None:
    with unpacked_header("Llama-3.3-70B") as path:
        loaded = loaded_by(command, str(path), *MACHINE)
    assert loaded & HEAVY == set()
    # One model's header needs no other model's shapes, and no way to convert.
    assert loaded & {"snugfit.archs.catalogue", "snugfit.archs.conversion"} == set()


def test_catalogue_plans_without_heavy_modules() -> None:
    loaded = loaded_by("plan", "llama-3.3-70b", *MACHINE)
    assert loaded & HEAVY == set()
