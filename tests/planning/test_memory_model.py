"""Bytes per device: against llama.cpp's own numbers, and by hand where there are none."""

from dataclasses import replace

import pytest
from headers import ROWS, configuration_of, name_of, spec_from_header
from hypothesis import given, settings
from hypothesis import strategies as st
from measured_rows import spec_in

from snugfit.core import Configuration, Device, LayerCache, Machine, ModelSpec, TensorInfo
from snugfit.errors import UsageError
from snugfit.hardware.detect import assemble, machine_of
from snugfit.planning.beside import with_projector
from snugfit.planning.memory import (
    GPU_OVERHEAD_BYTES,
    IN_RAM,
    has_all_layers_on_gpus,
    places,
    predict,
)
from snugfit.units import GIB, MIB

RAM_ONLY = machine_of([], 1024 * GIB)
ONE_GPU = machine_of([80 * GIB], 1024 * GIB)
TWO_GPUS = machine_of([30 * GIB, 10 * GIB], 1024 * GIB)
LLAMA = spec_from_header("Llama-3.3-70B")
QWEN_MOE = spec_from_header("Qwen3-30B-A3B")


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_cpu_compute_is_what_llama_cpp_allocates(row):
    use = predict(spec_from_header(row["model"]), configuration_of(row), RAM_ONLY)
    measured = float(row["cpu_compute_MiB"]) * MIB
    assert use.compute_bytes == pytest.approx(measured, rel=0.05)
    assert use.compute_basis == "estimated"
    assert use.compute_band >= 0.05


# Read off llama.cpp for headers of these shapes: hidden, heads, key heads, head size,
# feed-forward, experts used, vocabulary; context, flash attention; MiB.
@pytest.mark.parametrize(
    ("shape", "ctx", "flash_attention", "compute_mib"),
    [
        ((4096, 32, 8, 128, 14336, 0, 128256), 8192, True, 132.02),
        ((4096, 32, 8, 128, 14336, 0, 128256), 8192, False, 580.01),
        ((1024, 16, 8, 128, 3072, 0, 151936), 4096, True, 32.02),
        ((1024, 32, 8, 128, 1024, 0, 4096), 4096, True, 30.02),  # attention is the busier half
        ((1024, 32, 8, 128, 1024, 0, 4096), 8192, False, 558.01),
        ((4096, 32, 8, 128, 14336, 2, 32000), 4096, True, 212.02),  # Mixtral
        ((2048, 16, 4, 128, 256, 8, 8192), 4096, True, 56.02),  # experts narrower than hidden
        ((2048, 16, 4, 128, 768, 4, 8192), 4096, True, 58.02),
        ((256, 8, 4, 32, 704, 0, 4096), 32768, True, 38.64),
    ],
)
def test_cpu_compute_of_other_shapes(shape, ctx, flash_attention, compute_mib):
    spec = spec_of_shape(*shape)
    configuration = Configuration(ctx, flash_attention=flash_attention)
    use = predict(spec, configuration, RAM_ONLY)
    assert use.compute_bytes / MIB == pytest.approx(compute_mib, rel=0.002)


def spec_of_shape(hidden, heads, heads_kv, head_size, wide, used, vocabulary, layers=3):
    tensors = [TensorInfo("token_embd.weight", (vocabulary, hidden), "F16")]
    for layer in range(layers):
        block = f"blk.{layer}."
        tensors.append(TensorInfo(f"{block}attn_output.weight", (hidden, heads * head_size), "F16"))
        if used:
            tensors.append(TensorInfo(f"{block}ffn_down_exps.weight", (8, hidden, wide), "F16"))
        else:
            tensors.append(TensorInfo(f"{block}ffn_down.weight", (hidden, wide), "F16"))
    width = heads_kv * head_size
    return ModelSpec(
        name="shape",
        architecture="llama",
        layers=layers,
        hidden_size=hidden,
        context_length=131072,
        vocabulary=vocabulary,
        heads=heads,
        experts=8 if used else 0,
        experts_used=used,
        caches=tuple(LayerCache(layer, width, width, heads_kv) for layer in range(layers)),
        tensors=tuple(tensors),
        file_bytes=1000,
    )


def test_a_public_log_of_a_gpu_agrees():
    """llama 8B at 32768 tokens on an RTX 2060: 4096 of cache, compute 140 and 48 on the host."""
    spec = spec_of_shape(4096, 32, 8, 128, 14336, 0, 128256, layers=32)
    gpu, ram = predict(spec, Configuration(32768, gpu_layers=33), ONE_GPU).devices
    assert gpu.kv_cache_bytes == 4096 * MIB
    assert gpu.compute_bytes / MIB == pytest.approx(140, rel=0.01)
    assert ram.compute_bytes / MIB == pytest.approx(48, rel=0.01)


