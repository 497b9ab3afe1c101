"""`snugfit plan`, `fit` and `run` as users type them: odd numbers, hostile names, what is next."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from headers import unpacked_header

from snugfit.cli.main import main

BOX = ("--machine", "RTX 3060 12GB", "--ram", "64GiB")


def document_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    status = main([*map(str, arguments), "--json"])
    shown = capsys.readouterr()
    assert status == 0, shown.err
    return json.loads(shown.out)


@pytest.mark.parametrize(
    "option", [("--bpw", "nan"), ("--bpw", "inf"), ("--min-speed", "nan"), ("--min-speed", "inf")]
)
def test_numbers_that_are_none_are_wrong_usage(
    capsys: pytest.CaptureFixture[str], option: tuple[str, str]
) -> None:
    assert main(["plan", "demo", *option]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"snugfit: {option[0]}")
    assert error.count("\n") == 1


@pytest.mark.parametrize("option", ["--gpu-layers", "--cpu-experts"])
def test_less_than_no_layers_are_wrong_usage(
    capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert main(["plan", "demo", option, "-2"]) == 2
    assert option in capsys.readouterr().err


def test_an_impossible_speed_is_said_without_powers_of_ten(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["plan", "demo", "--ram", "2GiB", "--min-speed", "1e9"]) == 1
    error = capsys.readouterr().err
    assert "1,000,000,000 were asked" in error
    assert "e+" not in error


def test_the_next_command_makes_what_was_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the options were that led to it."""
    asked = ("qwen3.6-35b-a3b", *BOX, "--bpw", "4.2", "--ctx", "8192", "--kv", "q8_0")
    assert main(["plan", *asked]) == 0
    (line,) = (row for row in capsys.readouterr().out.splitlines() if row.startswith("Next: "))
    chosen = document_of(capsys, "plan", *asked)
    words = shlex.split(line.removeprefix("Next: "))
    assert words[:3] == ["snugfit", "fit", "Qwen/Qwen3.6-35B-A3B"]
    options = dict(zip(words[3::2], words[4::2], strict=True))
    again = ("--like", "--ctx", "--kv", "--machine", "--ram")
    same = document_of(
        capsys, "plan", "qwen3.6-35b-a3b", *(w for name in again for w in (name, options[name]))
    )
    assert same["mix"] == chosen["mix"]
    assert same["memory"]["configuration"] == chosen["memory"]["configuration"]


def test_a_model_taken_as_it_is_is_run_next(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "demo", "--ram", "2GiB", "--like", "as it is"]) == 0
    assert "Next: snugfit run demo --ctx" in capsys.readouterr().out


def test_a_hostile_file_name_neither_colours_nor_breaks_a_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    hostile = tmp_path / "a [red]b[bold] \x1b[31m; rm x.gguf"
    with unpacked_header("Qwen3.5-4B") as path:
        shutil.copy(path, hostile)
    for command in ("plan", "memory"):
        assert main([command, str(hostile), *BOX, *(["--explain"] * (command == "plan"))]) == 0
        shown = capsys.readouterr()
        assert "\x1b" not in shown.out + shown.err
    assert main(["plan", str(hostile), *BOX]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].startswith("a [red]b[bold] \\x1b[31m; rm x: as it is")
    (line,) = (row for row in out.splitlines() if row.startswith("Next: "))
    assert shlex.split(line)[3].endswith("a [red]b[bold] \\x1b[31m; rm x.gguf")


def test_measured_buffers_of_a_plan_are_the_engines(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("plan", "demo-moe", "--ram", "2GiB", "--like", "Q4_K_M", "--ctx", "512")
    estimated, measured = document_of(capsys, *asked), document_of(capsys, *asked, "--measure")
    assert measured["memory"]["basis"]["compute_bytes"] == {"basis": "measured", "band": 0.0}
    assert measured["tensor_types"] == estimated["tensor_types"]
    bytes_of = [one["memory"]["compute_bytes"] for one in (estimated, measured)]
    assert bytes_of[1] == pytest.approx(bytes_of[0], rel=0.2)
    assert measured["reasons"][-1].endswith("compute buffers are what the engine says.")
    assert measured["reasons"][:-1] == estimated["reasons"][:-1]
    assert main(["plan", "demo-moe", *BOX, "--measure"]) == 2
    assert "--gpu-layers 0" in capsys.readouterr().err


def test_explanations_say_only_what_is_so(capsys: pytest.CaptureFixture[str]) -> None:
    document = document_of(capsys, "plan", "qwen3.6-35b-a3b", *BOX, "--explain")
    lines = document["explanation"]
    assert not any("every 1 weights" in line["how"] for line in lines)
    (cache,) = (line for line in lines if line["what"].endswith(": cache"))
    assert "layer" not in cache["how"]


def test_explanations_fold_under_their_beginning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console

    from snugfit.cli import render

    monkeypatch.setattr(render, "out", Console(width=60, highlight=False, emoji=False))
    assert main(["plan", "demo", "--ram", "2GiB", "--explain"]) == 0
    shown = capsys.readouterr().out.split("Where the weights' bytes come from")[1]
    part = shown.split("Worth a thought")[0].splitlines()
    folded = [line for line in part if line.startswith("    ")]
    assert max(map(len, folded)) <= 60
    starts = ("Where", "What", "    ")
    assert all(": " in line or line.startswith(starts) or not line for line in part)


def test_fit_and_run_take_what_plan_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    options = ("--ctx", 256, "--slots", 2, "--kv-unified", "--kv", "q8_0", "--kv-values", "f16")
    options = (*options, "--swa-full", "--objective", "speed", "--min-speed", 0.1, "--ram", "4GiB")
    out = tmp_path / "small.gguf"
    arguments = ("fit", "demo", "-o", out, "--like", "Q8_0", "--no-score", *options)
    made = document_of(capsys, *arguments)["plan"]["memory"]["configuration"]
    assert (made["slots"], made["kv_unified"], made["kv_type"]) == (2, True, "Q8_0")
    assert (made["value_type"], made["swa_full"]) == ("F16", True)
    answer = document_of(capsys, "run", out, "import", "-n", 2, *options)
    predicted, allocated = answer["predicted"], answer["allocated"]
    assert allocated["kv_cache"] == pytest.approx(predicted["kv_cache"], abs=2**14)
