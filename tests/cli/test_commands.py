"""Every command as a user types it: exit status, one JSON document, one line of error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from folders import TEXT, write_folder
from headers import MODELS, ROWS, unpacked_header
from shapes import metadata_of, tensors_of
from tiny import tiny_model

from snugfit.cli.main import COMMANDS, app_of, main
from snugfit.core import Configuration, TensorInfo
from snugfit.runtimes.llama_cpp_probe import write_sparse


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model") / "tiny", tiny_model("qwen3moe"))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(f"{TEXT}{number}\n" for number in range(200)))
    return path


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    status = main([*map(str, arguments), "--json"])
    shown = capsys.readouterr()
    assert status == 0, shown.err
    return json.loads(shown.out)


def fails(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 1) -> str:
    assert main([*map(str, arguments)]) == status
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.strip().splitlines()) == 1, shown.err
    return shown.err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in COMMANDS)
    assert max(len(line) for line in shown.splitlines()) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Example:  snugfit {name}" in shown
    assert "--json" in shown
    assert app_of(name).registered_commands[0].name == name


def test_wrong_usage_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Did you mean plan?" in fails(capsys, "plna", status=2)
    assert "is not a size" in fails(capsys, "machine", "--ram", "16", status=2)
    assert main(["plan"]) == 2
    assert main(["plan", "demo", "--no-such-option"]) == 2


def test_machine(capsys: pytest.CaptureFixture[str]) -> None:
    document = run_json(capsys, "machine", "--vram", "24GiB,16GB", "--ram", "64GiB")
    sizes = [device["total_bytes"] for device in document["devices"]]
    assert sizes == [24 * 2**30, 16 * 10**9, 64 * 2**30]


def test_machine_by_name_and_by_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    document = run_json(capsys, "machine", "--machine", "2x RTX 3090", "--ram", "64GiB")
    assert [device["total_bytes"] for device in document["devices"]] == [24 * 2**30] * 2 + [
        64 * 2**30
    ]
    assert document["devices"][0]["read_bytes_per_s"] == 936 * 10**9
    path = tmp_path / "box.json"
    path.write_text(json.dumps(document))
    again = run_json(capsys, "machine", "--machine", path)
    assert again == document
    # Sizes that are given take the place of the file's, and leave its rates.
    smaller = run_json(capsys, "machine", "--machine", path, "--vram", "10GiB,12GiB")
    assert [device["free_bytes"] for device in smaller["devices"][:2]] == [10 * 2**30, 12 * 2**30]
    assert smaller["devices"][0]["read_bytes_per_s"] == 936 * 10**9
    assert "Did you mean" in fails(capsys, "machine", "--machine", "RTX 4900", status=2)
    assert "leave out --machine" in fails(
        capsys, "machine", "--measure", "--machine", "T4", status=2
    )


@pytest.mark.parametrize("command", ["memory", "plan"])
def test_commands_plan_for_a_machine_that_is_not_here(
    capsys: pytest.CaptureFixture[str], command: str, folder: Path
) -> None:
    document = run_json(capsys, command, folder, "--machine", "g6.xlarge", "--ctx", 256)
    devices = document.get("memory", document)["devices"]
    assert [device["name"] for device in devices] == ["NVIDIA L4", "RAM"]
    assert main([command, str(folder), "--machine", "Apple M4 16GB", "--ctx", "256"]) == 0
    assert "--machine 'Apple M4 16GB'" in capsys.readouterr().out


def test_machine_fits_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for arguments in (["--list"], ["--machine", "2x RTX PRO 6000"], ["--machine", "g6.12xlarge"]):
        assert main(["machine", *arguments]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= 80
        assert lines[-1].startswith("Next: snugfit plan MODEL")
    listed = run_json(capsys, "machine", "--list")["profiles"]
    assert len(listed) > 150


@pytest.mark.skipif(sys.platform != "linux", reason="the cache is moved by an XDG variable")
def test_machine_measures_once_and_remembers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from snugfit.hardware import bandwidth

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(bandwidth, "RAM_SECONDS", 0.01)
    monkeypatch.setattr(bandwidth, "BUFFER_BYTES", 64 * 2**20)
    assert main(["machine"]) == 0
    shown = capsys.readouterr().out
    assert "not measured" in shown
    assert shown.rstrip().endswith("Next: snugfit machine --measure")
    measured = run_json(capsys, "machine", "--measure")["devices"][-1]
    assert measured["read_basis"] == "measured"
    again = run_json(capsys, "machine")["devices"][-1]
    assert again["read_bytes_per_s"] == measured["read_bytes_per_s"] > 0


def test_inspect_counts_what_the_files_hold(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    document = run_json(capsys, "inspect", folder)
    expected = sum(p.numel() for p in tiny_model("qwen3moe").model.parameters())
    assert document["parameters"] == expected
    assert document["experts"] == 8


@pytest.mark.parametrize("model", MODELS)
def test_memory_equals_llama_cpp(capsys: pytest.CaptureFixture[str], model: str) -> None:
    with unpacked_header(model) as path:
        for row in [row for row in ROWS if row["model"] == model][::5]:
            document = run_json(
                capsys,
                *("memory", path, "--ctx", row["n_ctx"], "--kv", row["kv_type"]),
                *("--slots", row["n_seq"], "--kv-unified", "--ubatch", row["n_ubatch"]),
                *("--flash-attention", row["flash_attn"], "--vram", "80GiB", "--ram", "80GiB"),
            )
            assert document["kv_cache_bytes"] / 2**20 == pytest.approx(
                float(row["kv_MiB"]), abs=0.02
            )
            if not model.startswith("DeepSeek"):  # whose compressors were not counted
                state = document["recurrent_state_bytes"] / 2**20
                assert state == pytest.approx(float(row["rs_MiB"]), abs=0.005)


def test_memory_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("memory", "demo-moe", "--ctx", 1024, "--gpu-layers", 0)
    estimated = run_json(capsys, *options)
    measured = run_json(capsys, *options, "--measure")
    assert measured["basis"]["compute_bytes"] == {"basis": "measured", "band": 0.0}
    assert measured["compute_bytes"] == pytest.approx(estimated["compute_bytes"], rel=0.05)
    assert "within" in fails_nothing(capsys, *options)
    assert "compute measured," in fails_nothing(capsys, *options, "--measure")
    on_gpu = (*options[:-1], 3, "--vram", "8GiB", "--measure")
    refused = fails(capsys, *on_gpu, status=2)
    assert "--gpu-layers 0" in refused


def test_memory_of_a_projector_beside_a_model(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "mmproj.gguf"
    weight = TensorInfo("v.blk.0.attn_q.weight", (1024, 1024), "F16")
    write_sparse(path, {"general.architecture": "clip"}, [weight])
    options = ("memory", "demo-moe", "--ctx", 1024, "--vram", "1GiB,1GiB")
    without = run_json(capsys, *options)
    document = run_json(capsys, *options, "--mmproj", path)
    assert (without["projector_bytes"], document["projector_bytes"]) == (0, 2**21)
    parts = [
        [device["total_bytes"] for device in found["devices"]] for found in (without, document)
    ]
    more = [after - before for before, after in zip(*parts, strict=True)]
    assert more == [2**21 + round(0.35 * 2**21), 0, 0]
    assert document["weights_bytes"] - without["weights_bytes"] == 2**21
    assert any("--cache-ram" in what for what in document["not_counted"])
    assert "2.00 MiB of the projector" in fails_nothing(capsys, *options, "--mmproj", path)
    write_sparse(path, {"general.architecture": "llama"}, [weight])
    assert "no vision projector" in fails(capsys, *options, "--mmproj", path)


def fails_nothing(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([*map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_the_parts_one_after_another(
    capsys: pytest.CaptureFixture[str], folder: Path, text: Path, tmp_path: Path
) -> None:
    full, imatrix, small = (tmp_path / name for name in ("f.gguf", "i.gguf", "s.gguf"))
    converted = run_json(capsys, "convert", folder, "-o", full, "--type", "f16")
    assert converted["file_bytes"] == full.stat().st_size
    measured = run_json(capsys, "calibrate", full, "-o", imatrix, "--text", text, "--chunks", 2)
    assert measured["chunks"] == 2
    made = run_json(capsys, "quantize", full, "-o", small, "--like", "q8_0", "--imatrix", imatrix)
    assert made["mix"] == "Q8_0"
    assert made["without_importance"] == ["token_embd.weight"]  # it is looked up, not multiplied
    score = run_json(capsys, "evaluate", small, "--against", folder, "--text", text, "--chunks", 2)
    assert 0 < score["divergence"] < 0.05
    assert score["top1_agreement"] > 0.9


def test_fit_writes_exactly_what_it_predicts(
    capsys: pytest.CaptureFixture[str], folder: Path, text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "fitted.gguf"
    options = ("--text", text, "--held-out", text, "--size", "1.2MiB", "--ctx", 256)
    document = run_json(capsys, "fit", folder, "-o", out, *options)
    assert document["plan"]["file_bytes"] == out.stat().st_size <= 1.2 * 2**20
    assert document["as_predicted"]
    assert document["score"]["divergence"] > 0
    plan = run_json(capsys, "plan", folder, "--size", "1.2MiB", "--ctx", 256)
    assert plan["tensor_types"] == document["plan"]["tensor_types"]


def test_fit_takes_importance_that_others_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, folder: Path, text: Path
) -> None:
    imatrix, one, other = (tmp_path / name for name in ("i.gguf", "one.gguf", "other.gguf"))
    fails_nothing(capsys, "calibrate", folder, "-o", imatrix, "--text", text)
    options = ("--size", "900KiB", "--ctx", "512", "--no-score")
    fails_nothing(capsys, "fit", folder, "-o", one, "--imatrix", imatrix, *options)
    fails_nothing(capsys, "fit", folder, "-o", other, "--text", text, *options)
    assert one.read_bytes() == other.read_bytes()


def test_fit_says_what_to_do_for_a_model_that_torch_has_no_row_for(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = tmp_path / "gemma.gguf"
    write_sparse(model, metadata_of("gemma3"), tensors_of("gemma3"))
    said = fails(capsys, "fit", model, "-o", tmp_path / "out.gguf", "--like", "Q4_K_M")
    assert "cannot be calibrated" in said and "--imatrix FILE" in said
    assert not (tmp_path / "out.gguf").exists()


def test_impossible_budget_names_the_smallest_that_can(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    for command in ("fit", "quantize"):
        error = fails(capsys, command, folder, "-o", tmp_path / "x.gguf", "--size", "10KiB")
        assert "smallest" in error
        assert "KiB" in error
    assert "smallest" in fails(capsys, "plan", folder, "--ram", "1MiB")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["inspect", "memory", "plan", "run", "evaluate"])
def test_damaged_model_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + b"\xff" * 100)
    assert str(bad) in fails(capsys, command, bad)


def test_full_disk_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    """A limit on file size is what a full disk looks like to a write: an OSError in mid-file."""
    out = tmp_path / "out.gguf"
    program = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
        "from snugfit.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "convert", str(folder), "-o", str(out)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "the disk is full" in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_chat_is_not_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--json needs a PROMPT" in fails(capsys, "run", "demo", "--json", status=2)


def test_chat_ends_at_bye_and_at_the_end_of_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    from snugfit.cli import run
    from snugfit.models import open_model
    from snugfit.runtimes.fake import FakeRuntime

    for ending in ("/bye", EOFError()):
        typed = iter(["hello", "", ending])

        def answer_input(_: str, typed: Any = typed) -> str:
            word = next(typed)
            if isinstance(word, BaseException):
                raise word
            return str(word)

        monkeypatch.setattr("builtins.input", answer_input)
        with FakeRuntime(["good day"]).start(folder, Configuration(ctx=256)) as runtime:
            run.chat(runtime, open_model(str(folder)), 16, 0.0, None)
        shown = capsys.readouterr()
        assert "good day" in shown.out
        assert "has no chat template" in shown.err


def test_run_answers_and_compares_memory(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    options = ("-n", 4, "--temperature", 0, "--ctx", 256)
    document = run_json(capsys, "run", "demo-moe", "import os", *options)
    assert document["generated_tokens"] == 4
    assert document["text"]
    for part, predicted in document["predicted"].items():
        assert document["allocated"][part] == pytest.approx(predicted, rel=0.05), part
    assert main(["run", "demo-moe", "import os", *map(str, options)]) == 0
    shown = capsys.readouterr()
    assert shown.out.strip() == document["text"].strip()
    assert "tokens/s" in shown.err
    assert "predicted" in shown.err
