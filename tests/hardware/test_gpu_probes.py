"""GPUs as their drivers tell of them, recorded; and machines put together from parts."""

from types import SimpleNamespace

import pytest

from snugfit.core import Device, Machine
from snugfit.errors import UsageError
from snugfit.hardware import amd, apple, nvidia
from snugfit.hardware.detect import PROBES, Probe, assemble, detect, machine_of
from snugfit.units import GIB, MIB


class NvmlRecording:
    """What pynvml answered; an index without a row stands for a GPU that tells nothing."""

    class NVMLError(Exception):
        pass

    def __init__(self, rows, has_driver=True):
        self.rows, self.has_driver, self.is_open = rows, has_driver, False

    def nvmlInit(self):
        if not self.has_driver:
            raise self.NVMLError("Driver Not Loaded")
        self.is_open = True

    def nvmlShutdown(self):
        self.is_open = False

    def nvmlDeviceGetCount(self):
        return len(self.rows)

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetName(self, handle):
        return self.rows[handle][0]

    def nvmlDeviceGetMemoryInfo(self, handle):
        if self.rows[handle][1] is None:
            raise self.NVMLError("Not Supported")
        total, free = self.rows[handle][1:]
        return SimpleNamespace(total=total, free=free)


RTX = "NVIDIA GeForce RTX 4090"


def test_nvidia_gpus_have_their_free_memory():
    library = NvmlRecording([(RTX, 24564 * MIB, 23000 * MIB), (b"NVIDIA GB10", None, None)])
    (gpu,) = nvidia.gpus(library)
    assert (gpu.name, gpu.kind) == (RTX, "gpu")
    assert (gpu.total_bytes, gpu.free_bytes) == (24564 * MIB, 23000 * MIB)
    assert gpu.note == "1.53 GiB in use or reserved"
    assert not library.is_open


def test_no_driver_means_no_gpu_without_a_word(capsys):
    assert nvidia.gpus(NvmlRecording([], has_driver=False)) == ()
    assert capsys.readouterr() == ("", "")


def amd_card(root, number, total, used, vendor="0x1002", product=None):
    directory = root / f"card{number}" / "device"
    directory.mkdir(parents=True)
    (directory / "vendor").write_text(f"{vendor}\n")
    (directory / "mem_info_vram_total").write_text(f"{total}\n")
    (directory / "mem_info_vram_used").write_text(f"{used}\n")
    if product:
        (directory / "product_name").write_text(f"{product}\n")


def test_amd_gpus_are_read_from_sysfs(tmp_path):
    amd_card(tmp_path, 10, 16 * GIB, 1 * GIB)
    amd_card(tmp_path, 2, 25753026560, 1037062144, product="Radeon RX 7900 XTX")
    amd_card(tmp_path, 0, 512 * MIB, 100 * MIB)  # graphics inside the processor
    amd_card(tmp_path, 1, 8 * GIB, 0, vendor="0x8086")
    (tmp_path / "card2-DP-1").mkdir()
    gpus = amd.gpus(tmp_path)
    assert [gpu.name for gpu in gpus] == ["Radeon RX 7900 XTX", "AMD GPU"]
    assert [gpu.free_bytes for gpu in gpus] == [25753026560 - 1037062144, 15 * GIB]


def test_a_system_without_amd_has_none(tmp_path):
    assert amd.gpus(tmp_path / "absent") == ()


APPLE = "hw.memsize: {memory}\niogpu.wired_limit_mb: {wired}\nmachdep.cpu.brand_string: Apple M3\n"


@pytest.mark.parametrize(
    ("memory", "wired", "limit"),
    [(24 * GIB, 0, 16 * GIB), (64 * GIB, 0, 48 * GIB), (64 * GIB, 57344, 56 * GIB)],
)
def test_apple_gpu_may_hold_what_the_system_lets_it(memory, wired, limit):
    (gpu,) = apple.gpus(lambda: APPLE.format(memory=memory, wired=wired))
    assert (gpu.name, gpu.total_bytes) == ("Apple M3 GPU", limit)


def test_apple_memory_is_asked_on_apple_silicon_only():
    assert apple.gpus(lambda: "") == ()


def test_shared_memory_is_counted_once():
    ram = Device("RAM", "ram", 24 * GIB, 20 * GIB)
    gpu = Device("Apple M3 GPU", "gpu", 16 * GIB, 16 * GIB)
    shared, rest = assemble(ram, [(Probe(apple.gpus, shares_ram=True), (gpu,))])
    assert shared.free_bytes + rest.free_bytes == ram.free_bytes
    busy = Device("RAM", "ram", 24 * GIB, 10 * GIB)
    shared, rest = assemble(busy, [(Probe(apple.gpus, shares_ram=True), (gpu,))])
    assert (shared.free_bytes, rest.free_bytes) == (10 * GIB, 0)


def test_gpus_of_one_name_are_told_apart_and_ram_is_last():
    gpus = tuple(Device(RTX, "gpu", 24 * GIB, 23 * GIB) for _ in range(2))
    devices = assemble(Device("RAM", "ram", GIB, GIB), [(PROBES["nvidia"], gpus)])
    assert [device.name for device in devices] == [f"{RTX} #0", f"{RTX} #1", "RAM"]


def test_this_machine_has_ram():
    machine = detect()
    assert machine.devices[-1] is machine.ram
    assert machine.ram.kind == "ram"
    assert 0 < machine.ram.free_bytes <= machine.ram.total_bytes
    assert machine.cores >= 1


BASE = Machine(
    "base",
    "CPU",
    8,
    (Device("Card", "gpu", 8 * GIB, 7 * GIB), Device("RAM", "ram", 32 * GIB, 30 * GIB)),
)


def test_described_memories_replace_those_that_are_here():
    both = machine_of([24 * GIB, 16 * GIB], 64 * GIB)
    assert [gpu.free_bytes for gpu in both.gpus] == [24 * GIB, 16 * GIB]
    assert both.ram.free_bytes == both.ram.total_bytes == 64 * GIB
    assert len({device.name for device in both.devices}) == 3
    vram_only = machine_of([24 * GIB], None, BASE)
    assert (vram_only.gpus[0].free_bytes, vram_only.ram) == (24 * GIB, BASE.ram)
    ram_only = machine_of(None, 4 * GIB, BASE)
    assert (ram_only.gpus, ram_only.ram.free_bytes) == (BASE.gpus, 4 * GIB)
    assert machine_of([0], None, BASE).gpus == ()
    assert machine_of(None, None, BASE) == BASE


def test_negative_memory_is_refused():
    with pytest.raises(UsageError):
        machine_of([-1], None, BASE)
