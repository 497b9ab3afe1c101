"""Commands for every program: safe to copy, options that exist, memory that adds up."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from handed_plans import LOCAL, configurations, gpus, request_of
from headers import spec_from_header

from snugfit.cli.commands import lines_of
from snugfit.core import Configuration, Device, Machine
from snugfit.errors import UnsupportedError, UsageError
from snugfit.hardware.detect import machine_of
from snugfit.hardware.nodes import over_nodes, parse_nodes
from snugfit.planning.memory import predict
from snugfit.runtimes.commands import options, served
from snugfit.runtimes.commands.base import EXPORTERS, Commands, Weights, commands_for, targets_of
from snugfit.runtimes.commands.lm_studio import gpu_share
from snugfit.runtimes.commands.shell import command
from snugfit.units import GIB, MIB

DATA = Path(__file__).parents[1] / "data"
FLAGS: dict[str, Any] = json.loads((DATA / "flags.json").read_text())
ORIGINAL = Weights("out.gguf", original="owner/name")
# Of LM Studio's schema (lmstudio-js ce51121, lms-kv-config/src/schema.ts), and keys of files that
# LM Studio 0.4 has written, which its published schema does not have yet.
LM_STUDIO_SCHEMA = {
    "llm.load.contextLength",
    "llm.load.numCpuExpertLayersRatio",
    "llm.load.offloadKVCacheToGpu",
    "llm.load.llama.acceleration.offloadRatio",
    "llm.load.llama.evalBatchSize",
    "llm.load.llama.flashAttention",
    "llm.load.llama.kCacheQuantizationType",
    "llm.load.llama.vCacheQuantizationType",
}
LM_STUDIO_FILES = {
    "llm.load.llama.autoFit",
    "llm.load.llama.physicalBatchSize",
    "llm.load.numParallelSessions",
    "llm.load.useUnifiedKvCache",
}
HOSTILE = [
    "a file.gguf",
    'it\'s "quoted".gguf',
    "$(touch stolen).gguf",
    "a;touch stolen;.gguf",
    "-m.gguf",
    "`touch stolen`\\.gguf",
    "größe 模型.gguf",
    "SNUGFIT_END.gguf",
    "*?[!a].gguf",
]
PLANS = {
    "llama.cpp": LOCAL,
    "ollama": LOCAL,
    "lm-studio": LOCAL,
    "vllm": ORIGINAL,
    "sglang": ORIGINAL,
    "ktransformers": ORIGINAL,
    "mlx": ORIGINAL,
    "rpc": LOCAL,
    "ray": ORIGINAL,
}
NODES = parse_nodes("a=80GiB; 10.0.0.2:50053=80GiB")
MAC = Machine(
    "Mac", "", 10, (Device("Apple M4 GPU", "gpu", 96 * GIB, 96 * GIB, shares_ram=True), *gpus(9))
)


def made_by(target: str, weights: Weights, machine: Machine | None = None) -> Commands:
    """Return the commands of a plan that `target` can run."""
    here = machine or machine_of([80 * GIB], 128 * GIB)
    here = MAC if target == "mlx" else here
    nodes = NODES if EXPORTERS[target].over_nodes else ()
    whole = over_nodes(here, nodes)
    gpus, layers = len(whole.gpus), 49
    split = tuple(layers * (n + 1) // gpus - layers * n // gpus for n in range(gpus))
    configuration = Configuration(8192, "F16", gpu_layers=layers, gpu_split=split if nodes else ())
    request = request_of(
        configuration,
        here,
        weights=weights,
        is_original=bool(weights.original),
        nodes=nodes,
        whole=whole,
    )
    return commands_for([target], request)[0]


@pytest.mark.parametrize("target", PLANS)
def test_every_program_gets_commands(target: str) -> None:
    made = made_by(target, PLANS[target])
    assert made.refusal == ""
    assert made.lines
    for line in made.lines:
        assert shlex.split(line, comments=True) or line.startswith("#")
        assert line.isprintable()


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("target", PLANS)
def test_lines_mean_the_same_whatever_a_file_is_called(
    tmp_path: Path, target: str, name: str
) -> None:
    """Programs of these names write down what they get; nothing else may happen."""
    weights = replace(PLANS[target], gguf=name)
    if weights.original:
        weights = Weights(f"folder/{name}", original=name)
    programs = tmp_path / "bin"
    programs.mkdir()
    for program in ("llama-server", "llama-cli", "ollama", "lms", "vllm", "python", "ray"):
        (programs / program).write_text('#!/bin/sh\nprintf "%s\\0" "$@" >> "$LOG"\n')
    for program in ("mlx_lm.server", "mlx_lm.convert", options.RPC_SERVER["program"]):
        (programs / program).write_text('#!/bin/sh\nprintf "%s\\0" "$@" >> "$LOG"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    home, log = tmp_path / "home", tmp_path / "log"
    home.mkdir()
    path = f"{programs}:{os.environ['PATH']}"
    environment = {"PATH": path, "HOME": str(home), "LOG": str(log), "LC_ALL": "C.UTF-8"}
    made = made_by(target, weights)
    script = "\n".join(["set -eu", *lines_of(made, None)])
    ran = subprocess.run(
        ["sh", "-c", script], cwd=home, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert not list(home.rglob("stolen"))
    given = log.read_text().split("\0")
    if target != "ollama":
        expected = name if not name.startswith("-") else f"./{name}"
        assert any(word in (expected, f"folder/{name}", "folder") for word in given), given
    for file, text in made.files.items():
        assert (home / file).read_text() == text
    if target == "lm-studio":
        (stored,) = home.glob(".lmstudio/.internal/user-concrete-model-default-config/snugfit/*/*")
        assert stored.name == f"{name}.json"
        assert stored.read_text() == made.files["lm-studio.json"]


@pytest.mark.parametrize("letter", ["\n", "\r", "\x1b", "\0", "\u202e", "\u2028"])
@pytest.mark.parametrize("target", PLANS)
def test_names_that_cannot_be_shown_are_refused(target: str, letter: str) -> None:
    name = f"a{letter}b.gguf"
    weights = Weights(name) if not PLANS[target].original else Weights("x.gguf", original=name)
    with pytest.raises(UnsupportedError, match="Rename it"):
        made_by(target, weights)


def test_environment_is_quoted() -> None:
    assert command("x", environment={"A": "b c"}) == "A='b c' x"


TABLES = {
    "vLLM": options.VLLM,
    "SGLang": options.SGLANG,
    "KTransformers": options.KTRANSFORMERS,
    "mlx_lm.server": options.MLX_SERVER,
    "mlx_lm.convert": options.MLX_CONVERT,
    "Ray": options.RAY_START,
}


@pytest.mark.parametrize("program", TABLES)
def test_every_option_is_in_the_package(program: str) -> None:
    assert set(TABLES[program].values()) <= set(FLAGS[program]["flags"])
    name = "mlx-lm" if program.startswith("mlx") else program
    assert options.CHECKED[name] == FLAGS[program]["version"]


def test_values_are_among_the_choices() -> None:
    vllm, sglang = FLAGS["vLLM"]["choices"], FLAGS["SGLang"]["choices"]
    assert options.VLLM_FP8 in vllm["--quantization"]
    assert options.VLLM_FP8_CACHE in vllm["--kv-cache-dtype"]
    assert options.SGLANG_FP8 in sglang["--quantization"]
    assert options.SGLANG_FP8_CACHE in sglang["--kv-cache-dtype"]


def test_lm_studio_settings_have_keys_that_it_reads() -> None:
    assert set(options.LM_STUDIO_KEYS.values()) == LM_STUDIO_SCHEMA | LM_STUDIO_FILES
    text = made_by("lm-studio", LOCAL).files["lm-studio.json"]
    stored = json.loads(text)
    assert stored["preset"] == ""
    values = {field["key"]: field["value"] for field in stored["load"]["fields"]}
    assert set(values) == set(options.LM_STUDIO_KEYS.values())
    assert values["llm.load.llama.autoFit"] is False
    assert values["llm.load.llama.acceleration.offloadRatio"] == "max"
    assert values["llm.load.numCpuExpertLayersRatio"] == "off"


@pytest.mark.parametrize("layers", [1, 16, 28, 48, 64, 80])
def test_a_share_of_layers_gives_their_number_back(layers: int) -> None:
    for on_gpu in range(layers + 2):
        share = gpu_share(Configuration(512, gpu_layers=on_gpu), layers)
        part = {"off": 0.0, "max": 1.0}.get(str(share), share)
        assert round(float(part) * (layers + 1)) == on_gpu


def test_what_lm_studio_cannot_do_is_said() -> None:
    for configuration in configurations(40):
        request = request_of(configuration, machine_of([24 * GIB] * 2, 256 * GIB))
        (made,) = commands_for(["lm-studio"], request)
        types = {configuration.kv_type, configuration.value_type or configuration.kv_type}
        assert bool(made.refusal) == ("BF16" in types)
        if not made.refusal:
            told = " ".join(made.notes)
            assert ("sliding windows" in told) == configuration.swa_full
            assert ("expert cache" in told) == bool(configuration.expert_cache_bytes)
            assert ("each GPU has" in told) == bool(configuration.gpu_split)


@pytest.mark.parametrize(
    ("name", "bytes_a_token"), [("gpt-oss-120b", 73_728), ("gemma-4-31B", 983_040)]
)
def test_cache_of_vllm_is_as_vllm_reports_it(name: str, bytes_a_token: int) -> None:
    """As hf-mem#60 and #70 read it off vLLM: every layer as wide as the widest."""
    spec = spec_from_header(name)
    assert served.cache_bytes(spec, 1000, 1, served.HALF_BYTES, 1) == 1000 * bytes_a_token
    assert served.cache_bytes(spec, 1000, 1, served.FP8_BYTES, 2) == 250 * bytes_a_token


