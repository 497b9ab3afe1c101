"""Read rates: how they are worked out of passes, and how they are kept."""

import json

import pytest

from snugfit.errors import OutputError
from snugfit.hardware import bandwidth, measured
from snugfit.units import GIB, MIB


def test_the_best_pass_counts_but_never_the_first(monkeypatch):
    """The first pass brings pages and code in; a clock that the passes move tells them apart."""
    now, passes = [0.0], iter([0.001, 0.5, 0.2, 0.4, 0.3])
    monkeypatch.setattr(bandwidth.time, "perf_counter", lambda: now[0])

    def work() -> None:
        now[0] += next(passes)

    assert bandwidth._rate(work, 10**9, seconds=1.0) == pytest.approx(5 * 10**9)


def test_ram_is_read_within_what_is_free(monkeypatch):
    import numpy as np

    sizes = []

    def maximum(part):
        sizes.append(part.nbytes)
        return part[-1]

    monkeypatch.setattr(np, "max", maximum)
    assert bandwidth.ram_rate(2, 400 * MIB, seconds=0.0) > 0
    assert sizes == [50 * MIB] * 4  # two threads, a first pass and another
    sizes.clear()
    assert bandwidth.ram_rate(2, 0, seconds=0.0) > 0
    assert sizes == [32 * MIB] * 4


def test_this_machine_reads_its_memory():
    rate = bandwidth.ram_rate(1, 256 * MIB, seconds=0.01)
    assert 10**8 < rate < 10**13


def test_torch_reads_a_device():
    torch = pytest.importorskip("torch")
    rate = bandwidth.torch_rate(torch, "cpu", 4 * 64 * MIB, seconds=0.01)
    assert 10**8 < rate < 10**13


def test_rates_are_kept_beside_those_that_were(tmp_path):
    file = tmp_path / "not yet/there/rates.json"
    assert measured.read(file) == {}
    assert measured.add({"RAM": 20 * GIB, "GPU rtx 4090": 10**12}, file) == file
    measured.add({"RAM": 30 * GIB}, file)
    assert measured.read(file) == {"RAM": 30 * GIB, "GPU rtx 4090": 10**12}
    assert [path.name for path in file.parent.iterdir()] == ["rates.json"]


@pytest.mark.parametrize(
    "text",
    ["", "[1]", "null", "{", "[" * 100_000, "\x00"]
    + [json.dumps({"RAM": value}) for value in (0, -1, 1.5, True, "x", None, 10**16)],
)
def test_damaged_rates_count_as_none(tmp_path, text):
    file = tmp_path / "rates.json"
    file.write_text(text)
    assert measured.read(file) == {}
    measured.add({"RAM": 1}, file)
    assert measured.read(file) == {"RAM": 1}


def test_rates_that_cannot_be_kept_are_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        measured.add({"RAM": 1}, tmp_path / "file/rates.json")
