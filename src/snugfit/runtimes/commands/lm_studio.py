"""LM Studio: its settings of one model as a file, and the `lms` commands that load it.

`lms load` takes the GPU's share and the context alone; the rest is read from the file whenever the
model is loaded.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from snugfit.core import Configuration
from snugfit.runtimes.commands.base import Commands, Request
from snugfit.runtimes.commands.llama_cpp import DEFAULT_BATCH
from snugfit.runtimes.commands.options import (
    LM_STUDIO_CACHE_TYPES,
    LM_STUDIO_KEYS,
    LMS,
    LMS_IMPORT,
)
from snugfit.runtimes.commands.shell import command, path_word, quoted

TARGET = "lm-studio"
FILE = "lm-studio.json"
SETTINGS = "~/.lmstudio/.internal/user-concrete-model-default-config"  # beside its models


def commands(request: Request) -> Commands:
    configuration = request.configuration
    types = {configuration.kv_type, configuration.value_type or configuration.kv_type}
    lacking = sorted(types - set(LM_STUDIO_CACHE_TYPES))
    if lacking:
        known = ", ".join(name.lower() for name in LM_STUDIO_CACHE_TYPES)
        return Commands(TARGET, refusal=f"has no {lacking[0].lower()} cache, but {known}.")
    key, first = _key_and_first_line(request)
    places = {"gpu": gpu_share(configuration, request.spec.layers), "ctx": configuration.ctx}
    load = [word for name, value in places.items() for word in (LMS[name], value)]
    lines = (
        first,
        # The home's sign stays outside the quotes, so that the shell reads it.
        f"mkdir -p {SETTINGS}/{quoted(str(Path(key).parent))}",
        f"cp {FILE} {SETTINGS}/{quoted(key + '.json')}",
        command("lms", "load", LMS["exact"], key, *load),
    )
    return Commands(TARGET, lines, {FILE: settings(request)}, _notes(configuration, request))


def _key_and_first_line(request: Request) -> tuple[str, str]:
    """Return what LM Studio calls the file, and the line that gives it to LM Studio."""
    weights = request.weights
    if weights.repository:
        named = "@".join(filter(None, (weights.repository, weights.mix)))
        return f"{weights.repository}/{weights.gguf}", command("lms", "get", named)
    path = Path(weights.gguf)
    home = "snugfit/" + (re.sub(r"[^\w-]+", "-", path.stem, flags=re.ASCII).strip("-") or "model")
    line = command(
        "lms", "import", LMS_IMPORT["link"], LMS_IMPORT["home"], home, path_word(weights.gguf)
    )
    return f"{home}/{path.name}", line


def settings(request: Request) -> str:
    """Return the settings of this model in JSON, as LM Studio stores them."""
    configuration, spec = request.configuration, request.spec
    values: dict[str, object] = {
        "ctx": configuration.ctx,
        "fit": False,  # or it would place the model by itself
        "gpu_layers": gpu_share(configuration, spec.layers),
        "flash_attention": configuration.flash_attention,
        "kv_type": _cache_type(configuration.kv_type),
        "value_type": _cache_type(configuration.value_type or configuration.kv_type),
        "slots": configuration.slots,
        "kv_unified": configuration.kv_unified,
        "kv_on_gpu": configuration.gpu_layers > 0,
        "batch": max(DEFAULT_BATCH, configuration.ubatch),
        "ubatch": configuration.ubatch,
    }
    if spec.experts:
        in_ram = configuration.cpu_expert_layers / spec.layers
        values["cpu_expert_layers"] = _share(in_ram)
    fields = [
        json.dumps({"key": LM_STUDIO_KEYS[name], "value": value}) for name, value in values.items()
    ]
    listed = ",\n    ".join(fields)  # a line each: people read it before they copy it
    head = '{"preset": "", "operation": {"fields": []}, "load": {"fields": ['
    return f"{head}\n    {listed}\n]}}}}\n"


def gpu_share(configuration: Configuration, layers: int) -> float | str:
    """Return the part of the layers, with the output as one more, that is on GPUs."""
    return _share(configuration.gpu_layers / (layers + 1))


def _share(part: float) -> float | str:
    """LM Studio turns a part into a number of layers; all and none have words."""
    return "off" if part <= 0 else "max" if part >= 1 else round(part, 4)


def _cache_type(kv_type: str) -> dict[str, object]:
    return {"checked": kv_type != "F16", "value": kv_type.lower()}


def _notes(configuration: Configuration, request: Request) -> tuple[str, ...]:
    notes = [
        "If `lms ps` shows other settings, load the model in the app: not every release of `lms` "
        "reads the file."
    ]
    if 0 < configuration.gpu_layers <= request.spec.layers:
        notes.append(
            f"{configuration.gpu_layers} of {request.spec.layers + 1} layers on the GPU is given "
            "as a part; LM Studio rounds it."
        )
    cannot = {
        "sliding windows of full length": configuration.swa_full,
        f"an expert cache of {configuration.expert_cache_bytes} bytes": (
            configuration.expert_cache_bytes
        ),
        "how many layers each GPU has": configuration.gpu_split,
        "room for a draft": configuration.rollback,
    }
    notes += [f"LM Studio cannot be told {what}." for what, is_set in cannot.items() if is_set]
    return tuple(notes)
