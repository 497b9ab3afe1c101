"""The search: what it prefers, what it never exceeds, and what it says when nothing fits."""

import random
from dataclasses import replace

import pytest
from headers import original_of, spec_from_header
from hypothesis import given, settings
from hypothesis import strategies as st

from snugfit.core import LayerCache
from snugfit.errors import BudgetError, UnsupportedError, UsageError
from snugfit.hardware.detect import machine_of
from snugfit.planning.axes import Goal
from snugfit.planning.cuts import AS_IT_IS, CHOICES
from snugfit.planning.memory import has_all_layers_on_gpus, predict, use_of
from snugfit.planning.reasons import rounded_up
from snugfit.planning.search import candidates, choose, search, spaces_of
from snugfit.planning.speed import speed_of
from snugfit.planning.value import OBJECTIVES, exchange_rate
from snugfit.quants.types import TYPES
from snugfit.units import GIB, MIB, parse_size

QUANTIZED = spec_from_header("Llama-3.3-70B")
LLAMA = original_of(QUANTIZED)
QWEN_MOE = original_of(spec_from_header("Qwen3-30B-A3B"))
HYBRID = spec_from_header("Qwen3.6-35B-A3B")
INDEXED = spec_from_header("DeepSeek-V4-Flash")
BORROWING = spec_from_header("gemma-4-E2B")


