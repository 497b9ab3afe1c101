"""`snugfit bench` on the real engine, with models of a megabyte; and what real runs teach."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from snugfit import bench
from snugfit.cli.main import main
from snugfit.core import Answer, Configuration, Device, Machine
from snugfit.errors import RuntimeFailure, UsageError
from snugfit.formats.gguf import read_gguf
from snugfit.hardware import calibration, host, measured
from snugfit.hardware.detect import detect
from snugfit.models import open_model
from snugfit.runtimes.synthetic import Shape, tensors_of, write_model
from snugfit.units import GIB

TINY = Shape("Q4_K", 2, 256, 256, heads=4, vocabulary=512)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Keep what is measured here away from what this machine's user has."""
    monkeypatch.setattr(calibration, "path", lambda: tmp_path / "calibration.json")
    monkeypatch.setattr(measured, "path", lambda: tmp_path / "read_rates.json")
    measured.add({bench.detect.ram_key(host.processor(), host.physical_cores()): 20 * 10**9})
    return tmp_path


@pytest.fixture
def small_trials(monkeypatch):
    """The same trials with few weights: their times mean nothing, all else is as it is."""

    def shrunk(types, size_bytes):
        return [
            bench.Trial(
                trial.name,
                replace(
                    trial.shape,
                    layers=min(trial.shape.layers, 2),
                    hidden=256,
                    feed_forward=256,
                    vocabulary=512,
                ),
                min(trial.filled, 64),
            )
            for trial in whole(types, size_bytes)
        ]

    whole = bench.trials_of
    monkeypatch.setattr(bench, "trials_of", shrunk)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    write_model(path, TINY)
    return path


@pytest.mark.parametrize("shape", [TINY, replace(TINY, experts=4, experts_used=2)])
def test_models_are_written_as_they_are_described(tmp_path, shape):
    path = tmp_path / "model.gguf"
    write_model(path, replace(shape, output_type="Q6_K"))
    file = read_gguf(path)
    assert tuple(file.tensors.values()) == tensors_of(replace(shape, output_type="Q6_K"))
    spec = open_model(str(path)).spec()
    assert (spec.layers, spec.hidden_size, spec.experts) == (2, 256, shape.experts)
    assert file.rows("blk.1.attn_q.weight").any(axis=1).all()


