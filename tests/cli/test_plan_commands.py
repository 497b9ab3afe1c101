"""`snugfit plan --for` and `--nodes`, as a user types them."""

from __future__ import annotations

import json
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from folders import write_folder
from tiny import tiny_model

from snugfit.archs.catalogue import CATALOGUE
from snugfit.cli.main import main
from snugfit.core import Configuration
from snugfit.hardware.detect import machine_of
from snugfit.hardware.nodes import over_nodes, parse_nodes
from snugfit.headers import open_headers
from snugfit.planning.memory import predict
from snugfit.runtimes.commands.base import EXPORTERS
from snugfit.units import GIB

HERE = ("--vram", "24GiB", "--ram", "64GiB")
NODES = "a=24GiB; b=16GiB,16GiB"


def plan(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    status = main(["plan", *map(str, arguments), "--json"])
    shown = capsys.readouterr()
    assert status == 0, shown.err
    return json.loads(shown.out)


def test_json_has_the_commands_of_every_program(capsys: pytest.CaptureFixture[str]) -> None:
    document = plan(capsys, "qwen3.6-35b-a3b", *HERE, "--for", "all")
    assert list(document["commands"]) == [n for n, one in EXPORTERS.items() if not one.over_nodes]
    for made in document["commands"].values():
        assert made.get("refusal") or made["lines"]
    (server, _) = document["commands"]["llama.cpp"]["lines"]
    configuration = document["memory"]["configuration"]
    words = shlex.split(server)
    assert words[:3] == ["llama-server", "--model", f"qwen3.6-35b-a3b-{document['mix']}.gguf"]
    assert words[words.index("-ncmoe") + 1] == str(configuration["cpu_expert_layers"])
    assert document["commands"]["vllm"]["lines"][0].startswith("vllm serve Qwen/Qwen3.6-35B-A3B ")
    assert plan(capsys, "demo-moe", "--ram", "2GiB")["commands"] == {}


def test_lines_are_never_folded_and_run_as_they_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "qwen3.6-35b-a3b", *HERE, "--for", "ollama,llama.cpp"]) == 0
    shown = capsys.readouterr().out
    document = plan(capsys, "qwen3.6-35b-a3b", *HERE, "--for", "ollama,llama.cpp")["commands"]
    for made in document.values():
        assert all(f"\n{line}\n" in shown for line in made["lines"])
    first, _, _ = shown[shown.index("cat > Modelfile") :].partition("OLLAMA_NUM_PARALLEL")
    subprocess.run(["sh", "-c", first], check=True, cwd=tmp_path)
    assert (tmp_path / "Modelfile").read_text() == document["ollama"]["files"]["Modelfile"]


def test_files_are_written_to_a_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "a folder"
    arguments = ["plan", "demo-moe", "--ram", "2GiB", "--for", "ollama,lm-studio", "-o", str(out)]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert f"cd '{out}'" in shown
    assert "SNUGFIT_END" not in shown
    assert {path.name for path in out.iterdir()} == {"Modelfile", "lm-studio.json"}
    (tmp_path / "file").write_text("")
    assert main([*arguments[:-1], str(tmp_path / "file")]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_weights_are_named_as_they_were_given(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "my model", tiny_model("qwen3moe"))
    on_gpu = ("--vram", "4GiB", "--ram", "4GiB", "--ctx", "256", "--like", "Q4_K_M")
    made = plan(capsys, folder, *on_gpu, "--for", "all")["commands"]
    assert "'my model-Q4_K_M.gguf'" in made["llama.cpp"]["lines"][0]
    assert shlex.split(made["vllm"]["lines"][0])[2] == str(folder)
    file = tmp_path / "small one.gguf"
    assert main(["quantize", str(folder), "-o", str(file), "--like", "Q8_0"]) == 0
    capsys.readouterr()
    made = plan(capsys, file, "--ram", "4GiB", "--for", "all")["commands"]
    assert shlex.split(made["llama.cpp"]["lines"][0])[2] == str(file)
    assert f"FROM {file}\n" in made["ollama"]["files"]["Modelfile"]
    assert "safetensors" in made["vllm"]["refusal"]


def test_nodes_are_planned_as_one_machine(capsys: pytest.CaptureFixture[str]) -> None:
    document = plan(capsys, "qwen3.6-27b", *HERE, "--ctx", 32768, "--nodes", NODES)
    devices = document["memory"]["devices"]
    assert [one["name"] for one in devices] == ["a: GPU", "b: GPU 0", "b: GPU 1", "GPU", "RAM"]
    assert all(one["fits"] for one in devices)
    split = document["memory"]["configuration"]["gpu_split"]
    assert sum(split) == document["memory"]["configuration"]["gpu_layers"] == 65
    assert split[0] > split[1]  # in proportion to memory
    assert list(document["commands"]) == ["rpc", "ray"]
    line = document["commands"]["rpc"]["lines"][-1]
    assert f"-ts {','.join(map(str, split))}" in line
    assert "--rpc a:50052,b:50052" in line


def test_bytes_of_each_node_are_those_of_the_memory_model(
    capsys: pytest.CaptureFixture[str],
) -> None:
    document = plan(capsys, "llama-3.3-70b", *HERE, "--like", "Q4_K_M", "--nodes", NODES)
    spec = open_headers("llama-3.3-70b").model.spec()
    tensors = document["tensor_types"]
    cut = [replace(tensor, type_name=tensors[tensor.name]) for tensor in spec.tensors]
    whole = over_nodes(machine_of([24 * GIB], 64 * GIB), parse_nodes(NODES))
    fields = document["memory"]["configuration"] | {"gpu_split": ()}
    use = predict(replace(spec, tensors=tuple(cut)), Configuration(**fields), whole)
    found = [one["total_bytes"] for one in document["memory"]["devices"]]
    assert found == [device.total_bytes for device in use.devices]


def test_what_cannot_be_asked_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        (["--for", "vlm"], "is not among"),
        (["--nodes", "24GiB"], "is no node"),
        (["--nodes", "a=24GiB", "--cpu-experts", "3"], "--cpu-experts"),
    ):
        assert main(["plan", "demo-moe", *HERE, *arguments]) == 2
        shown = capsys.readouterr()
        assert said in shown.err
        assert len(shown.err.splitlines()) == 1


def test_next_over_nodes_is_to_write_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "qwen3.6-27b", *HERE, "--nodes", NODES, "--like", "Q4_K_M"]) == 0
    shown = capsys.readouterr().out.rstrip().splitlines()[-1]
    weights = CATALOGUE["qwen3.6-27b"].weights
    assert shown == f"Next: snugfit quantize {weights} -o qwen3.6-27b-Q4_K_M.gguf --like Q4_K_M"