def size_of_file(spec, tensor_types):
    """Sum it up anew: header, then every tensor padded to 32 bytes."""
    sizes = (TYPES[tensor_types[tensor.name]].tensor_bytes(tensor.shape) for tensor in spec.tensors)
    return spec.header_bytes + sum((size + 31) // 32 * 32 for size in sizes)


def test_candidates_are_the_original_precision_and_all_below_best_first():
    plans = candidates(LLAMA, machine_of([], 256 * GIB), Goal())
    assert {plan.mix for plan in plans} == set(CHOICES) - {"F32", "F16"}
    bits = [plan.bits_per_weight for plan in plans]
    assert bits == sorted(bits, reverse=True)
    for plan in plans:
        assert plan.file_bytes == plan.memory.file_bytes == size_of_file(LLAMA, plan.tensor_types)
        assert plan.memory.weights_bytes <= plan.file_bytes


def test_the_best_mix_that_fits_is_chosen():
    machine = machine_of([48 * GIB], 8 * GIB)
    plan = choose(LLAMA, machine, Goal(ctx=8192, objective="quality"))
    plans = candidates(LLAMA, machine, Goal(ctx=8192, objective="quality"))
    assert plan.memory.fits
    assert 3 <= len(plan.reasons) <= 8
    better = [other for other in plans if other.bits_per_weight > plan.bits_per_weight]
    assert better
    assert not any(
        has_all_layers_on_gpus(other.memory, LLAMA.layers) for other in better if other.memory.fits
    )


def test_memory_of_a_plan_is_what_predict_says_of_the_cut():
    machine = machine_of([24 * GIB], 64 * GIB)
    plan = choose(QWEN_MOE, machine, Goal())
    cut = replace(
        QWEN_MOE,
        tensors=tuple(
            replace(tensor, type_name=plan.tensor_types[tensor.name]) for tensor in QWEN_MOE.tensors
        ),
        file_bytes=plan.file_bytes,
    )
    assert predict(cut, plan.memory.configuration, machine) == plan.memory
    assert cut.bits_per_weight == plan.bits_per_weight


def test_context_gives_way_to_the_mix_down_to_8192():
    best = Goal(objective="quality", kv_type="F16")
    use = choose(LLAMA, machine_of([48 * GIB] * 2, 8 * GIB), best).memory
    assert use.configuration.ctx == 32768  # there is room for both
    tight = choose(LLAMA, machine_of([39 * GIB] * 2, 8 * GIB), replace(best, mix="Q8_0"))
    assert 8192 <= tight.memory.configuration.ctx < 32768


def test_the_cache_is_quantized_only_when_needed():
    plans = {
        ram: choose(LLAMA, machine_of([], ram), Goal(mix="Q8_0", ctx=32768)).memory.configuration
        for ram in (90 * GIB, 76 * GIB)
    }
    assert [plans[90 * GIB].kv_type, plans[76 * GIB].kv_type] == ["F16", "Q8_0"]
    with pytest.raises(BudgetError):
        choose(LLAMA, machine_of([], 76 * GIB), Goal(mix="Q8_0", ctx=32768, kv_type="F16"))


def test_a_quantized_cache_is_better_than_layers_in_ram():
    asked = Goal(mix="Q4_K_M", ctx=4096, ubatch=512)
    room = machine_of([400 * GIB], 400 * GIB)
    needed = choose(LLAMA, room, replace(asked, kv_type="Q8_0")).memory.devices[0].needed_bytes
    use = choose(LLAMA, machine_of([needed], 400 * GIB), asked).memory
    assert has_all_layers_on_gpus(use, LLAMA.layers)
    assert use.configuration.kv_type == "Q8_0"


def test_a_cache_that_heads_cannot_have_is_not_chosen():
    odd = replace(LLAMA, caches=tuple(LayerCache(n, 800, 800, heads=10) for n in range(80)))
    plan = candidates(odd, machine_of([], 1 * GIB), Goal(ctx=4096))[0]
    assert plan.memory.configuration.kv_type == "F16"
    with pytest.raises(UnsupportedError, match="heads of 80"):
        candidates(odd, machine_of([], 1 * GIB), Goal(ctx=4096, kv_type="Q8_0"))


def test_the_training_context_is_exceeded_only_when_asked():
    short = replace(LLAMA, context_length=3000)
    machine = machine_of([], 256 * GIB)
    assert choose(short, machine, Goal()).memory.configuration.ctx == 3000
    assert choose(short, machine, Goal(ctx=5000)).memory.configuration.ctx == 5000


def test_layers_on_the_gpu_are_worth_more_than_bits():
    machine = machine_of([48 * GIB], 256 * GIB)
    plan = choose(LLAMA, machine, Goal())
    assert has_all_layers_on_gpus(plan.memory, LLAMA.layers)
    assert plan.mix not in ("BF16", "Q8_0")
    slower = candidates(LLAMA, machine, Goal())[0]
    assert slower.mix == "BF16"
    assert slower.memory.fits
    assert not has_all_layers_on_gpus(slower.memory, LLAMA.layers)


def test_as_many_layers_as_fit_go_to_a_small_gpu():
    machine = machine_of([12 * GIB], 128 * GIB)
    use = choose(LLAMA, machine, Goal(mix="Q4_K_M", ctx=8192)).memory
    layers = use.configuration.gpu_layers
    assert 0 < layers < 81
    with pytest.raises(BudgetError):
        choose(LLAMA, machine, Goal(mix="Q4_K_M", ctx=8192, kv_type="F16", gpu_layers=layers + 1))


def test_experts_leave_the_gpu_before_layers_and_as_few_as_needed():
    machine = machine_of([12 * GIB], 64 * GIB)
    plan = choose(QWEN_MOE, machine, Goal(ctx=16384))
    experts = plan.memory.configuration.cpu_expert_layers
    assert plan.memory.configuration.gpu_layers == 49
    assert 0 < experts < 48
    assert any("experts" in reason for reason in plan.reasons)
    chosen = plan.memory.configuration
    goal = Goal(
        *(16384, None, chosen.kv_type, 1, chosen.ubatch),
        mix=plan.mix,
        gpu_layers=49,
        cpu_expert_layers=experts - 1,
    )
    with pytest.raises(BudgetError):
        choose(QWEN_MOE, machine, goal)


def test_ram_is_a_hard_limit():
    with pytest.raises(BudgetError):
        choose(QWEN_MOE, machine_of([2 * GIB], 3 * GIB), Goal())


def test_the_file_stays_within_its_size():
    plan = choose(LLAMA, machine_of([], 256 * GIB), Goal(size_bytes=44 * GIB))
    assert plan.mix == "Q4_K_M"
    assert plan.file_bytes <= 44 * GIB


def test_layers_that_only_draft_are_not_measured_and_keep_what_needs_no_importance():
    first = QWEN_MOE.layers - 2
    drafting = replace(QWEN_MOE, drafting=2)
    plain = {plan.mix: plan for plan in candidates(QWEN_MOE, machine_of([], 256 * GIB), Goal())}
    for plan in candidates(drafting, machine_of([], 256 * GIB), Goal()):
        changed = {
            (tensor.split(".")[1], plain[plan.mix].tensor_types[tensor], type_name)
            for tensor, type_name in plan.tensor_types.items()
            if tensor.startswith("blk.") and type_name != plain[plan.mix].tensor_types[tensor]
        }
        layers = {str(layer) for layer in range(first, QWEN_MOE.layers)}
        assert {layer for layer, _, _ in changed} <= layers
        assert all(given in ("Q2_K", "IQ3_S", "Q3_K") for _, _, given in changed)
        assert bool(changed) == plan.mix.startswith(("IQ1", "IQ2", "IQ3_X", "Q2_K_S"))
        assert plan.file_bytes == size_of_file(drafting, plan.tensor_types)


def test_a_quantized_model_is_taken_as_it_is():
    (plan,) = candidates(QUANTIZED, machine_of([], 128 * GIB), Goal())
    assert (plan.mix, plan.file_bytes) == (AS_IT_IS, QUANTIZED.file_bytes)
    assert plan.tensor_types["output.weight"] == "Q8_0"
    with pytest.raises(UnsupportedError, match="quantized already"):
        candidates(QUANTIZED, machine_of([], 128 * GIB), Goal(mix="Q4_K_M"))


def test_an_unknown_mix_is_refused():
    with pytest.raises(UnsupportedError, match="Known: F32"):
        candidates(LLAMA, machine_of([], GIB), Goal(mix="Q9_Z"))


def test_a_file_too_small_for_any_cut_names_the_smallest():
    with pytest.raises(BudgetError, match="the smallest cut, IQ1_S, needs") as caught:
        choose(LLAMA, machine_of([], 256 * GIB), Goal(size_bytes=10 * GIB))
    needed = parse_size(str(caught.value).rpartition("at least ")[2].rstrip("."))
    assert choose(LLAMA, machine_of([], 256 * GIB), Goal(size_bytes=needed)).mix == "IQ1_S"


def test_mixes_of_last_resort_are_taken_only_where_no_other_fits():
    machine = machine_of([20 * GIB], 64 * GIB)  # IQ2_XXS would fit on the GPU
    assert choose(LLAMA, machine, Goal()).mix not in ("IQ2_XXS", "IQ2_XS", "IQ1_M", "IQ1_S")
    plan = choose(LLAMA, machine_of([], 20 * GIB), Goal(ctx=4096))
    assert plan.mix.startswith(("IQ2", "IQ1"))
    assert any("smaller model" in reason for reason in plan.reasons)


@pytest.mark.parametrize("vram", [[], [8 * GIB], [6 * GIB, 4 * GIB]])
def test_memory_too_small_names_what_would_do(vram):
    with pytest.raises(BudgetError, match=r"Give RAM at least") as caught:
        choose(LLAMA, machine_of(vram, 4 * GIB), Goal())
    message = str(caught.value)
    assert "\n" not in message
    needed = parse_size(message.rpartition("at least ")[2].rstrip("."))
    assert choose(LLAMA, machine_of(vram, needed), Goal()).memory.fits


@given(st.integers(1, 2**50))
def test_rounded_up_sizes_are_enough(size):
    assert size <= parse_size(rounded_up(size)) <= size * 1.01 + 1


@settings(max_examples=15, deadline=None)
@given(
    vram=st.lists(st.integers(1, 60 * 1024), max_size=3),
    ram=st.integers(1, 80 * 1024),
    ctx=st.sampled_from([None, 2048, 20000]),
)
def test_a_chosen_plan_fits_every_memory(vram, ram, ctx):
    machine = machine_of([size * MIB for size in vram], ram * MIB)
    try:
        plan = choose(QWEN_MOE, machine, Goal(ctx=ctx))
    except BudgetError as error:
        assert "\n" not in str(error)
        return
    assert all(device.total_bytes <= device.free_bytes for device in plan.memory.devices)
    assert plan.file_bytes == size_of_file(QWEN_MOE, plan.tensor_types)


def test_a_context_is_one_people_use_unless_context_is_what_counts():
    roomy = machine_of([400 * GIB], 400 * GIB)
    assert choose(LLAMA, roomy, Goal()).memory.configuration.ctx == 32768
    longest = choose(LLAMA, roomy, Goal(objective="context")).memory.configuration.ctx
    assert longest == LLAMA.context_length == 131072


def test_objectives_pull_their_way():
    machine = machine_of([24 * GIB], 96 * GIB)
    plans = {name: choose(QWEN_MOE, machine, Goal(objective=name)) for name in OBJECTIVES}
    rates = {name: plan.speed.decode_tokens_per_s.middle for name, plan in plans.items()}
    assert plans["quality"].bits_per_weight >= plans["balanced"].bits_per_weight
    assert rates["speed"] >= rates["balanced"] >= rates["quality"]
    assert rates["speed"] > rates["quality"]
    with pytest.raises(UsageError, match="not an objective"):
        choose(QWEN_MOE, machine, Goal(objective="price"))


def test_a_least_speed_is_kept_or_refused_with_what_there_is():
    machine = machine_of([12 * GIB], 64 * GIB)
    fast = Goal(least_tokens_per_s=60)
    assert choose(QWEN_MOE, machine, fast).speed.decode_tokens_per_s.middle >= 60
    with pytest.raises(BudgetError, match="the fastest way that fits decodes"):
        choose(LLAMA, machine_of([], 64 * GIB), fast)


def test_no_way_of_the_frontier_beats_another_or_is_beaten_by_the_choice():
    found = search({AS_IT_IS: QWEN_MOE}, machine_of([16 * GIB], 64 * GIB), Goal())
    assert found.considered > 10_000
    assert len(found.frontier) > 3

    def merits(plan):
        speed = plan.speed
        rate = exchange_rate(speed.decode_tokens_per_s.middle, speed.prefill_tokens_per_s.middle)
        return (-plan.expected_loss, rate, plan.memory.configuration.ctx)

    for one in found.frontier:
        assert one.memory.fits
        for other in found.frontier:
            pairs = list(zip(merits(one), merits(other), strict=True))
            assert one is other or not all(a >= b for a, b in pairs)


@pytest.mark.parametrize("vram", [[], [24 * GIB], [24 * GIB, 9 * GIB], [6 * GIB, 0, 8 * GIB]])
@pytest.mark.parametrize(
    "spec", [LLAMA, QWEN_MOE, HYBRID, INDEXED, BORROWING], ids=lambda spec: spec.name
)
def test_the_grid_is_the_sum_of_what_is_said_one_at_a_time(spec, vram):
    machine = machine_of(vram, 64 * GIB)
    goal = Goal(mix="Q4_K_M" if not spec.is_quantized else None)
    (space,) = spaces_of({AS_IT_IS: spec}, machine, goal)
    cut, devices, paces = space.cuts[0], machine.devices, space.paces
    draw = random.Random(len(vram))
    for _ in range(150):
        setting = draw.randrange(len(space.settings))
        place = draw.randrange(len(space.placements))
        cached = int(space.grid.expert_cache_bytes[0, setting, place])
        configuration = space.placements[place].of(space.settings[setting])
        configuration = replace(configuration, expert_cache_bytes=cached)
        use = use_of(cut.footprint, configuration, devices)
        speed = speed_of(cut.footprint, cut.reads, configuration, devices, paces)
        at = (0, setting, place)
        assert space.grid.total_bytes[at] == use.total_bytes
        assert bool(space.grid.fits[at]) == use.fits
        decode, prefill = space.grid.decode_seconds[at], space.grid.prefill_seconds[at]
        expected = speed.decode_tokens_per_s.middle
        if cached:  # judged by text that hits it rarely
            bands = {1 + pace.band for pace in paces}
            low = speed.decode_tokens_per_s.low
            assert any(decode == pytest.approx(1 / low / band, rel=1e-9) for band in bands)
        else:
            assert decode == pytest.approx(1 / expected, rel=1e-9)
        assert prefill == pytest.approx(1 / speed.prefill_tokens_per_s.middle, rel=1e-9)