def test_a_calibration_is_kept_and_used(capsys, cache, small_trials, model):
    assert main(["bench", "--types", "q4_k,q8_0", "--seconds", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    row = document["devices"]["RAM"]
    assert set(row["bytes_per_s"]) == {"Q4_K", "Q8_0", "F16"}
    (kept,) = calibration.read().values()
    assert kept.bytes_per_s == row["bytes_per_s"]
    machine, spec = detect(), open_model(str(model)).spec()
    assert bench.predict(spec, Configuration(512), machine, 16).basis == "measured"
    assert bench.predict(spec, Configuration(512), machine, 16, threads=99).basis == "estimated"

    options = ["-p", "16", "-n", "40", "-r", "2"]
    assert main(["bench", "-m", str(model), *options, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["token_seconds"]) == len(document["prompt_seconds"]) == 2
    assert document["predicted"]["basis"] == "measured"
    assert main(["bench", str(model), *options]) == 0
    shown = capsys.readouterr().out
    assert "pp16" in shown and "tg40" in shown
    assert f"Next: snugfit plan {model}" in shown.replace("\n", "")


def test_a_calibration_shows_rates_and_the_next_command(capsys, small_trials):
    assert main(["bench", "--types", "Q4_K", "--seconds", "1"]) == 0
    shown = capsys.readouterr().out
    assert "Q4_K" in shown and "GB/s" in shown and "%" in shown
    assert "Next: snugfit bench MODEL.gguf" in shown


def row_of(machine: Machine) -> calibration.Calibration:
    return calibration.Calibration(
        *(
            {"Q4_K": 1e9},
            {"Q4_K": 1e10},
            1e9,
            1.0,
            "Q4_K",
            1e-5,
            1e-5,
            1e-4,
            1e9,
            0.0,
            0.0,
            1e10,
            1e10,
        ),
        *(0.15, 0.25, "today"),
    )


def key_of(machine: Machine) -> str:
    return calibration.key_of(machine.ram, machine.processor, machine.cores)


def test_runs_are_learned_once_they_are_long_enough(model):
    machine, spec = detect(), open_model(str(model)).spec()
    machine = replace(machine, devices=(machine.ram,))
    calibration.add(key_of(machine), row_of(machine))
    configuration = Configuration(512)
    middle = bench.predict(spec, configuration, machine, 26).decode_tokens_per_s.middle
    answer = Answer("", 10, 33, 0.1, 32 * 1.5 / middle)
    ran = bench.after_run(answer, spec, configuration, machine)
    assert ran.tokens_per_s == pytest.approx(middle / 1.5)
    assert ran.row.runs == pytest.approx([1.5])
    # The next ratio is to the prediction without correction, or corrections would pile up.
    ran = bench.after_run(answer, spec, configuration, machine)
    assert ran.row.runs == pytest.approx([1.5, 1.5])
    corrected = bench.predict(spec, configuration, machine, 26).decode_tokens_per_s.middle
    assert corrected == pytest.approx(middle / 1.5 ** (2 / 4))
    short = replace(answer, generated_tokens=31)
    assert bench.after_run(short, spec, configuration, machine).row is None
    nothing = replace(answer, generated_seconds=0.0)
    assert bench.after_run(nothing, spec, configuration, machine).tokens_per_s is None
    assert len(calibration.read()[key_of(machine)].runs) == 2


def test_a_run_on_two_memories_teaches_nothing(model):
    machine, spec = detect(), open_model(str(model)).spec()
    gpu = Device("RTX 4090", "gpu", 24 * GIB, 24 * GIB)
    both = replace(machine, devices=(gpu, machine.ram))
    for device in both.devices:
        key = calibration.key_of(device, both.processor, both.cores)
        calibration.add(key, row_of(both))
    some, every = Configuration(512, gpu_layers=1), Configuration(512, gpu_layers=3)
    assert bench.learn(spec, some, both, 16, 0.001) is None
    assert bench.learn(spec, every, both, 16, 0.001) is not None
    in_ram = replace(every, cpu_expert_layers=1)
    assert bench.learn(spec, in_ram, both, 16, 0.001) is None
    unlike = replace(gpu, name="RTX 3090")
    several = replace(both, devices=(gpu, unlike, machine.ram))
    assert bench.learn(spec, every, several, 16, 0.001) is None


def test_an_engine_without_the_gpu_is_noticed(monkeypatch, tmp_path):
    """The engine of this package has no GPU, so that one that is asked for stays untouched."""
    gpu = Device("RTX 4090", "gpu", 24 * GIB, 24 * GIB)
    trials = [bench.Trial("tiny", TINY)]
    assert bench.timed(trials, tmp_path, gpu, 1, 1.0, lambda *_: None) is None


def test_wrong_calls_are_one_line(capsys, model):
    assert main(["bench", "x.gguf", "-m", "y.gguf"]) == 2
    assert main(["bench", str(model), "-p", "0", "-n", "0"]) == 2
    assert main(["bench", str(model), "--types", "Q4_K"]) == 2
    assert main(["bench", "--types", "Q9_K"]) == 2
    assert "Q9_K" in capsys.readouterr().err
    assert main(["bench", "no-such-model.gguf"]) == 1
    with pytest.raises(UsageError):
        bench.calibrate(detect(), types=("F64",))
    with pytest.raises(RuntimeFailure, match="Lower -p"):
        spec = open_model(str(model)).spec()
        bench.configuration_for(spec, detect(), 10**6)


def test_a_cache_that_cannot_be_written_spoils_no_run(monkeypatch, tmp_path, capsys, model):
    from snugfit.cli import run

    machine, spec = detect(), open_model(str(model)).spec()
    machine = replace(machine, devices=(machine.ram,))
    calibration.add(key_of(machine), row_of(machine))
    monkeypatch.setattr(calibration, "_write", refuse)
    answer = Answer("", 10, 64, 0.1, 0.1)
    assert run.learned(answer, spec, Configuration(512), machine) is None
    assert "cannot be written" in capsys.readouterr().err


def refuse(*_: object) -> None:
    from snugfit.errors import OutputError

    raise OutputError("calibration.json: cannot be written (No space left on device).")