@pytest.mark.parametrize(
    ("gpu_layers", "expected"),
    [
        (0, [IN_RAM, IN_RAM, IN_RAM, IN_RAM]),
        (1, [IN_RAM, IN_RAM, IN_RAM, 0]),  # the output goes first
        (3, [IN_RAM, 0, 0, 0]),
        (4, [0, 0, 0, 0]),
        (99, [0, 0, 0, 0]),
    ],
)
def test_layers_go_to_the_gpu_from_the_last(gpu_layers, expected):
    assert places(3, gpu_layers, [GIB]) == expected
    assert places(3, gpu_layers, []) == [IN_RAM] * 4


def test_several_gpus_share_in_proportion_to_free_memory():
    assert places(7, 8, [3 * GIB, GIB]) == [0, 0, 0, 0, 0, 0, 1, 1]
    assert places(7, 4, [GIB, GIB]) == [IN_RAM] * 4 + [0, 0, 1, 1]
    assert places(7, 8, [0, GIB]) == [1] * 8
    assert places(2, 3, [0, 0]) == [IN_RAM] * 3


def tensor_bytes(spec, *names):
    return sum(tensor.size_bytes for tensor in spec.tensors if tensor.name in names)


def test_one_gpu_layer_is_the_output_alone():
    gpu, ram = predict(LLAMA, Configuration(4096, gpu_layers=1), ONE_GPU).devices
    assert gpu.weights_bytes == tensor_bytes(LLAMA, "output.weight", "output_norm.weight")
    assert gpu.kv_cache_bytes == 0
    assert gpu.weights_bytes + ram.weights_bytes == LLAMA.weights_bytes


def test_the_embedding_stays_in_ram_when_all_layers_go():
    use = predict(LLAMA, Configuration(4096, gpu_layers=81), ONE_GPU)
    gpu, ram = use.devices
    assert ram.weights_bytes == tensor_bytes(LLAMA, "token_embd.weight")
    assert (gpu.kv_cache_bytes, ram.kv_cache_bytes) == (1280 * MIB, 0)
    assert gpu.overhead_bytes == GPU_OVERHEAD_BYTES
    assert has_all_layers_on_gpus(use, LLAMA.layers)


def test_a_tied_embedding_is_copied_to_the_gpu_that_has_the_output():
    tied = spec_of_shape(1024, 16, 8, 64, 3072, 0, 8192)
    embedding = tensor_bytes(tied, "token_embd.weight")
    in_ram = predict(tied, Configuration(256), ONE_GPU)
    split = predict(tied, Configuration(256, gpu_layers=1), ONE_GPU)
    assert in_ram.weights_bytes == tied.weights_bytes
    assert [device.weights_bytes for device in split.devices] == [embedding, tied.weights_bytes]


def test_experts_of_the_first_layers_stay_in_ram():
    all_on = Configuration(4096, gpu_layers=49)
    none, some = (
        predict(QWEN_MOE, replace(all_on, cpu_expert_layers=count), ONE_GPU) for count in (0, 10)
    )
    experts = sum(
        tensor.size_bytes
        for layer in range(10)
        for tensor in QWEN_MOE.tensors
        if tensor.name.startswith(f"blk.{layer}.ffn_") and "_exps" in tensor.name
    )
    assert experts > 0
    moved = [
        after.weights_bytes - before.weights_bytes
        for before, after in zip(none.devices, some.devices, strict=True)
    ]
    assert moved == [-experts, experts]
    assert some.kv_cache_bytes == none.kv_cache_bytes == some.devices[0].kv_cache_bytes


def test_an_unused_gpu_costs_nothing():
    gpu, _ = predict(LLAMA, Configuration(4096), ONE_GPU).devices
    assert gpu.total_bytes == 0


def test_a_pipeline_of_gpus_keeps_four_copies_of_its_inputs():
    short, long = (
        predict(LLAMA, Configuration(ctx, gpu_layers=81), TWO_GPUS).devices[0].compute_bytes
        for ctx in (4096, 8192)
    )
    assert long - short == 4 * 512 * 4096 * 2


def test_a_pipeline_has_its_copies_in_ram_too():
    """4 masks, and 5 times the embeddings of a pass: given 4 times, looked up once."""
    ram = predict(LLAMA, Configuration(131072, gpu_layers=81), TWO_GPUS).devices[-1]
    assert ram.compute_bytes / MIB == pytest.approx(4 * 128 + 5 * 16, rel=0.001)


def test_the_host_s_buffer_is_that_of_a_public_log():
    """Qwen3.8-27B at 196608 tokens on an RTX 5090: 212.02 MiB of CUDA_Host."""
    ram = predict(spec_in("qwen3.6-27b", ""), Configuration(196608, gpu_layers=65), ONE_GPU)
    assert ram.devices[-1].compute_bytes / MIB == pytest.approx(212.02, abs=0.01)


def test_what_a_gpu_unpacks_is_in_no_buffer_of_the_log():
    half, quantized = (
        predict(LLAMA, Configuration(8192, kv_type, gpu_layers=81), ONE_GPU).devices[0]
        for kv_type in ("F16", "Q8_0")
    )
    assert quantized.compute_bytes == half.compute_bytes
    assert quantized.overhead_bytes - half.overhead_bytes == 8192 * (1024 + 1024) * 2


