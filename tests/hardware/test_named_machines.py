"""Machines that are not here: by the name of a profile, and from files of strangers."""

import dataclasses
import json

import pytest

from snugfit.cli import documents
from snugfit.core import Device, Holder, Machine
from snugfit.errors import FormatError, UsageError
from snugfit.hardware.named import machine_in, machine_named
from snugfit.units import GIB, MIB

HERE = Machine(
    "here",
    "CPU",
    8,
    (
        Device("Apple M1 GPU", "gpu", 10 * GIB, 9 * GIB, shares_ram=True),
        Device("RAM", "ram", 16 * GIB, 3 * GIB, read_bytes_per_s=60 * 10**9, read_basis="measured"),
    ),
)


def named(text):
    return machine_named(text, lambda: HERE)


def test_gpus_take_the_place_of_those_that_are_here():
    machine = named("2x RTX 3090 + NVIDIA GeForce RTX 4090")
    assert [gpu.name[-4:] for gpu in machine.gpus] == ["0 #0", "0 #1", "4090"]
    assert machine.gpus[0].total_bytes == 24 * GIB
    assert machine.gpus[2].total_bytes == 24564 * MIB  # as nvidia-smi shows
    # llama.cpp is offered 24077 MiB of an RTX 4090.
    assert 24000 * MIB < machine.gpus[2].free_bytes <= 24077 * MIB
    assert machine.gpus[2].read_bytes_per_s == 1008 * 10**9
    assert (machine.gpus[2].read_basis, machine.gpus[2].link) == ("profile", "PCIe 4.0 x16")
    # The memory that its own GPU had borrowed is RAM again.
    assert machine.ram.free_bytes == 12 * GIB
    assert machine.ram.read_basis == "measured"


@pytest.mark.parametrize(
    ("text", "gpu_bytes", "ram_bytes"),
    [
        ("Apple M4 Max 64GB", 48 * GIB, 64 * GIB),
        ("m3 pro 18gb", 12 * GIB, 18 * GIB),
        ("Strix Halo 128GB", 96 * GIB, 128 * GIB),
        ("DGX Spark", 128 * GIB, 128 * GIB),
    ],
)
def test_a_shared_memory_is_divided_and_the_system_keeps_some(text, gpu_bytes, ram_bytes):
    machine = named(text)
    (gpu,) = machine.gpus
    assert gpu.shares_ram
    assert (gpu.total_bytes, machine.ram.total_bytes) == (gpu_bytes, ram_bytes)
    assert gpu.free_bytes + machine.ram.free_bytes == ram_bytes - 4 * GIB
    assert machine.ram.free_bytes > 0
    assert gpu.read_bytes_per_s == machine.ram.read_bytes_per_s


def test_a_cloud_shape_has_gpus_and_ram():
    machine = named("g5.12xlarge")
    assert (len(machine.gpus), machine.cores) == (4, 24)
    assert machine.gpus[0].total_bytes == 23028 * MIB
    assert (machine.ram.total_bytes, machine.ram.read_bytes_per_s) == (192 * GIB, None)
    assert named("p4de.24xlarge").gpus[0].read_bytes_per_s == 2039 * 10**9
    assert named("p4d.24xlarge").gpus[0].read_bytes_per_s == 1555 * 10**9


def test_a_card_of_two_gpus_is_two():
    assert len(named("MI250").gpus) == 2


def test_a_phone_has_no_gpu():
    machine = named("Snapdragon 8 Gen 3 12GB")
    assert machine.gpus == ()
    assert machine.ram.free_bytes == 8 * GIB


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Apple M4 Max", "comes with 36GB or 48GB or 64GB or 128GB. Write it"),
        ("RTX 5060 Ti", "comes with 8GB or 16GB"),
        ("RTX 4090 48GB", "comes with 24GB"),
        ("RTX 4900", "Did you mean NVIDIA GeForce RTX 4090"),
        ("", "neither a machine file nor a known machine. See"),
        ("2x Apple M3 Ultra 512GB", "only GPUs can be put together"),
        ("RTX 4090 + g5.xlarge", "only GPUs can be put together"),
        ("/no/such/file.json", "cannot be read"),
        ("\x1b[31mRTX", r"\\x1b\[31mRTX' is neither"),
    ],
)
def test_what_is_no_machine_is_explained_in_one_line(text, message):
    with pytest.raises(UsageError, match=message) as caught:
        named(text)
    assert len(str(caught.value).splitlines()) == 1


