"""Caches and states against what the embedded llama.cpp would allocate, asked live, to the byte."""

import sys

import pytest
from shapes import SHAPES, architecture_of, metadata_of, spec_of_shape, tensors_of

from snugfit.archs.cache import cache_bytes, state_bytes
from snugfit.archs.table import ARCHITECTURES
from snugfit.core import Configuration
from snugfit.runtimes.llama_cpp_probe import probe_all, write_sparse
from snugfit.units import MIB

CONFIGURATIONS = (
    Configuration(1000),
    Configuration(3000, slots=3, ubatch=96),
    Configuration(3000, slots=3, ubatch=96, kv_unified=True),
    Configuration(2048, "F32", swa_full=True, flash_attention=False),
    Configuration(1024, "BF16", slots=2, rollback=2),
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="see refuse_other_releases")


def test_every_architecture_has_a_shape_and_the_project_made_up_ten():
    assert {architecture_of(name) for name in SHAPES} == ARCHITECTURES.keys()
    assert sum(":" in name for name in SHAPES) >= 10


@pytest.mark.parametrize("name", SHAPES)
def test_cache_and_state_are_what_the_engine_would_allocate(name, tmp_path):
    spec = spec_of_shape(name)
    assert spec.cache_basis == "exact"
    write_sparse(tmp_path / "header.gguf", metadata_of(name), tensors_of(name))
    for configuration, measured in zip(
        CONFIGURATIONS, probe_all(tmp_path / "header.gguf", CONFIGURATIONS), strict=True
    ):
        state = sum(state_bytes(spec.states, configuration).values())
        caches = sum(cache_bytes(spec.caches, configuration).values())
        assert caches + state == measured.context_bytes
        # The engine prints each buffer of state with two decimals, DeepSeek V4's three of them.
        assert state == pytest.approx(measured.recurrent_state_bytes, abs=0.02 * MIB)


@pytest.mark.parametrize("types", [("Q8_0", "Q4_0"), ("Q4_1", "F16"), ("IQ4_NL", "Q5_1")])
def test_keys_and_values_of_different_types(types, tmp_path):
    configuration = Configuration(600, types[0], value_type=types[1])
    write_sparse(tmp_path / "header.gguf", metadata_of("gemma3"), tensors_of("gemma3"))
    (measured,) = probe_all(tmp_path / "header.gguf", [configuration])
    caches = cache_bytes(spec_of_shape("gemma3").caches, configuration)
    assert sum(caches.values()) == measured.kv_cache_bytes
