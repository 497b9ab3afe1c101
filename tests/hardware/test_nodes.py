"""Nodes as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snugfit.errors import UsageError
from snugfit.hardware.detect import machine_of
from snugfit.hardware.nodes import over_nodes, parse_nodes
from snugfit.units import GIB


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=24GiB", [("a:50052", [24])]),
        ("a=24GiB;b=2x24GiB", [("a:50052", [24]), ("b:50052", [24, 24])]),
        ("a=24GiB b=2 x 24GiB,16GiB", [("a:50052", [24]), ("b:50052", [24, 24, 16])]),
        (
            " 10.0.0.2:50060=8GiB ; gpu-box.lan=1x48GiB; ",
            [("10.0.0.2:50060", [8]), ("gpu-box.lan:50052", [48])],
        ),
    ],
)
def test_nodes_are_read(text, expected):
    found = [(n.address, [gpu.free_bytes / GIB for gpu in n.gpus]) for n in parse_nodes(text)]
    assert found == expected


def test_gpus_of_a_node_may_have_names():
    first, second = parse_nodes("a=RTX 4090 b:1=2x RTX 3090")
    assert [gpu.name for gpu in first.gpus] == ["NVIDIA GeForce RTX 4090"]
    assert len(second.gpus) == 2
    assert second.gpus[0].read_bytes_per_s


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("24GiB", "no node"),
        ("a", "no node"),
        ("a=", "neither"),
        ("=24GiB", "no node"),
        ("a=24", "not a size"),
        ("a=0GiB", "0 bytes"),
        ("a=24GiB;a=8GiB", "named twice"),
        ("a=9999x1GiB", "1 to 64"),
        ("-x=24GiB", "no node"),
        ("a;b=24GiB", "no node"),
        ("a:99999=24GiB", "no node"),
        ("a/b=24GiB", "no node"),
        ("a=RTX 40900", "neither"),
        (";", "0 nodes"),
        ("; ".join(f"n{number}=1GiB" for number in range(65)), "65 nodes"),
    ],
)
def test_what_is_no_node_is_said_in_one_line(text, said):
    with pytest.raises(UsageError, match=said):
        parse_nodes(text)


@given(st.text("ab10.:=;,x GiB-$`\n'", max_size=40))
def test_any_text_is_read_or_refused(text):
    try:
        nodes = parse_nodes(text)
    except UsageError:
        return
    for node in nodes:
        assert node.address.replace(".", "").replace("-", "").replace(":", "").isalnum()
        assert all(gpu.free_bytes > 0 for gpu in node.gpus)


def test_gpus_of_nodes_come_first_and_ram_stays_here():
    here = machine_of([24 * GIB], 64 * GIB)
    whole = over_nodes(here, parse_nodes("a=8GiB;b=2x12GiB"))
    assert [gpu.name for gpu in whole.gpus] == ["a: GPU", "b: GPU 0", "b: GPU 1", "GPU"]
    assert whole.ram == here.ram
