"""Cache bytes against what llama.cpp allocated for the same headers."""

import pytest
from headers import MODELS, ROWS, configuration_of, name_of, spec_from_header

from snugfit.archs.cache import cache_bytes, cells_of, state_bytes, total_cells
from snugfit.core import Configuration, LayerCache, LayerState
from snugfit.errors import UnsupportedError, UsageError
from snugfit.units import MIB

ROUNDING_BYTES = 0.005 * MIB


def test_every_row_is_checked():
    assert len(ROWS) == 120
    assert len(MODELS) == 10
    assert {row["flash_attn"] for row in ROWS} == {"on", "off"}


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_cache_and_state_equal_llama_cpp(row):
    spec, configuration = spec_from_header(row["model"]), configuration_of(row)
    assert spec.cache_basis == "exact"
    size = sum(cache_bytes(spec.caches, configuration).values())
    roundings = row["kv_detail"].count("MiB") + 1  # the file sums parts of two decimals each
    assert size == pytest.approx(float(row["kv_MiB"]) * MIB, abs=roundings * ROUNDING_BYTES)
    if spec.architecture != "deepseek4":  # its compressors were not counted
        size = sum(state_bytes(spec.states, configuration).values())
        assert size == pytest.approx(float(row["rs_MiB"]) * MIB, abs=ROUNDING_BYTES)


# Cells that llama.cpp reported for these contexts and slots.
@pytest.mark.parametrize(
    ("ctx", "slots", "kv_unified", "cells"),
    [
        (4096, 1, False, 4096),
        (100, 1, False, 256),
        (257, 1, False, 512),
        (5000, 3, False, 3 * 1792),
        (5000, 3, True, 5120),
    ],
)
def test_context_is_rounded_as_llama_cpp_does(ctx, slots, kv_unified, cells):
    assert total_cells(Configuration(ctx, slots=slots, kv_unified=kv_unified)) == cells


@pytest.mark.parametrize(
    ("kv_type", "bytes_of_256"),
    [
        ("F32", 1024),
        ("F16", 512),
        ("BF16", 512),
        ("Q8_0", 272),
        ("Q5_1", 192),
        ("Q5_0", 176),
        ("Q4_1", 160),
        ("Q4_0", 144),
        ("IQ4_NL", 144),
    ],
)
def test_every_cache_type(kv_type, bytes_of_256):
    cache = LayerCache(0, 256, 512, heads=2)
    assert cache_bytes([cache], Configuration(256, kv_type)) == {0: 256 * 3 * bytes_of_256}


def test_values_are_padded_to_the_widest_layer_without_flash_attention():
    caches = [LayerCache(0, 256, 256), LayerCache(3, 256, 512)]
    with_flash = cache_bytes(caches, Configuration(256))
    without = cache_bytes(caches, Configuration(256, flash_attention=False))
    assert with_flash == {0: 256 * 2 * 512, 3: 256 * 2 * 768}
    assert without == {0: 256 * 2 * 768, 3: 256 * 2 * 768}


def test_values_of_another_type():
    configuration = Configuration(256, "Q8_0", value_type="Q4_0")
    assert cache_bytes([LayerCache(0, 256, 512)], configuration) == {0: 256 * (272 + 288)}


@pytest.mark.parametrize(
    ("configuration", "cells"),
    [
        (Configuration(4096, ubatch=512), 1024),  # 300 and 512
        (Configuration(4096, ubatch=100), 512),
        (Configuration(300, ubatch=512), 512),  # the whole context is less
        (Configuration(4096, slots=4), 1024),  # of each slot
        (Configuration(4096, slots=4, kv_unified=True), 1792),  # 4 x 300 and 512
        (Configuration(4096, swa_full=True), 4096),
    ],
)
def test_cells_of_a_window(configuration, cells):
    assert cells_of(LayerCache(0, 64, 64, window=300), configuration) == cells


def test_slots_of_a_cache_of_their_own_share_nothing():
    unified = Configuration(1024, slots=2, kv_unified=True)
    cache = LayerCache(0, 64, 0, tokens_per_cell=4, is_per_slot=True)
    assert cache_bytes([cache], unified) == {0: 2 * 256 * 64 * 2}


def test_states_grow_with_slots_and_with_what_they_can_take_back():
    states = [LayerState(0, 1000, can_roll_back=True), LayerState(2, 10)]
    assert state_bytes(states, Configuration(256, slots=3)) == {0: 12000, 2: 120}
    assert state_bytes(states, Configuration(9999, rollback=2)) == {0: 12000, 2: 40}


@pytest.mark.parametrize(
    ("configuration", "error", "text"),
    [
        (Configuration(256, "Q4_K"), UsageError, "Known: f32, f16"),
        (Configuration(256, "Q8_0", flash_attention=False), UsageError, "flash attention"),
        (Configuration(256, "Q8_0"), UnsupportedError, "heads of 80"),
        (Configuration(0), UsageError, "context is 0"),
        (Configuration(256, slots=0), UsageError, "slots is 0"),
        (Configuration(256, rollback=-1), UsageError, "rollback is -1"),
        (Configuration(256, value_type="Q5_K"), UsageError, "Known: f32, f16"),
        (Configuration(256, value_type="Q8_0"), UnsupportedError, "heads of 80"),
    ],
)
def test_what_llama_cpp_refuses_is_refused(configuration, error, text):
    with pytest.raises(error, match=text) as caught:
        cache_bytes([LayerCache(0, 160, 160, heads=2)], configuration)
    assert "\n" not in str(caught.value)