def option_of(line: str, name: str) -> str | None:
    words = shlex.split(line)
    return words[words.index(name) + 1] if name in words else None


@pytest.mark.parametrize(
    ("sizes", "ram", "expected"),
    [
        ((80,), 64, {}),
        ((48, 48), 64, {"--tensor-parallel-size": "2"}),
        ((48,), 16, {"--quantization": "fp8_per_tensor"}),
        ((24, 24), 16, {"--quantization": "fp8_per_tensor", "--tensor-parallel-size": "2"}),
        ((24,), 128, {"--cpu-offload-gb": "38"}),
    ],
)
def test_vllm_takes_the_least_change_that_fits(
    sizes: tuple[int, ...], ram: int, expected: dict[str, str]
) -> None:
    machine = machine_of([size * GIB for size in sizes], ram * GIB)
    (line,) = made_by("vllm", ORIGINAL, machine).lines
    assert line.startswith("vllm serve owner/name --max-model-len 8192 --max-num-seqs 1 ")
    names = ("--quantization", "--tensor-parallel-size", "--cpu-offload-gb")
    given = {name: option_of(line, name) for name in names}
    assert {name: value for name, value in given.items() if value} == expected


def test_what_does_not_fit_is_said_with_its_numbers() -> None:
    small = machine_of([8 * GIB], 8 * GIB)
    for target in ("vllm", "sglang", "ktransformers"):
        refusal = made_by(target, ORIGINAL, small).refusal
        assert "GiB" in refusal
    assert "29.1 GiB of weights in FP8" in made_by("vllm", ORIGINAL, small).refusal