def test_a_split_says_how_many_layers_each_gpu_has():
    whole = Configuration(4096, gpu_layers=81, gpu_split=(20, 61))
    first, second, _ = predict(LLAMA, whole, TWO_GPUS).devices
    assert (first.kv_cache_bytes, second.kv_cache_bytes) == (20 * 16 * MIB, 60 * 16 * MIB)
    for split in ((20, 60), (81,), (-1, 82)):
        with pytest.raises(UsageError, match="does not put 81 layers"):
            predict(LLAMA, replace(whole, gpu_split=split), TWO_GPUS)


def test_a_cache_of_experts_takes_the_first_gpu_and_no_more_than_there_are():
    in_ram = Configuration(4096, gpu_layers=49, cpu_expert_layers=10)
    none, some, all_of_them = (
        predict(QWEN_MOE, replace(in_ram, expert_cache_bytes=size), ONE_GPU).devices[0]
        for size in (0, GIB, 1000 * GIB)
    )
    assert some.weights_bytes - none.weights_bytes == GIB
    whole = predict(QWEN_MOE, replace(in_ram, cpu_expert_layers=0), ONE_GPU).devices[0]
    assert all_of_them.weights_bytes == whole.weights_bytes


def test_a_projector_goes_to_the_first_gpu_in_use():
    use = predict(LLAMA, Configuration(4096, gpu_layers=81), TWO_GPUS)
    with_it = with_projector(use, 1000 * MIB)
    assert with_it.devices[1:] == use.devices[1:]
    assert with_it.weights_bytes - use.weights_bytes == 1000 * MIB
    assert with_it.total_bytes - use.total_bytes == 1350 * MIB
    alone = predict(LLAMA, Configuration(4096), TWO_GPUS)
    assert with_projector(alone, MIB).devices[:-1] == alone.devices[:-1]


@settings(max_examples=60, deadline=None)
@given(
    gpu_layers=st.integers(0, 60),
    experts=st.integers(0, 50),
    free=st.lists(st.integers(0, 100 * GIB), max_size=4),
    ctx=st.integers(1, 50000),
)
def test_nothing_is_lost_or_counted_twice(gpu_layers, experts, free, ctx):
    devices = tuple(Device(f"GPU {n}", "gpu", size, size) for n, size in enumerate(free))
    machine = Machine("any", "", 1, (*devices, RAM_ONLY.ram))
    configuration = Configuration(ctx, gpu_layers=gpu_layers, cpu_expert_layers=experts)
    use = predict(QWEN_MOE, configuration, machine)
    assert use.weights_bytes == QWEN_MOE.weights_bytes
    alone = predict(QWEN_MOE, Configuration(ctx), RAM_ONLY)
    assert use.kv_cache_bytes == alone.kv_cache_bytes
    assert use.file_bytes == QWEN_MOE.file_bytes


def test_an_estimated_cache_widens_the_band():
    use = predict(replace(LLAMA, cache_basis="estimated"), Configuration(4096), RAM_ONLY)
    assert (use.kv_basis, use.compute_band) == ("estimated", 0.5)


def test_what_llama_cpp_refuses_is_refused():
    with pytest.raises(UsageError, match="flash attention"):
        predict(LLAMA, Configuration(4096, "Q8_0", flash_attention=False), RAM_ONLY)


def shared_memory(free_gib, limit_gib):
    """A machine whose GPU may hold so much of the memory that it shares."""
    gpu = Device("GPU", "gpu", limit_gib * GIB, limit_gib * GIB, shares_ram=True)
    ram = Device("RAM", "ram", 128 * GIB, free_gib * GIB)
    return Machine("shared", "", 8, assemble(ram, [gpu]))


def test_what_the_gpu_leaves_of_a_shared_memory_is_ram():
    experts_in_ram = Configuration(4096, gpu_layers=49, cpu_expert_layers=24)
    use = predict(QWEN_MOE, experts_in_ram, shared_memory(60, 48))
    gpu, ram = use.devices
    # RAM holds more than the 12 GiB that the GPU could never have had.
    assert gpu.total_bytes + ram.total_bytes < 48 * GIB
    assert ram.total_bytes > 12 * GIB
    assert ram.free_bytes == 60 * GIB - gpu.needed_bytes
    assert use.fits
    without = predict(QWEN_MOE, Configuration(4096), shared_memory(60, 48))
    assert without.devices[-1].free_bytes == 60 * GIB


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 64), st.integers(8, 64), st.integers(0, 49), st.integers(0, 48))
def test_a_shared_memory_is_never_used_twice(free_gib, limit_gib, gpu_layers, experts):
    machine = shared_memory(free_gib, limit_gib)
    configuration = Configuration(4096, gpu_layers=gpu_layers, cpu_expert_layers=experts)
    use = predict(QWEN_MOE, configuration, machine)
    of_gpu = use.devices[0].total_bytes
    may_hold = machine.gpus[0].free_bytes
    assert use.fits == (of_gpu <= may_hold and use.total_bytes <= free_gib * GIB)
    assert may_hold <= min(limit_gib, free_gib) * GIB
