"""The store of calibrations: what comes back, what is refused, who may write."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import pytest

from snugfit.core import Device
from snugfit.errors import OutputError
from snugfit.hardware import calibration
from snugfit.hardware.calibration import Calibration

ROW = Calibration(
    bytes_per_s={"Q4_K": 16e9, "Q8_0": 20e9},
    operations_per_s={"Q4_K": 1e11},
    expert_bytes_per_s=12e9,
    expert_operations_part=0.9,
    expert_type="Q4_K",
    layer_seconds=3e-5,
    expert_layer_seconds=2e-5,
    token_seconds=1e-4,
    cache_bytes_per_s=3e9,
    score_seconds=1e-8,
    row_seconds=1e-8,
    attention_operations_per_s=1e10,
    prompt_attention_operations_per_s=5e10,
    band=0.15,
    prefill_band=0.25,
    date="2026-01-02 03:04",
    read_bytes_per_s=30e9,
)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "not yet" / "calibration.json"


def test_rows_come_back_beside_each_other(file):
    assert calibration.read(file) == {}
    calibration.add("RAM", ROW, file)
    calibration.add("GPU", replace(ROW, band=0.3), file)
    assert calibration.read(file) == {"RAM": ROW, "GPU": replace(ROW, band=0.3)}
    assert [path.name for path in file.parent.iterdir()] == ["calibration.json"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"RAM": 3}', b" " * (2**22 + 1)]
)
def test_a_damaged_file_counts_as_empty(file, content):
    file.parent.mkdir()
    file.write_bytes(content)
    assert calibration.read(file) == {}
    calibration.add("RAM", ROW, file)
    assert calibration.read(file) == {"RAM": ROW}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bytes_per_s", {}),
        ("bytes_per_s", {"Q4_K": 0}),
        ("bytes_per_s", {"Q4_K": float("nan")}),
        ("bytes_per_s", {"Q4_K": 1e30}),
        ("bytes_per_s", {"no type": 1e9}),
        ("bytes_per_s", [1e9]),
        ("operations_per_s", {"Q4_K": "fast"}),
        ("expert_type", ["Q4_K"]),
        ("expert_type", "no type"),
        ("layer_seconds", -1e-6),
        ("layer_seconds", True),
        ("token_seconds", 1e9),
        ("attention_operations_per_s", 0),
        ("band", float("inf")),
        ("runs", [1.0, 0.0]),
        ("runs", None),
        ("runs", ["1"]),
    ],
)
def test_a_row_with_a_number_that_cannot_be_is_left_out(file, name, value):
    file.parent.mkdir()
    file.write_text(json.dumps({"bad": asdict(ROW) | {name: value}, "good": asdict(ROW)}))
    assert calibration.read(file) == {"good": ROW}


def test_a_row_that_lacks_a_field_is_left_out(file):
    file.parent.mkdir()
    for field in asdict(ROW):
        row = asdict(ROW)
        del row[field]
        file.write_text(json.dumps({"RAM": row}))
        assert calibration.read(file) == {}, field


def test_runs_correct_and_the_latest_count(file):
    calibration.add("RAM", ROW, file)
    row = calibration.add_run("RAM", 1.2, file)
    assert row.correction == pytest.approx(1.2 ** (1 / 3))  # the calibration counts as two
    for _ in range(40):
        row = calibration.add_run("RAM", 1.3, file)
    assert len(row.runs) == calibration.RUNS_KEPT
    assert row.correction == pytest.approx(1.3 ** (16 / 18))
    assert calibration.read(file)["RAM"] == row
    calibration.add("RAM", ROW, file)  # a new calibration forgets what corrected the old one
    assert calibration.read(file)["RAM"].correction == 1.0


def test_scatter_is_that_of_the_runs_around_their_correction():
    steady, unsteady = replace(ROW, runs=(1.1,) * 16), replace(ROW, runs=(0.8, 1.25) * 8)
    assert steady.scatter < 0.02
    assert unsteady.correction == pytest.approx(1.0)
    assert unsteady.scatter == pytest.approx(math.log(1.25))
    assert ROW.scatter == 0.0


@pytest.mark.parametrize("ratio", [0.0, -1.0, 0.1, 9.0, math.nan, math.inf])
def test_a_run_beyond_belief_is_not_kept(file, ratio):
    calibration.add("RAM", ROW, file)
    assert calibration.add_run("RAM", ratio, file) is None
    assert calibration.read(file)["RAM"].runs == ()


def test_a_run_on_a_machine_that_was_not_calibrated_is_not_kept(file):
    assert calibration.add_run("RAM", 1.1, file) is None
    assert calibration.read(file) == {}


def test_writers_wait_for_each_other(file):
    calibration.add("RAM", ROW, file)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: calibration.add_run("RAM", 1.1, file), range(12)))
    assert calibration.read(file)["RAM"].runs == (1.1,) * 12


def test_a_lock_that_nobody_gives_back_is_broken(file, monkeypatch):
    monkeypatch.setattr(calibration, "LOCK_SECONDS", 0.0)
    file.parent.mkdir()
    lock = file.with_name("calibration.json.lock")
    lock.touch()
    calibration.add("RAM", ROW, file)
    assert calibration.read(file) == {"RAM": ROW}
    assert not lock.exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        calibration.add("RAM", ROW, tmp_path / "file" / "calibration.json")


def test_keys_tell_memories_engines_and_threads_apart():
    ram, gpu = Device("RAM", "ram", 1, 1), Device("NVIDIA GeForce RTX 4090", "gpu", 1, 1)
    key = calibration.key_of(ram, "some processor", 8)
    assert "some processor" in key and calibration.engine_release() in key
    assert key == calibration.key_of(ram, "some processor", 8, threads=8)
    others = {
        calibration.key_of(ram, "some processor", 8, threads=4),
        calibration.key_of(ram, "another", 8),
        calibration.key_of(gpu, "some processor", 8),
    }
    assert len(others | {key}) == 4
