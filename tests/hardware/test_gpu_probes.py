"""GPUs as their drivers tell of them, recorded; and machines put together from parts."""

from types import SimpleNamespace

import pytest

from snugfit.core import Device, Holder, Machine
from snugfit.errors import UsageError
from snugfit.hardware import apple, nvidia
from snugfit.hardware.detect import assemble, detect, machine_of, with_read_rate
from snugfit.hardware.named import machine_named
from snugfit.units import GIB, MIB


class NvmlRecording:
    """What pynvml answered; an index without a row stands for a GPU that tells nothing."""

    class NVMLError(Exception):
        pass

    def __init__(self, rows, has_driver=True, processes=None, link=None):
        self.rows, self.has_driver, self.is_open = rows, has_driver, False
        self.processes, self.link = (
            processes or {},
            link,
        )  # pid -> (name, bytes), (generation, lanes)

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

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        return [
            SimpleNamespace(pid=pid, usedGpuMemory=size)
            for pid, (_, size) in self.processes.items()
        ]

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle):
        return self.nvmlDeviceGetComputeRunningProcesses(handle)[:1]

    def nvmlSystemGetProcessName(self, pid):
        if self.processes[pid][0] is None:
            raise self.NVMLError("Not Found")
        return self.processes[pid][0]

    def nvmlDeviceGetMaxPcieLinkGeneration(self, handle):
        if self.link is None:
            raise self.NVMLError("Not Supported")
        return self.link[0]

    def nvmlDeviceGetCurrPcieLinkWidth(self, handle):
        return self.link[1]


RTX = "NVIDIA GeForce RTX 4090"


def test_nvidia_gpus_have_their_free_memory():
    library = NvmlRecording([(RTX, 24564 * MIB, 23000 * MIB), (b"NVIDIA Mystery", None, None)])
    (gpu,) = nvidia.gpus(library)
    assert (gpu.name, gpu.kind) == (RTX, "gpu")
    assert (gpu.total_bytes, gpu.free_bytes) == (24564 * MIB, 23000 * MIB)
    assert gpu.note == "1.53 GiB in use or reserved"
    assert not library.is_open


def test_nvidia_names_who_holds_the_memory_and_tells_the_link():
    processes = {
        7: ("/usr/lib/xorg/Xorg", 300 * MIB),
        8: (b"/opt/ollama/bin/ollama runner --port 1", 9 * GIB),
        9: (None, None),  # of another container
        10: (r"C:\\Windows\\System32\\dwm.exe", None),  # Windows does not tell how much
    }
    library = NvmlRecording([(RTX, 24564 * MIB, 12000 * MIB)], processes=processes, link=(4, 8))
    (gpu,) = nvidia.gpus(library)
    assert gpu.holders[:2] == (Holder("ollama", 9 * GIB), Holder("Xorg", 300 * MIB))
    assert set(gpu.holders[2:]) == {Holder("process 9"), Holder("dwm.exe")}
    assert (gpu.link, gpu.link_bytes_per_s) == ("PCIe 4.0 x8", pytest.approx(15.75e9, rel=0.001))


def test_a_gb10_has_its_memory_in_common_with_the_processor():
    (gpu,) = nvidia.gpus(NvmlRecording([("NVIDIA GB10", None, None)]))
    assert gpu.shares_ram
    ram = Device("RAM", "ram", 120 * GIB, 110 * GIB)
    gpu, rest = assemble(ram, [gpu])
    assert (gpu.total_bytes, gpu.free_bytes + rest.free_bytes) == (120 * GIB, 110 * GIB)
    assert rest.free_bytes == 2 * GIB


def test_no_driver_means_no_gpu_without_a_word(capsys):
    assert nvidia.gpus(NvmlRecording([], has_driver=False)) == ()
    assert capsys.readouterr() == ("", "")


APPLE = "hw.memsize: {memory}\niogpu.wired_limit_mb: {wired}\nmachdep.cpu.brand_string: Apple M3\n"


@pytest.mark.parametrize(
    ("memory", "wired", "limit"),
    [
        (24 * GIB, 0, 16 * GIB),
        (36 * GIB, 0, 27 * GIB),  # "recommendedMaxWorkingSetSize = 28991.03 MB"
        (64 * GIB, 0, 48 * GIB),
        (64 * GIB, 57344, 56 * GIB),
        (16 * GIB, 99999, 16 * GIB),
    ],
)
def test_apple_gpu_may_hold_what_the_system_lets_it(memory, wired, limit):
    (gpu,) = apple.gpus(lambda: APPLE.format(memory=memory, wired=wired))
    assert (gpu.name, gpu.total_bytes) == ("Apple M3 GPU", limit)