FULL = Machine(
    "box",
    "Ryzen",
    16,
    (
        Device(
            "RTX 4090",
            "gpu",
            24 * GIB,
            20 * GIB,
            "4.00 GiB in use",
            10**12,
            "measured",
            "PCIe 4.0 x16",
            31 * 10**9,
            holders=(Holder("Xorg", 4 * GIB), Holder("dwm.exe")),
        ),
        Device("Apple M1 GPU", "gpu", 10 * GIB, 9 * GIB, shares_ram=True),
        Device("RAM", "ram", 64 * GIB, 60 * GIB),
    ),
)


def test_what_is_written_as_json_is_read_back_whole(tmp_path):
    path = tmp_path / "box.json"
    path.write_text(json.dumps(documents.of_machine(FULL)))
    assert machine_named(str(path)) == FULL
    assert json.loads(path.read_text()) == dataclasses.asdict(FULL) | {
        "devices": [
            dataclasses.asdict(device) | {"holders": list(map(dataclasses.asdict, device.holders))}
            for device in FULL.devices
        ]
    }


def test_a_machine_can_be_described_by_hand(tmp_path):
    path = tmp_path / "box.toml"
    path.write_text(
        'later_field = 1\ncores = 8\n[[devices]]\nkind = "ram"\ntotal_bytes = "64GiB"\n'
        '[[devices]]\nname = "Card"\nkind = "gpu"\ntotal_bytes = 8e9\nfree_bytes = "7GB"\n'
    )
    machine = machine_in(path)
    assert [device.name for device in machine.devices] == ["Card", "RAM"]
    assert (machine.ram.free_bytes, machine.gpus[0].total_bytes) == (64 * GIB, 8 * 10**9)
    assert (machine.gpus[0].free_bytes, machine.cores) == (7 * 10**9, 8)


RAM = '{"name": "RAM", "kind": "ram", "total_bytes": 1000}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "needs `devices`"),
        ('{"devices": {}}', "needs `devices`"),
        ('{"devices": []}', "needs `devices`"),
        ('{"devices": [%s]}' % ", ".join([RAM] * 65), "a list of 1 to 64"),  # noqa: UP031
        (f'{{"devices": [{RAM}, {RAM}]}}', "2 devices of kind ram"),
        ('{"devices": [{"kind": "gpu", "total_bytes": 1}]}', "0 devices of kind ram"),
        ('{"devices": [7]}', "device 0 is not a table"),
        ('{"devices": [{"kind": "tpu", "total_bytes": 1}]}', "device 0 needs `kind`"),
        ('{"devices": [{"kind": ["gpu"], "total_bytes": 1}]}', "device 0 needs `kind`"),
        ('{"devices": [{"kind": "ram"}]}', "device 0 needs `total_bytes`"),
        ('{"devices": [{"kind": "ram", "total_bytes": NaN}]}', "not a number"),
        ('{"devices": [{"kind": "ram", "total_bytes": 1e999}]}', "not a number"),
        ('{"devices": [{"kind": "ram", "total_bytes": -1}]}', "not a number"),
        ('{"devices": [{"kind": "ram", "total_bytes": true}]}', "not a number"),
        ('{"devices": [{"kind": "ram", "total_bytes": %d}]}' % 10**40, "not a number"),  # noqa: UP031
        ('{"devices": [{"kind": "ram", "total_bytes": "16"}]}', "is not a size"),
        ('{"devices": [{"kind": "ram", "total_bytes": 1, "free_bytes": 2}]}', "more free than"),
        ('{"devices": [{"kind": "ram", "total_bytes": 1, "name": 3}]}', "`name` that is no text"),
        ('{"name": "%s", "devices": [%s]}' % ("x" * 999, RAM), "`name` that is no"),  # noqa: UP031
        (" " * (2 * MIB), "too long"),
    ],
)
def test_files_that_are_no_machine_are_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "machine.json"
    path.write_text(text)
    with pytest.raises(FormatError, match=message) as caught:
        machine_in(path)
    assert len(str(caught.value).splitlines()) == 1


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "machine.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FormatError, match="is not text"):
        machine_in(path)


def test_names_in_files_cannot_steer_the_terminal(tmp_path):
    path = tmp_path / "machine.json"
    path.write_text('{"devices": [{"kind": "ram", "total_bytes": 1, "name": "a\\u001b[2J"}]}')
    assert machine_in(path).ram.name == r"a\x1b[2J"
