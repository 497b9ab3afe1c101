"""Names of hardware, as drivers, people and public tables write them, and the rows they find."""

import csv
from pathlib import Path

import pytest

from snugfit.errors import UsageError
from snugfit.hardware import profiles
from snugfit.hardware.pci import link_of
from snugfit.units import GIB

NAMES = Path(__file__).parent.parent / "data/hardware_names.csv"

# Names in public measurements that name no one product, or one without a fixed bandwidth.
UNMATCHED = {
    "",
    "24GB GPU",
    "2x CUDA 24GB",
    "8x Ascend",
    "CPU",
    "CUDA",
    "CUDA0",
    "Intel Alder Lake-P GT2 [Iris Xe Graphics] (integrated)",
    "None None",
    "Snapdragon HTP",
    "Vulkan0 16GB",
}


def test_every_name_in_public_measurements_is_found_but_those_listed():
    with NAMES.open(newline="") as file:
        names = {row["name"] for row in csv.DictReader(file)}
    assert len(names) > 50
    assert {name for name in names if profiles.lookup(name) is None} == UNMATCHED


@pytest.mark.parametrize(
    ("name", "gb_per_s"),
    [
        ("NVIDIA GeForce RTX 4090 24GB", 1008),
        ("nvidia geforce rtx 4090", 1008),
        ("NVIDIA GeForce RTX 3090 #1", 936),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 576),
        ("RTX 4070 SUPER", 504),
        ("NVIDIA RTX 5880 Ada Generation", 960),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 1792),
        ("NVIDIA A100-SXM4-80GB", 2039),
        ("NVIDIA A100 80GB PCIe", 1935),
        ("NVIDIA A100-PCIE-40GB", 1555),
        ("Tesla V100-SXM2-16GB", 900),
        ("NVIDIA H100 80GB HBM3", 3350),
        ("Tesla T4", 320),
        ("AMD Radeon(TM) RX 7900 XTX", 960),
        ("AMD Radeon 8060S Graphics", 256),
        ("Intel(R) Arc(TM) A770 Graphics", 560),
        ("Arc A770 8GB", 512),
        ("Apple M3 GPU", 100),
        ("M1 M1 Max", 400),
        ("M4 Max 36GB", 410),
        ("M4 Max 64 GB", 546),
        ("RTX 3080 10GB + V100 16GB", 760),
        ("standard_nc24ads_a100_v4", 1935),
    ],
)
def test_names_are_found_however_they_are_written(name, gb_per_s):
    profile = profiles.lookup(name)
    assert profile is not None
    assert profile.read_bytes_per_s == gb_per_s * 10**9


@pytest.mark.parametrize("name", ["RTX 4070 SUPER OC", "RTX", "4090", "RTX 4090 D", "M9 Ultra"])
def test_a_name_that_is_only_close_is_not_taken_for_another(name):
    assert profiles.lookup(name) is None


def test_memory_tells_variants_apart():
    bandwidths = [profiles.lookup("RTX 3080", size * 10**9) for size in (10, 12.9)]
    assert [row.read_bytes_per_s for row in bandwidths if row] == [760 * 10**9, 912 * 10**9]


def test_several_gpus_are_parsed():
    parts = profiles.parse("2x RTX 3090 + RTX 5060 Ti 16GB")
    found = [(part.profile.name, part.count, part.memory_bytes) for part in parts]
    assert found == [
        ("NVIDIA GeForce RTX 3090", 2, None),
        ("NVIDIA GeForce RTX 5060 Ti", 1, 16 * GIB),
    ]
    with pytest.raises(UsageError, match="Did you mean NVIDIA GeForce RTX 4090"):
        profiles.parse("RTX 3090 + RTX 4900")


def test_the_table_is_sound():
    rows = profiles.rows()
    assert len({row.name for row in rows}) >= 150
    for row in rows:
        assert row.source, row
        assert 10**10 < row.read_bytes_per_s < 10**13, row
        assert all(GIB <= size <= 512 * GIB for size in row.memory_bytes), row
        assert 0.9 * row.memory_bytes[0] < row.driver_bytes <= 1.01 * row.memory_bytes[0] or (
            row.driver_bytes == 0
        ), row
        assert bool(row.link) == (row.kind in ("gpu", "cloud")), row
        assert not row.link or link_of(row.link), row
        assert bool(row.ram_bytes and row.cores) == (row.kind == "cloud"), row
        assert profiles.lookup(row.name, row.memory_bytes[0]) == row, row
