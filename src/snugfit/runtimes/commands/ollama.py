"""Ollama: a Modelfile, and the environment of its server.

Since 0.30 Ollama runs llama.cpp's own server, which reads LLAMA_ARG_* for all that Ollama does not
pass to it (llm/llama_server.go). Its num_ctx is the context of one request.
"""

from __future__ import annotations

import re
from pathlib import Path

from snugfit.errors import UnsupportedError
from snugfit.runtimes.commands.base import Commands, Request, Weights
from snugfit.runtimes.commands.llama_cpp import notes_of, options_of
from snugfit.runtimes.commands.options import (
    LLAMA_CPP,
    OLLAMA_CACHE_TYPES,
    OLLAMA_ENVIRONMENT,
    OLLAMA_PARAMETERS,
)
from snugfit.runtimes.commands.shell import command, printed

TARGET = "ollama"
FILE = "Modelfile"
# Options that Ollama passes by itself, from the Modelfile or its own environment.
PASSED_BY_OLLAMA = ("ctx", "gpu_layers", "batch", "ubatch", "slots", "flash_attention")


def commands(request: Request) -> Commands:
    name = re.sub(r"[^a-z0-9._-]+", "-", request.plan.model.lower()).strip("-._") or "model"
    lines = (
        command("ollama", "serve", environment=environment_of(request)),
        command("ollama", "create", name, "-f", FILE),
        command("ollama", "run", name),
    )
    return Commands(TARGET, lines, {FILE: modelfile(request)}, _notes(request))


def modelfile(request: Request) -> str:
    """Return the Modelfile. Raises UnsupportedError for a path that it cannot hold."""
    configuration = request.configuration
    values = {
        "ctx": configuration.ctx // configuration.slots,
        "gpu_layers": configuration.gpu_layers,
        "ubatch": configuration.ubatch,
    }
    lines = [f"FROM {_from(request.weights)}"]
    lines += [f"PARAMETER {OLLAMA_PARAMETERS[name]} {value}" for name, value in values.items()]
    return "\n".join(lines) + "\n"


def _from(weights: Weights) -> str:
    """Return what follows FROM: read to the end of the line, with blanks around it taken off."""
    if weights.repository:
        return f"hf.co/{weights.repository}:{weights.mix or weights.gguf}"
    path = str(Path(weights.gguf).expanduser().absolute())
    if path != path.strip():
        raise UnsupportedError(f"{path}: a Modelfile loses the blanks around a name. Rename it.")
    return printed(path)


def environment_of(request: Request) -> dict[str, object]:
    """Return the variables that the server needs, Ollama's own and llama.cpp's."""
    configuration, options = request.configuration, options_of(request)
    own: dict[str, object] = {
        "slots": configuration.slots,
        "flash_attention": int(configuration.flash_attention),
    }
    values = configuration.value_type or configuration.kv_type
    is_plain = values == configuration.kv_type and values in OLLAMA_CACHE_TYPES
    if is_plain:
        own["kv_type"] = values.lower()
    if len(request.machine.gpus) > 1 and configuration.gpu_layers:
        own["spread"] = 1
    left_out = (*PASSED_BY_OLLAMA, *(("kv_type", "value_type") if is_plain else ()))
    passed = {LLAMA_CPP[name].env: value for name, value in options.items() if name not in left_out}
    named = {OLLAMA_ENVIRONMENT[name]: value for name, value in own.items()}
    return named | {
        name: int(value) if isinstance(value, bool) else value for name, value in passed.items()
    }


def _notes(request: Request) -> tuple[str, ...]:
    notes = [
        "Where Ollama runs as a service, give that service the variables, and start it again; "
        "they hold for every model that it loads."
    ]
    if request.configuration.kv_unified:
        notes.append("One request may have its share of the context, not all of it.")
    return (*notes, *notes_of(request))
