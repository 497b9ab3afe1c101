"""The commands for llama.cpp and Ollama, read back by llama.cpp's own argument parser."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest
from handed_plans import HUB, configurations, request_of, with_rollback
from llama_cpp_arguments import EXAMPLES, Question, configuration_of, parsed

from snugfit.core import Configuration
from snugfit.errors import UnsupportedError
from snugfit.hardware.detect import machine_of
from snugfit.runtimes.commands import llama_cpp, ollama
from snugfit.runtimes.commands.base import Request, Weights
from snugfit.runtimes.commands.options import LLAMA_CPP, OLLAMA_PARAMETERS
from snugfit.units import GIB, MIB

REQUESTS = [request_of(one, machine_of([24 * GIB] * 2, 256 * GIB)) for one in configurations(60)]
ROW_VALUES = {  # of the options that take other words than a number
    "fit": "off",
    "flash_attention": "on",
    "kv_type": "q8_0",
    "value_type": "q8_0",
    "device": "none",
    "gpu_split": "3,4",
}


def question_of(line: str) -> Question:
    program, *words = shlex.split(line)
    return Question(program, words)


def placed(configuration: Configuration) -> Configuration:
    """Return a configuration as llama.cpp reports it, where several ways of writing are one."""
    values = configuration.value_type
    return replace(configuration, value_type="" if values == configuration.kv_type else values)


@pytest.mark.parametrize("program", [0, 1], ids=list(EXAMPLES))
def test_llama_cpp_reads_the_plan_back_out_of_its_commands(program: int) -> None:
    lines = [llama_cpp.commands(request).lines[program] for request in REQUESTS]
    for request, line, answer in zip(
        REQUESTS, lines, parsed([question_of(line) for line in lines]), strict=True
    ):
        assert answer is not None, line
        wanted = placed(request.configuration)
        if program == 1:  # one conversation: it has no slots to share
            wanted = replace(wanted, ctx=request.ctx_per_slot, slots=1, kv_unified=False)
        assert configuration_of(answer | {"n_parallel": max(1, answer["n_parallel"])}) == wanted
        assert answer["fit_params"] is False
        assert answer["n_batch"] >= answer["n_ubatch"]
        assert answer["path"] == "models/a file.gguf"


def test_every_option_is_one_of_llama_cpps() -> None:
    asked = {name: ROW_VALUES.get(name, "7") for name in LLAMA_CPP if name != "rpc"}
    flags = {"kv_unified", "swa_full"}
    found = parsed(
        [
            Question("llama-server", [LLAMA_CPP[name].flag, *([] if name in flags else [value])])
            for name, value in asked.items()
        ]
        + [Question("llama-server", [LLAMA_CPP["kv_unified"].off])]
        + [Question("llama-server", ["-m", "x"], {"LLAMA_ARG_RPC": "a:50052"})]
        + [Question("llama-server", ["--no-such-option", "7"])]
    )
    known, without_rpc, unknown = found[:-2], found[-2], found[-1]
    assert all(answer is not None for answer in known)
    # This build has no RPC: it knows the variable, and refuses for that reason.
    assert without_rpc is None
    assert unknown is None


def test_every_variable_is_one_of_llama_cpps() -> None:
    fields = {
        "LLAMA_ARG_CTX_SIZE": "n_ctx",
        "LLAMA_ARG_N_PARALLEL": "n_parallel",
        "LLAMA_ARG_BATCH": "n_batch",
        "LLAMA_ARG_UBATCH": "n_ubatch",
        "LLAMA_ARG_N_GPU_LAYERS": "n_gpu_layers",
        "LLAMA_ARG_N_CPU_MOE": "tensor_buft_overrides",
        "LLAMA_ARG_MOE_CACHE_MIB": "moe_cache_size",
        "LLAMA_ARG_CACHE_RAM": "cache_ram_mib",
        "LLAMA_ARG_CTX_CHECKPOINTS": "n_ctx_checkpoints",
        "LLAMA_ARG_FIT": "fit_params",
        "LLAMA_ARG_FLASH_ATTN": "flash_attn_type",
        "LLAMA_ARG_CACHE_TYPE_K": "cache_type_k",
        "LLAMA_ARG_CACHE_TYPE_V": "cache_type_v",
        "LLAMA_ARG_TENSOR_SPLIT": "tensor_split",
        "LLAMA_ARG_KV_UNIFIED": "kv_unified",
        "LLAMA_ARG_SWA_FULL": "swa_full",
    }
    by_env = {option.env: name for name, option in LLAMA_CPP.items()}
    questions = [
        Question("llama-server", ["-m", "x"], {env: ROW_VALUES.get(by_env[env], "1")})
        for env in fields
    ]
    plain, *changed = parsed([Question("llama-server", ["-m", "x"]), *questions])
    assert plain is not None
    for (env, name), answer in zip(fields.items(), changed, strict=True):
        assert answer is not None
        assert answer[name] != plain[name], env


def test_what_is_not_given_is_what_llama_cpp_does_by_itself() -> None:
    (plain,) = parsed([Question("llama-server", ["-m", "x"])])
    assert plain is not None
    assert plain["n_batch"] == llama_cpp.DEFAULT_BATCH
    assert plain["n_ubatch"] == llama_cpp.DEFAULT_UBATCH
    assert plain["cache_ram_mib"] == llama_cpp.DEFAULT_PROMPT_CACHE_MIB
    assert plain["n_ctx_checkpoints"] == llama_cpp.DEFAULT_CHECKPOINTS


def test_models_of_the_hub_are_named_as_llama_cpp_names_them() -> None:
    request = request_of(Configuration(512), weights=HUB)
    by_file = replace(request, weights=Weights("a/b.gguf", "owner/name"))
    lines = [llama_cpp.commands(one).lines[0] for one in (request, by_file)]
    mix, file = parsed([question_of(line) for line in lines])
    assert mix is not None
    assert file is not None
    assert (mix["repo"], mix["file"]) == ("unsloth/Qwen3-GGUF:Q4_K_M", "")
    assert (file["repo"], file["file"]) == ("owner/name", "a/b.gguf")


def test_a_plan_without_gpu_layers_leaves_gpus_alone() -> None:
    line = llama_cpp.commands(request_of(Configuration(512))).lines[0]
    assert "-ngl 0 --device none" in line
    on_none = llama_cpp.commands(request_of(Configuration(512), machine_of([], 64 * GIB))).lines[0]
    assert "--device" not in on_none


@pytest.mark.parametrize("name", ["Qwen3.6-35B-A3B", "gemma-4-31B", "gpt-oss-120b", "Phi-4"])
def test_what_the_server_keeps_of_past_prompts_fits_the_ram_that_is_left(name: str) -> None:
    configuration = Configuration(32768, slots=4, gpu_layers=0)
    whole = request_of(configuration, machine_of([], 512 * GIB), name=name)
    needed = whole.plan.memory.devices[-1].total_bytes
    plenty = 2048 * GIB
    for spare in (0, 100 * MIB, 5 * GIB, plenty):
        request = request_of(configuration, machine_of([], needed + spare), name=name)
        limits = llama_cpp.host_memory(request)
        prompts = int(str(limits.get("prompt_cache", 8192))) * MIB
        kept = int(str(limits.get("checkpoints", 32)))
        snapshots = kept * configuration.slots * llama_cpp._snapshot_bytes(request)
        assert prompts + snapshots <= spare
        assert bool(limits) == (spare < plenty)


def test_room_for_a_draft_is_a_note() -> None:
    request = request_of(with_rollback(Configuration(512)), name="Qwen3.6-35B-A3B")
    assert any("--spec-draft-n-max 3" in note for note in llama_cpp.commands(request).notes)


# Ollama's parser, parser/parser.go at 00dc3af, written down as rules: an instruction is letters up
# to a blank; PARAMETER has a name of letters, digits and underscores up to a blank; a value goes to
# the end of the line, without blanks around it; letters that Go cannot print are left out; a value
# that starts with a quote ends with one. Names of parameters: api/types.go, Runner and Options.
RUNNER_PARAMETERS = {"num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread"}


def read_modelfile(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in text.split("\n"):
        if not line.strip() or line.startswith("#"):
            continue
        instruction, _, value = line.partition(" ")
        assert instruction.isalpha()
        if instruction.lower() == "parameter":
            instruction, _, value = value.partition(" ")
            assert instruction in RUNNER_PARAMETERS
        value = "".join(letter for letter in value if letter.isprintable()).strip()
        assert not value.startswith('"')
        found[instruction.lower()] = value
    return found


def launched_by_ollama(request: Request) -> Question:
    """Return how Ollama starts llama-server: llm/llama_server.go at 00f6d62, startLlamaServer."""
    modelfile = read_modelfile(ollama.commands(request).files["Modelfile"])
    environment = {name: str(value) for name, value in ollama.environment_of(request).items()}
    slots = int(environment["OLLAMA_NUM_PARALLEL"])
    words = ["--model", modelfile["from"], "-c", str(int(modelfile["num_ctx"]) * slots)]
    words += ["-np", str(slots)]
    cache = environment.get("OLLAMA_KV_CACHE_TYPE", "")
    assert cache in ("", "f16", "q8_0", "q4_0")
    if cache:
        words += ["--cache-type-k", cache, "--cache-type-v", cache]
    words += ["--flash-attn", "on" if environment["OLLAMA_FLASH_ATTENTION"] == "1" else "off"]
    words += ["-b", modelfile["num_batch"], "-ub", modelfile["num_batch"]]
    words += ["-ngl", modelfile["num_gpu"]]
    passed = {name: value for name, value in environment.items() if name.startswith("LLAMA_ARG_")}
    return Question("llama-server", words, passed)


def test_ollama_starts_llama_server_with_the_plan() -> None:
    questions = [launched_by_ollama(request) for request in REQUESTS]
    for request, answer in zip(REQUESTS, parsed(questions), strict=True):
        assert answer is not None
        assert configuration_of(answer) == placed(request.configuration)
        assert answer["fit_params"] is False
        assert ("OLLAMA_SCHED_SPREAD" in ollama.environment_of(request)) == (
            request.configuration.gpu_layers > 0
        )


def test_ollamas_parameters_are_in_its_source() -> None:
    assert set(OLLAMA_PARAMETERS.values()) <= RUNNER_PARAMETERS


def test_ollama_takes_a_path_or_a_hub_name() -> None:
    request = request_of(Configuration(512), weights=HUB)
    assert "FROM hf.co/unsloth/Qwen3-GGUF:Q4_K_M\n" in ollama.modelfile(request)
    local = read_modelfile(ollama.modelfile(request_of(Configuration(512))))
    assert local["from"].startswith("/")
    assert local["from"].endswith("/models/a file.gguf")
    with pytest.raises(UnsupportedError, match="Rename it"):
        ollama.modelfile(replace(request, weights=Weights("a\nPARAMETER num_gpu 99.gguf")))
    with pytest.raises(UnsupportedError, match="blanks"):
        ollama.modelfile(replace(request, weights=Weights("a.gguf ")))
