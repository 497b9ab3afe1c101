"""Compute buffers against what the embedded llama.cpp would allocate on the CPU, asked live."""

import sys

import pytest
from shapes import PUBLISHED, metadata_of, spec_of_shape, tensors_of

from snugfit.core import Configuration
from snugfit.hardware.detect import machine_of
from snugfit.planning.memory import predict
from snugfit.runtimes.llama_cpp_probe import probe_all, write_sparse
from snugfit.units import GIB

RAM_ONLY = machine_of([], 1024 * GIB)
CONFIGURATIONS = (
    Configuration(4096),
    Configuration(32768, "Q8_0"),
    Configuration(32768, ubatch=2048),
    Configuration(32768, flash_attention=False),
    Configuration(32768, slots=4, kv_unified=True),
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="see refuse_other_releases")


@pytest.mark.parametrize("name", PUBLISHED)
def test_compute_buffer_is_within_its_band(name, tmp_path):
    spec = spec_of_shape(name)
    write_sparse(tmp_path / "header.gguf", metadata_of(name), tensors_of(name))
    for configuration, measured in zip(
        CONFIGURATIONS, probe_all(tmp_path / "header.gguf", CONFIGURATIONS), strict=True
    ):
        use = predict(spec, configuration, RAM_ONLY)
        assert use.kv_cache_bytes + use.recurrent_state_bytes == measured.context_bytes
        assert use.compute_bytes == pytest.approx(measured.compute_bytes, rel=use.compute_band)
