"""The catalogue's shapes against the embedded llama.cpp: it refuses a file whose tensors differ."""

import sys

import numpy as np
import pytest

from snugfit.archs.cache import cache_bytes, state_bytes
from snugfit.archs.catalogue import CATALOGUE
from snugfit.archs.published import ROWS
from snugfit.archs.table import spec_of
from snugfit.core import Configuration
from snugfit.runtimes.llama_cpp_probe import probe_header

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="see refuse_other_releases")
# The last row of each architecture; the others differ in numbers alone.
NAMES = {row.architecture: row.name for row in ROWS}.values()


@pytest.mark.parametrize("name", NAMES)
def test_llama_cpp_takes_the_shapes_and_allocates_our_bytes(name):
    model = CATALOGUE[name]
    tensors = tuple(model.tensors.values())
    configuration = Configuration(4096)
    spec = spec_of(name, model.metadata, tensors, file_bytes=0, header_bytes=0)
    # Keys that the engine asks for, and that no size depends on.
    asked = {
        f"{model.architecture}.logit_scale": np.float32(1),
        f"{model.architecture}.attention.layer_norm_epsilon": np.float32(1e-5),
        "tokenizer.ggml.model": "no_vocab",
    }
    measured = probe_header(name, model.metadata | asked, tensors, configuration)
    kept = sum(cache_bytes(spec.caches, configuration).values())
    kept += sum(state_bytes(spec.states, configuration).values())
    assert kept == measured.context_bytes
