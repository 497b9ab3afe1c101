"""What a search must withstand: headers that lie, options that make no sense."""

from __future__ import annotations

from dataclasses import replace

import pytest
from headers import original_of, spec_from_header

from snugfit.archs.cache import grouped
from snugfit.core import Device
from snugfit.errors import UsageError
from snugfit.hardware.detect import machine_of
from snugfit.hardware.named import machine_named
from snugfit.planning.axes import MOST_PLACED, Goal, placements
from snugfit.planning.memory import footprint_of
from snugfit.planning.pace import paces_of
from snugfit.planning.search import search
from snugfit.sizing import plan
from snugfit.units import GIB

DENSE, EXPERTS = "Phi-4", "Qwen3-30B-A3B"
GPUS = [Device(f"GPU {number}", "gpu", 24 * GIB, 24 * GIB) for number in range(4)]
RAM = Device("RAM", "ram", 64 * GIB, 64 * GIB)


@pytest.mark.parametrize("layers", [4096, 512])
def test_a_header_of_many_layers_cannot_ask_for_hours(layers: int) -> None:
    footprint = footprint_of(spec_from_header(EXPERTS))
    weights = footprint.weights
    many = replace(weights, dense=weights.dense[:1] * layers, experts=weights.experts[:1] * layers)
    tall = replace(footprint, weights=many, caches=grouped(()))
    found = placements(tall, [*GPUS, RAM], Goal())
    assert len(found) * (layers + 1) <= 2 * MOST_PLACED
    assert (found[0].gpu_layers, found[0].cpu_expert_layers) == (layers + 1, 0)
    assert any(place.gpu_layers == 0 for place in found)


def test_every_place_of_a_model_that_people_have_is_tried() -> None:
    footprint = footprint_of(spec_from_header("Llama-3.3-70B"))
    assert len(placements(footprint, [GPUS[0], RAM], Goal())) == footprint.layers + 2


def test_experts_in_ram_are_no_more_than_there_are() -> None:
    machine = machine_of([24 * GIB], 64 * GIB)
    for name, most in ((DENSE, 0), (EXPERTS, 48)):
        found = search({"": spec_from_header(name)}, machine, Goal(cpu_expert_layers=999))
        assert found.chosen.memory.configuration.cpu_expert_layers == most
        assert any("experts" in reason for reason in found.chosen.reasons) == bool(most)


def test_reasons_do_not_put_experts_in_two_places() -> None:
    spec, machine = spec_from_header(EXPERTS), machine_of([8 * GIB], 64 * GIB)
    reasons = search({"": spec}, machine, Goal()).chosen.reasons
    assert any(
        "all its layers are on the GPU but for experts;" in r
        or "all its layers are on the GPU but for experts." in r
        for r in reasons
    ), reasons


def test_processors_beside_a_gpu_are_no_faster_a_layer() -> None:
    """Or a Mac would be told to leave its GPU idle."""
    for name in ("Apple M4 Max 64GB", "DGX Spark"):
        devices = machine_named(name).devices
        gpu, ram = paces_of(devices)
        assert ram.layer_seconds >= gpu.layer_seconds
        assert ram.expert_layer_seconds >= gpu.expert_layer_seconds
        assert ram.state_layer_seconds >= gpu.state_layer_seconds
    spec, machine = (
        original_of(spec_from_header("Qwen3.6-35B-A3B")),
        machine_named("Apple M4 Max 64GB"),
    )
    for way in search({"": spec}, machine, Goal()).ways:
        if way.memory.fits:
            assert way.memory.configuration.gpu_layers == spec.layers + 1, way.mix


@pytest.mark.parametrize("speed", [float("nan"), float("inf")])
def test_python_refuses_speeds_that_are_no_numbers(speed: float) -> None:
    with pytest.raises(UsageError, match="tokens a second"):
        plan("demo", least_tokens_per_s=speed)


def test_python_plans_as_the_command_line_does() -> None:
    machine = machine_of([], 8 * GIB)
    given = plan(
        "demo-moe",
        ctx=512,
        mix="Q4_K_M",
        kv_type="q8_0",
        slots=2,
        ubatch=64,
        kv_unified=True,
        objective="quality",
        machine=machine,
    )
    configuration = given.memory.configuration
    assert given.mix == "Q4_K_M"
    assert (configuration.slots, configuration.ubatch, configuration.kv_unified) == (2, 64, True)
    with pytest.raises(UsageError, match="objective"):
        plan("demo", objective="beauty", machine=machine)
