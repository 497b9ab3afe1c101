"""llama.cpp: one line for its server, one for its command line.

Every place is given, so `--fit off` goes with it: llama.cpp would else change the context, or give
up on placing the model where it finds `-ngl`.
"""

from __future__ import annotations

from dataclasses import replace

from snugfit.archs.cache import cache_bytes, state_bytes
from snugfit.core import Configuration
from snugfit.runtimes.commands.base import Commands, Request, Weights
from snugfit.runtimes.commands.options import LLAMA_CPP
from snugfit.runtimes.commands.shell import command, path_word
from snugfit.units import MIB

TARGET = "llama.cpp"
# What llama.cpp does unless it is told; the tests ask its parser.
DEFAULT_BATCH, DEFAULT_UBATCH = 2048, 512
DEFAULT_PROMPT_CACHE_MIB, DEFAULT_CHECKPOINTS = 8192, 32
# llama-cli has one conversation, and no option to share its cache.
OF_SERVER_ONLY = ("slots", "kv_unified")


def commands(request: Request) -> Commands:
    options = options_of(request)
    one = {name: value for name, value in options.items() if name not in OF_SERVER_ONLY}
    one["ctx"] = request.ctx_per_slot
    lines = (
        command("llama-server", *model_words(request.weights), *words(options)),
        command("llama-cli", *model_words(request.weights), *words(one)),
    )
    return Commands(TARGET, lines, notes=notes_of(request))


def words(options: dict[str, object]) -> list[object]:
    """Return options as words; True and False are flags that take nothing."""
    found: list[object] = []
    for name, value in options.items():
        option = LLAMA_CPP[name]
        if isinstance(value, bool):
            found.append(option.flag if value else option.off)
        else:
            found += [option.flag, value]
    return found


def model_words(weights: Weights) -> list[object]:
    """Return what names a file, or a file or mix of a Hub repository."""
    if not weights.repository:
        return [LLAMA_CPP["model"].flag, path_word(weights.gguf)]
    if weights.mix:
        return [LLAMA_CPP["repository"].flag, f"{weights.repository}:{weights.mix}"]
    file = [LLAMA_CPP["file"].flag, weights.gguf]
    return [LLAMA_CPP["repository"].flag, weights.repository, *file]


def options_of(request: Request) -> dict[str, object]:
    """Return every option that the plan sets and llama.cpp would not choose by itself."""
    configuration, machine = request.configuration, request.machine
    options: dict[str, object] = {"fit": "off", "ctx": configuration.ctx}
    options["gpu_layers"] = configuration.gpu_layers
    if not configuration.gpu_layers and (machine.gpus or request.nodes):
        options["device"] = "none"
    if configuration.cpu_expert_layers:
        options["cpu_expert_layers"] = configuration.cpu_expert_layers
    if configuration.expert_cache_bytes:
        options["expert_cache"] = configuration.expert_cache_bytes // MIB
    if configuration.gpu_split:
        options["gpu_split"] = ",".join(map(str, configuration.gpu_split))
    options["flash_attention"] = "on" if configuration.flash_attention else "off"
    options |= _cache_types(configuration)
    if configuration.ubatch > DEFAULT_BATCH:
        options["batch"] = configuration.ubatch
    if configuration.ubatch != DEFAULT_UBATCH:
        options["ubatch"] = configuration.ubatch
    options["slots"] = configuration.slots
    if configuration.kv_unified or configuration.slots > 1:
        options["kv_unified"] = configuration.kv_unified
    if configuration.swa_full:
        options["swa_full"] = True
    return options | host_memory(request)


def _cache_types(configuration: Configuration) -> dict[str, object]:
    types = {
        "kv_type": configuration.kv_type,
        "value_type": configuration.value_type or configuration.kv_type,
    }
    return {name: kv_type.lower() for name, kv_type in types.items() if kv_type != "F16"}


def host_memory(request: Request) -> dict[str, object]:
    """Return limits for what the server keeps of past prompts in the RAM that the plan leaves.

    By itself it takes up to 8 GiB for prompts, and for models with windows or states 32 snapshots
    of them a slot; neither is in the plan.
    """
    ram = request.plan.memory.devices[-1]
    left = max(0, ram.free_bytes - ram.needed_bytes)
    options: dict[str, object] = {}
    snapshots = _snapshot_bytes(request) * request.configuration.slots
    kept = DEFAULT_CHECKPOINTS
    if snapshots * DEFAULT_CHECKPOINTS > left // 2:
        kept = left // 2 // snapshots
        options["checkpoints"] = kept
    prompts = (left - kept * snapshots) // MIB
    if prompts < DEFAULT_PROMPT_CACHE_MIB:
        options["prompt_cache"] = prompts
    return options


def _snapshot_bytes(request: Request) -> int:
    """Return what a snapshot of one conversation's windows and states takes."""
    configuration = replace(request.configuration, slots=1, rollback=0)
    windows = [cache for cache in request.spec.caches if cache.window]
    kept = 0 if configuration.swa_full else sum(cache_bytes(windows, configuration).values())
    return kept + sum(state_bytes(request.spec.states, configuration).values())


def notes_of(request: Request) -> tuple[str, ...]:
    notes = []
    rollback = request.configuration.rollback
    if rollback:
        notes.append(
            f"The plan leaves room for drafts of {rollback} tokens: name a draft with --spec-type, "
            f"and {LLAMA_CPP['draft'].flag} {rollback}."
        )
    limits = host_memory(request)
    if "prompt_cache" in limits:
        notes.append(
            f"{LLAMA_CPP['prompt_cache'].flag} keeps past prompts within the RAM that is left."
        )
    return tuple(notes)
