"""AMD and Intel GPUs, and links to the host, on recorded trees of sysfs."""

from pathlib import Path

import pytest

from snugfit.hardware import amd, intel, pci
from snugfit.units import GIB, MIB

# Lines of libdrm's amdgpu.ids and of pci.ids.
AMD_IDS = "# List\n1.0.0\n744C,\tC8,\tAMD Radeon RX 7900 XTX\n744C,\tCC,\tAMD Radeon RX 7900 XT\n"
AMD_IDS += "1586,\tC1,\tAMD Radeon 8060S Graphics\n"
PCI_IDS = """#\tcomment
1002  Advanced Micro Devices, Inc. [AMD/ATI]
\t73bf  Navi 21 [Radeon RX 6800/6800 XT / 6900 XT]
\t\t1002 0e3a  a board
8086  Intel Corporation
\t4626  Alder Lake-P Integrated Graphics Controller
\t\t17aa 22d5  a board
\t56a0  DG2 [Arc A770]
\te20b  Battlemage G21 [Arc B580]
9004  Adaptec
\t56a0  something else
"""


class Sysfs:
    """A tree with cards behind PCI ports, as the kernel lays it out."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("usr/share/libdrm/amdgpu.ids", AMD_IDS)
        self.write("usr/share/misc/pci.ids", PCI_IDS)

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(f"{text}\n")

    def card(self, number: int, ports: list[tuple[str, int]], **files: str) -> None:
        """Add a card whose port and the ports above it, nearest last, have (speed, lanes)."""
        path = "sys/devices/pci0000:00"
        for depth, (speed, lanes) in enumerate(ports):
            path += f"/0000:{number:02x}:{depth:02x}.0"
            self.write(f"{path}/max_link_speed", f"{speed} GT/s PCIe")
            self.write(f"{path}/current_link_speed", "2.5 GT/s PCIe")  # idle
            self.write(f"{path}/current_link_width", str(lanes))
        for name, text in files.items():
            self.write(f"{path}/{name}", text)
        link = self.root / f"sys/class/drm/card{number}/device"
        link.parent.mkdir(parents=True)
        link.symlink_to(self.root / path)
        (self.root / f"sys/class/drm/card{number}-DP-1").mkdir()

    def amd(self, number: int, ids: str, pools: dict[str, int], **files: str) -> None:
        device, revision = ids.split()
        sizes = {f"mem_info_{pool}": str(size) for pool, size in pools.items()}
        files = {"vendor": "0x1002", "device": device, "revision": revision} | sizes | files
        self.card(number, [("16.0", 16), ("16.0", 16), ("32.0", 16)], **files)


@pytest.fixture
def sysfs(tmp_path):
    return Sysfs(tmp_path)


def test_amd_gpus_are_read_from_sysfs(sysfs):
    sysfs.amd(10, "0x1 0x00", {"vram_total": 16 * GIB, "vram_used": 1 * GIB})
    sysfs.amd(2, "0x744c 0xc8", {"vram_total": 25753026560, "vram_used": 1037062144})
    sysfs.amd(3, "0x744c 0xcc", {"vram_total": 20 * GIB, "vram_used": 0}, product_name="Sapphire")
    # Graphics inside a processor: a small carve-out, and what it may borrow.
    pools = {"vram_total": 512 * MIB, "vram_used": 0, "gtt_total": 16 * GIB, "gtt_used": 0}
    sysfs.amd(0, "0x15bf 0xc1", pools)
    sysfs.amd(4, "0x744c 0xc8", {})  # a driver that tells nothing
    sysfs.card(1, [("8.0", 4)], vendor="0x8086", mem_info_vram_total=str(8 * GIB))
    gpus = amd.gpus(sysfs.root)
    assert [gpu.name for gpu in gpus] == ["AMD Radeon RX 7900 XTX", "Sapphire", "AMD GPU"]
    assert gpus[0].free_bytes == 25753026560 - 1037062144
    assert [gpu.free_bytes for gpu in gpus[1:]] == [20 * GIB, 15 * GIB]
    assert {gpu.link for gpu in gpus} == {"PCIe 4.0 x16"}


@pytest.mark.parametrize(
    ("carved_out", "borrowed", "total", "shares_ram"),
    [
        (512 * MIB, 62 * GIB, 62 * GIB, True),
        (8 * GIB, 58 * GIB, 58 * GIB, True),
        (96 * GIB, 16 * GIB, 96 * GIB, False),
    ],
)
def test_strix_halo_has_its_larger_pool(sysfs, carved_out, borrowed, total, shares_ram):
    pools = {"vram_total": carved_out, "vram_used": 0, "gtt_total": borrowed, "gtt_used": 0}
    sysfs.amd(0, "0x1586 0xc1", pools)
    (gpu,) = amd.gpus(sysfs.root)
    assert (gpu.name, gpu.total_bytes) == ("AMD Radeon 8060S Graphics", total)
    assert (gpu.shares_ram, gpu.link) == (shares_ram, "")


RESOURCE = (
    "0x00000000a0000000 0x00000000a0ffffff 0x0000000000040200\n"
    "0x0000000000000000 0x0000000000000000 0x0000000000000000\n"
    "{window} 0x000000000014220c\n"
)


@pytest.mark.parametrize(
    ("window", "total"),
    [
        ("0x0000006000000000 0x00000063ffffffff", 16 * GIB),  # opened whole
        ("0x0000006000000000 0x000000600fffffff", 8 * GIB),  # 256 MiB: what every A770 has
        ("nonsense", 8 * GIB),
    ],
)
def test_intel_gpus_are_known_by_name(sysfs, window, total):
    text = RESOURCE.format(window=window)
    sysfs.card(1, [("16.0", 16)], vendor="0x8086", device="0x56a0", resource=text)
    sysfs.card(0, [("8.0", 1)], vendor="0x8086", device="0x4626", resource=text)  # integrated
    (gpu,) = intel.gpus(sysfs.root)
    assert (gpu.name, gpu.total_bytes, gpu.free_bytes) == ("Intel Arc A770", total, total)
    assert "does not tell" in gpu.note


def test_a_system_without_cards_has_none(tmp_path):
    assert amd.gpus(tmp_path) == intel.gpus(tmp_path) == ()


def test_names_fall_back_from_table_to_table(sysfs):
    sysfs.card(0, [], vendor="0x1002", device="0x73bf", revision="0xc1")
    device = sysfs.root / "sys/class/drm/card0/device"
    assert pci.name_of(device, sysfs.root) == "Radeon RX 6800/6800 XT / 6900 XT"
    assert pci.name_of(device, sysfs.root / "absent") == ""
    assert pci.name_of(sysfs.root / "absent", sysfs.root) == ""


def test_the_narrowest_port_decides(sysfs):
    sysfs.card(0, [("16.0", 4), ("16.0", 16), ("16.0", 16)])  # a slot with four lanes
    sysfs.card(1, [("8.0", 16), ("32.0", 16)])
    sysfs.card(2, [("Unknown", 0)])
    links = [
        pci.link_to_host(sysfs.root / f"sys/class/drm/card{number}/device") for number in range(3)
    ]
    assert [str(link) for link in links] == ["PCIe 4.0 x4", "PCIe 3.0 x16", "None"]


# Bytes a second as the PCI-SIG's tables and Wikipedia's list them, one way.
@pytest.mark.parametrize(
    ("text", "gb_per_s"),
    [
        ("1.0 x16", 4.0),
        ("2.0 x16", 8.0),
        ("3.0 x16", 15.754),
        ("PCIe 4.0 x16", 31.508),
        ("4.0 x8", 15.754),
        ("5.0 x16", 63.015),
        ("6.0 x16", 121.0),
    ],
)
def test_links_carry_what_their_standard_says(text, gb_per_s):
    link = pci.link_of(text)
    assert link is not None
    assert link.bytes_per_s / 1e9 == pytest.approx(gb_per_s, rel=1e-3)


@pytest.mark.parametrize("text", ["", "AGP 8x", "9.0 x16", "4.0 x", "PCIe 4.0 x16 "])
def test_what_is_no_link_is_none(text):
    assert pci.link_of(text) is None