def test_a_gpu_that_others_use_is_asked_for_what_is_free() -> None:
    gpu = Device("GPU", "gpu", 100 * GIB, 80 * GIB)
    machine = Machine("", "", 8, (gpu, machine_of([], 64 * GIB).ram))
    (line,) = made_by("vllm", ORIGINAL, machine).lines
    assert option_of(line, "--gpu-memory-utilization") == "0.80"


def test_experts_of_ktransformers_fill_the_gpu_and_no_more() -> None:
    machine = machine_of([24 * GIB], 128 * GIB)
    (line,) = made_by("ktransformers", ORIGINAL, machine).lines
    on_gpu = int(option_of(line, "--kt-num-gpu-experts") or 0)
    request = request_of(Configuration(8192), machine, is_original=True)
    experts = sum(t.size_bytes for t in request.spec.tensors if "_exps." in t.name)
    dense = served.weights_bytes(request.spec) - experts
    cache = served.cache_bytes(request.spec, 8192, 1, 2, 1)
    held = dense + cache + served.OVERHEAD_BYTES
    budget = served.budget_of(machine.gpus)
    assert held + on_gpu * experts / 128 <= budget < held + (on_gpu + 1) * experts / 128
    dense_model = request_of(Configuration(8192), machine, name="Phi-4", weights=ORIGINAL)
    assert "dense" in commands_for(["ktransformers"], dense_model)[0].refusal


