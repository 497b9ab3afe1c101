"""Compute buffers of several GPUs and of RAM beside them, against llama.cpp's own scheduler."""

import csv
import json

import pytest
from headers import DATA, MODELS, spec_from_header

from snugfit.core import Configuration
from snugfit.hardware.detect import machine_of
from snugfit.planning.memory import footprint_of, predict, use_of
from snugfit.units import GIB, MIB

ROWS = list(csv.DictReader((DATA / "gpu_splits.csv").read_text().splitlines()))
SERVERS = [
    row
    for row in json.loads((DATA / "rpc_splits.json").read_text())
    if sum(row["split"]) > spec_from_header(row["model"]).layers
]
PASS, COPIES = 512, 4
# One GPU of three has few layers of a small model with wide inputs: less is alive there.
MOST_TOO_MUCH = 0.22
# Matrices from RAM: two are counted, and one may stay, or be gone before a layer is at its busiest.
MOST_TOO_MUCH_STREAMED = 1.35


def machine(gpus):
    return machine_of([1024 * GIB] * gpus, 1024 * GIB)


def use_in(row):
    configuration = Configuration(
        ctx=int(row["n_ctx"]),
        gpu_layers=int(row["gpu_layers"]),
        cpu_expert_layers=int(row["cpu_expert_layers"]),
        ubatch=int(row["n_ubatch"]),
        slots=int(row["n_seq"]),
        kv_unified=True,
        flash_attention=row["flash_attn"] == "on",
    )
    return predict(spec_from_header(row["model"]), configuration, machine(int(row["gpus"])))


@pytest.mark.parametrize("model", MODELS)
def test_buffers_of_gpus_are_no_more_than_their_band_says(model):
    """A buffer that is larger would not fit, one that is smaller only leaves room."""
    layers = spec_from_header(model).layers
    for row in (row for row in ROWS if row["model"] == model):
        use = use_in(row)
        is_whole = int(row["gpu_layers"]) > layers and row["cpu_expert_layers"] == "0"
        measured = [float(size) * MIB for size in row["gpu_compute_MiB"].split()]
        for device, size in zip(use.devices[:-1], measured, strict=True):
            assert size <= device.compute_bytes * (1 + use.compute_band), row
            if is_whole:
                assert device.compute_bytes <= size * (1 + MOST_TOO_MUCH), row
        ours = sum(device.compute_bytes for device in use.devices[:-1])
        assert ours <= sum(measured) * (1 + MOST_TOO_MUCH_STREAMED), row
        host = float(row["host_compute_MiB"]) * MIB
        if is_whole:
            assert use.devices[-1].compute_bytes == pytest.approx(host, rel=0.02), row


@pytest.mark.parametrize("row", SERVERS, ids=str)
def test_buffers_of_rpc_servers_are_what_llama_cpp_foretold(row):
    """For logits of all tokens. It foretells copies of a norm that it then has elsewhere."""
    spec, split = spec_from_header(row["model"]), tuple(row["split"])
    configuration = Configuration(4096, gpu_layers=sum(split), gpu_split=split)
    devices = machine(len(split)).devices
    norm = COPIES * PASS * spec.hidden_size * 4 / MIB
    for number, size in enumerate(row["compute_mib"]):
        outputs = PASS if number == len(split) - 1 else None
        use = use_of(footprint_of(spec), configuration, devices, outputs=outputs)
        moved = norm if 0 < number < len(split) else 0
        ours = use.devices[number].compute_bytes / MIB
        assert ours == pytest.approx(size - moved, rel=0.07), number
