"""Free RAM as Linux tells it, on recorded trees of /proc and /sys."""

from pathlib import Path

import pytest

from snugfit.hardware import host
from snugfit.units import GIB, KIB, MIB

MEMINFO = "MemTotal:       24684096 kB\nMemFree:         1000000 kB\nMemAvailable:   19412936 kB\n"
TOTAL, AVAILABLE = 24684096 * KIB, 19412936 * KIB
UNLIMITED_V1 = "9223372036854771712"


@pytest.fixture
def tree(tmp_path):
    """Return a function that writes files, path -> text, beneath a root with /proc/meminfo."""

    def write(**files: str) -> Path:
        for name, text in {"proc/meminfo": MEMINFO, **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def group_v2(path, limit, current, inactive_file=0):
    return {
        f"{path}/memory.max": f"{limit}\n",
        f"{path}/memory.current": f"{current}\n",
        f"{path}/memory.stat": f"anon 1\nfile 77\ninactive_file {inactive_file}\n",
    }


def group_v1(path, limit, usage, inactive_file=0):
    return {
        f"{path}/memory.limit_in_bytes": f"{limit}\n",
        f"{path}/memory.usage_in_bytes": f"{usage}\n",
        f"{path}/memory.stat": f"inactive_file 3\ntotal_inactive_file {inactive_file}\n",
    }


def test_without_limits_the_kernel_is_believed(tree):
    ram = host.ram(tree())
    assert (ram.name, ram.kind) == ("RAM", "ram")
    assert (ram.total_bytes, ram.free_bytes, ram.note) == (TOTAL, AVAILABLE, "")


def test_version_2_limit_binds_and_file_pages_count_as_free(tree):
    files = {"proc/self/cgroup": "0::/user.slice/job\n"}
    files |= group_v2("sys/fs/cgroup/user.slice/job", 8 * GIB, 3 * GIB, 1 * GIB)
    ram = host.ram(tree(**files))
    assert (ram.total_bytes, ram.free_bytes) == (8 * GIB, 6 * GIB)
    assert "8.00 GiB" in ram.note


def test_the_tightest_of_nested_groups_binds(tree):
    files = {"proc/self/cgroup": "0::/outer/middle/inner\n"}
    files |= group_v2("sys/fs/cgroup/outer", 6 * GIB, 5 * GIB)  # others in it use most of it
    files |= group_v2("sys/fs/cgroup/outer/middle", 4 * GIB, 1 * GIB)
    files |= group_v2("sys/fs/cgroup/outer/middle/inner", "max", 1 * GIB)
    ram = host.ram(tree(**files))
    assert (ram.total_bytes, ram.free_bytes) == (4 * GIB, 1 * GIB)


def test_a_group_that_is_throttled_has_no_more_to_give(tree):
    files = {"proc/self/cgroup": "0::/job\n", **group_v2("sys/fs/cgroup/job", 8 * GIB, 3 * GIB)}
    files["sys/fs/cgroup/job/memory.high"] = f"{4 * GIB}\n"
    ram = host.ram(tree(**files))
    assert (ram.total_bytes, ram.free_bytes) == (4 * GIB, 1 * GIB)


def test_huge_pages_and_swap_are_not_free(tree):
    text = MEMINFO + "SwapFree:       99999999 kB\nHugetlb:         4194304 kB\n"
    ram = host.ram(tree(**{"proc/meminfo": text}))
    assert ram.free_bytes == AVAILABLE  # the kernel has left huge pages out already
    assert ram.note == "4.00 GiB set aside as huge pages"


@pytest.mark.parametrize(
    "files",
    [
        {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "100000 100000\n"},
        {
            "proc/self/cgroup": "3:cpu,cpuacct:/a\n",
            "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
        },
    ],
)
def test_cores_beyond_the_groups_quota_are_not_ours(tree, files):
    assert host.physical_cores(tree(**files)) == 1


@pytest.mark.parametrize("quota", ["max 100000\n", "-1\n", "", "100000 0\n"])
def test_without_a_quota_all_cores_are_ours(tree, quota, tmp_path):
    files = {"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": quota}
    assert host.physical_cores(tree(**files)) == host.physical_cores(tmp_path / "absent")


def test_version_1_limit_binds(tree):
    files = {"proc/self/cgroup": "9:name=systemd:/\n4:cpu,memory:/docker/abc\n0::/\n"}
    files |= group_v1("sys/fs/cgroup/memory", UNLIMITED_V1, 20 * GIB)
    files |= group_v1("sys/fs/cgroup/memory/docker/abc", 2 * GIB, 1 * GIB, 256 * MIB)
    ram = host.ram(tree(**files))
    assert (ram.total_bytes, ram.free_bytes) == (2 * GIB, 1 * GIB + 256 * MIB)


def test_a_container_sees_its_limit_at_the_mount(tree):
    files = {"proc/self/cgroup": "4:memory:/host/path/that/is/not/mounted\n"}
    files |= group_v1("sys/fs/cgroup/memory", 1 * GIB, 900 * MIB)
    assert host.ram(tree(**files)).free_bytes == 124 * MIB


def test_a_namespace_cannot_lead_out_of_the_tree(tree):
    files = {"proc/self/cgroup": "0::/../../../job\n"}
    files |= group_v2("sys/fs/cgroup/job", 1 * GIB, 0)
    assert host.ram(tree(**files)).total_bytes == 1 * GIB


def test_an_overfull_group_has_nothing_free(tree):
    files = {"proc/self/cgroup": "0::/job\n", **group_v2("sys/fs/cgroup/job", GIB, 2 * GIB)}
    assert host.ram(tree(**files)).free_bytes == 0


def test_elsewhere_the_system_is_asked(tmp_path):
    ram = host.ram(tmp_path)
    assert 0 < ram.free_bytes <= ram.total_bytes


def test_processor_is_named_as_its_maker_does(tree):
    root = tree(**{"proc/cpuinfo": "processor\t: 0\nmodel name\t: AMD Ryzen 9 9950X\n"})
    assert host.processor(root) == "AMD Ryzen 9 9950X"
    assert host.physical_cores() >= 1