def test_apple_memory_is_asked_on_apple_silicon_only():
    assert apple.gpus(lambda: "") == ()


@pytest.mark.parametrize("text", ["hw.memsize: lots\n", "no such key\n", "hw.memsize: \n"])
def test_sysctl_without_numbers_means_no_gpu(text):
    assert apple.gpus(lambda: text) == ()


@pytest.mark.parametrize(("free", "of_gpu"), [(20 * GIB, 16 * GIB), (10 * GIB, 9.375 * GIB)])
def test_shared_memory_is_counted_once_and_the_engine_keeps_some(free, of_gpu):
    ram = Device("RAM", "ram", 24 * GIB, free)
    gpu = Device("Apple M3 GPU", "gpu", 16 * GIB, 16 * GIB, shares_ram=True)
    shared, rest = assemble(ram, [gpu])
    assert shared.free_bytes + rest.free_bytes == free
    assert shared.free_bytes == of_gpu


def test_gpus_of_one_name_are_told_apart_and_ram_is_last():
    gpus = [Device(RTX, "gpu", 24 * GIB, 23 * GIB) for _ in range(2)]
    devices = assemble(Device("RAM", "ram", GIB, GIB), gpus)
    assert [device.name for device in devices] == [f"{RTX} #0", f"{RTX} #1", "RAM"]


def test_a_read_rate_is_measured_or_of_its_maker_or_unknown():
    gpu = Device(RTX, "gpu", 24 * GIB, 23 * GIB)
    specified = with_read_rate(gpu, {}, 64 * GIB)
    assert (specified.read_bytes_per_s, specified.read_basis) == (1008 * 10**9, "profile")
    timed = with_read_rate(gpu, {"GPU rtx 4090": 920 * 10**9}, 64 * GIB)
    assert (timed.read_bytes_per_s, timed.read_basis) == (920 * 10**9, "measured")
    other = with_read_rate(Device("Abacus 1", "gpu", GIB, GIB), {}, GIB)
    assert (other.read_bytes_per_s, other.read_basis) == (None, "unknown")
    mac = Device("Apple M4 Max GPU", "gpu", 27 * GIB, 27 * GIB, shares_ram=True)
    assert with_read_rate(mac, {}, 36 * GIB).read_bytes_per_s == 410 * 10**9
    assert with_read_rate(mac, {}, 64 * GIB).read_bytes_per_s == 546 * 10**9
    assert with_read_rate(mac, {"GPU mps": 5 * 10**11}, 64 * GIB).read_bytes_per_s == 5 * 10**11


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
    assert vram_only.gpus[0].name == "Card"  # the one that is there, with another size
    assert [gpu.name for gpu in machine_of([GIB, GIB], None, BASE).gpus] == ["GPU 0", "GPU 1"]
    ram_only = machine_of(None, 4 * GIB, BASE)
    assert (ram_only.gpus, ram_only.ram.free_bytes) == (BASE.gpus, 4 * GIB)
    assert machine_of([0], None, BASE).gpus == ()
    assert machine_of(None, None, BASE) == BASE


@pytest.mark.parametrize(
    ("vram", "ram", "of_gpu", "of_ram"),
    [
        ([24 * GIB], None, 24 * GIB, 36 * GIB),  # a GPU that takes less leaves more
        ([56 * GIB], None, 56 * GIB, 4 * GIB),  # more than the system lets it, as one can set
        (None, 40 * GIB, 38 * GIB, 2 * GIB),  # of 40 GiB it cannot have 48
        (None, 96 * GIB, 48 * GIB, 48 * GIB),
        ([24 * GIB], 64 * GIB, 24 * GIB, 40 * GIB),
    ],
)
def test_sizes_that_are_given_divide_a_shared_memory(vram, ram, of_gpu, of_ram):
    mac = machine_named("Apple M4 Max 64GB")
    assert [device.free_bytes for device in mac.devices] == [48 * GIB, 12 * GIB]
    machine = machine_of(vram, ram, mac)
    assert [device.free_bytes for device in machine.devices] == [of_gpu, of_ram]
    assert machine.gpus[0].shares_ram
    assert machine.ram.note.count("besides the GPU's share") == 1


def test_a_shared_memory_is_all_ram_without_its_gpu():
    mac = machine_named("Apple M4 Max 64GB")
    assert [device.free_bytes for device in machine_of([0], None, mac).devices] == [60 * GIB]
    assert machine_of(None, None, mac) == mac


def test_negative_memory_is_refused():
    with pytest.raises(UsageError):
        machine_of([-1], None, BASE)