def test_mlx_cuts_to_the_plans_bits_and_is_for_macs() -> None:
    request = request_of(Configuration(8192, "Q8_0"), MAC, weights=ORIGINAL, is_original=True)
    cut = replace(request, plan=replace(request.plan, bits_per_weight=4.9))
    convert, run = commands_for(["mlx"], cut)[0].lines
    assert (option_of(convert, "--q-bits"), option_of(run, "--kv-bits")) == ("4", "8")
    assert option_of(convert, "--mlx-path") == option_of(run, "--model")
    assert "Apple" in commands_for(["mlx"], replace(cut, machine=machine_of([], GIB)))[0].refusal


def test_each_program_says_what_it_cannot_be_given() -> None:
    request = request_of(Configuration(512))
    for target in ("vllm", "sglang", "ktransformers", "mlx"):
        assert "safetensors" in commands_for([target], request)[0].refusal
    for target in ("rpc", "ray"):
        assert "--nodes" in commands_for([target], request)[0].refusal
    over = replace(request, nodes=NODES)
    assert "--for rpc or ray" in commands_for(["ollama"], over)[0].refusal
    without = replace(request, weights=Weights(original="x"))
    assert "GGUF" in commands_for(["llama.cpp"], without)[0].refusal


def test_targets_are_named() -> None:
    assert targets_of("all", has_nodes=False) == [
        n for n, e in EXPORTERS.items() if not e.over_nodes
    ]
    assert targets_of("all", has_nodes=True) == ["rpc", "ray"]
    assert targets_of("vLLM, ollama,vllm", has_nodes=False) == ["vllm", "ollama"]
    for wrong in ("vlm", "", ","):
        with pytest.raises(UsageError, match="is not among"):
            targets_of(wrong, has_nodes=False)


def test_rpc_names_servers_in_the_order_of_the_split() -> None:
    made = made_by("rpc", LOCAL)
    assert made.lines[:4] == (
        "# on a",
        "ggml-rpc-server -H 0.0.0.0 -p 50052 -c",
        "# on 10.0.0.2",
        "ggml-rpc-server -H 10.0.0.2 -p 50053 -c",
    )
    line = made.lines[-1]
    assert option_of(line, "--rpc") == "a:50052,10.0.0.2:50053"
    assert option_of(line, "-ts") == "16,16,17"
    assert option_of(line, "--fit") == "off"
    assert "a: 16 layers" in made.notes[0]
    assert "2 times there and back" in made.notes[1]


@pytest.mark.parametrize("row", json.loads((DATA / "rpc_splits.json").read_text()), ids=str)
def test_llama_cpp_places_a_split_over_rpc_servers_as_predicted(row: dict[str, Any]) -> None:
    """Weights and cache of every server and of the host, to the MiB that llama.cpp printed."""
    spec, split = spec_from_header(row["model"]), row["split"]
    nodes = parse_nodes("; ".join(f"n{number}={n}000GiB" for number, n in enumerate(split)))
    whole = over_nodes(machine_of([], 9999 * GIB), nodes)
    use = predict(spec, Configuration(4096, gpu_layers=sum(split)), whole)
    context = [one.kv_cache_bytes + one.recurrent_state_bytes for one in use.devices]
    for one, kept, weights, mib in zip(
        use.devices, context, row["weights_mib"], row["context_mib"], strict=True
    ):
        assert 0 <= one.weights_bytes / MIB - weights < 2  # two buffers, each rounded down
        assert 0 <= kept / MIB - mib < 2


def test_rpc_keeps_experts_with_their_layers() -> None:
    configuration = Configuration(512, gpu_layers=49, cpu_expert_layers=4)
    here = machine_of([24 * GIB], 64 * GIB)
    request = request_of(configuration, here, nodes=NODES, whole=over_nodes(here, NODES))
    assert "--cpu-experts 0" in commands_for(["rpc"], request)[0].refusal


def test_ray_splits_matrices_in_a_machine_and_layers_over_machines() -> None:
    made = made_by("ray", ORIGINAL)
    assert "ray start --address=HEAD:6379" in made.lines
    line = made.lines[-1]
    assert option_of(line, "--pipeline-parallel-size") == "3"
    assert option_of(line, "--distributed-executor-backend") == "ray"
    uneven = made_by("ray", ORIGINAL, machine_of([80 * GIB] * 2, 64 * GIB))
    assert "as many GPUs on every machine; there are 2, 1, 1" in uneven.refusal
