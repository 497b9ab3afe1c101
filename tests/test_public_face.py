"""What `import snugfit` promises."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import snugfit
from snugfit.errors import UsageError
from snugfit.hardware.detect import machine_of
from snugfit.units import format_seconds, format_size, parse_size


def test_every_public_name_is_there() -> None:
    assert sorted(snugfit.__all__) == sorted(snugfit._HOME_OF_NAME)
    for name in snugfit.__all__:
        assert callable(getattr(snugfit, name))
    with pytest.raises(AttributeError):
        snugfit.no_such_name  # noqa: B018


def test_importing_does_nothing() -> None:
    program = "import sys, snugfit; print('numpy' in sys.modules, 'torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout
    assert shown.strip() == "False False"


def test_quantize_rows_round_trip() -> None:
    rows = np.random.default_rng(0).normal(size=(4, 256)).astype(np.float32)
    blocks = snugfit.quantize_rows(rows, "Q8_0")
    assert blocks.dtype == np.uint8
    assert blocks.shape == (4, 272)
    assert np.abs(snugfit.dequantize_rows(blocks, "Q8_0") - rows).max() < 0.02


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("15.2GiB", 16320875724),
        ("16GB", 16_000_000_000),
        ("900MiB", 943718400),
        ("3777568B", 3777568),
        (" 1 kib ", 1024),
    ],
)
def test_sizes_are_read(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["16", "16G", "GiB", "-1GiB", "1e9B", ""])
def test_ambiguous_sizes_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_size(text)


def test_sizes_are_written() -> None:
    assert format_size(0) == "0 B"
    assert format_size(16320875724) == "15.2 GiB"
    assert format_size(3777568) == "3.60 MiB"


def test_sizing_of_a_demo() -> None:
    spec = snugfit.inspect("demo-moe")
    assert spec.experts == 8
    machine = machine_of([2**30], 2**30)
    use = snugfit.memory("demo-moe", ctx=512, kv_type="q8_0", machine=machine)
    assert use.configuration.gpu_layers == spec.layers + 1
    assert use.devices[1].kv_cache_bytes == 0
    assert use.kv_cache_bytes == 512 * 4 * 2 * 128 * 34 // 32
    named = snugfit.memory("demo-moe", ctx=512, machine="Apple M4 16GB")
    assert [device.name for device in named.devices] == ["Apple M4 GPU", "RAM"]
    smaller = snugfit.plan("demo-moe", machine="Apple M4 16GB", vram=[2**30])
    assert smaller.memory.devices[0].free_bytes == 2**30
    chosen = snugfit.plan("demo-moe", size="6MiB", ram=2**30)
    assert chosen.file_bytes <= 6 * 2**20


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0.2, "under 1 s"),
        (12, "12 s"),
        (188, "3 min 8 s"),
        (7200, "2 h"),
        (19_200, "5 h 20 min"),
        (200_000, "2 d 7 h"),
    ],
)
def test_times_are_written_with_their_two_largest_units(seconds: float, written: str) -> None:
    assert format_seconds(seconds) == written
