"""Every field of a configuration reaches the embedded engine's own parameters."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import xllamacpp

from snugfit.core import Configuration
from snugfit.runtimes.llama_cpp import child_settings
from snugfit.runtimes.llama_cpp_child import engine_parameters
from snugfit.units import MIB

# Field -> another value than the usual one, the engine's name of it, and what it has there.
FIELDS = {
    "ctx": (1024, "n_ctx", 1024),
    "kv_type": ("Q8_0", "cache_type_k", xllamacpp.ggml_type.GGML_TYPE_Q8_0),
    "value_type": ("Q4_0", "cache_type_v", xllamacpp.ggml_type.GGML_TYPE_Q4_0),
    "slots": (3, "n_parallel", 3),
    "ubatch": (4096, "n_ubatch", 4096),
    "flash_attention": (
        False,
        "flash_attn_type",
        xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED,
    ),
    "gpu_layers": (7, "n_gpu_layers", 7),
    "kv_unified": (True, "kv_unified", True),
    "swa_full": (True, "swa_full", True),
    "expert_cache_bytes": (300 * MIB, "moe_cache_size", 300 * MIB),
}
# These have no value of their own there: see the tests below, and `run`, which drafts nothing.
OTHERS = {"cpu_expert_layers", "gpu_split", "rollback"}


def parameters(**options: object) -> xllamacpp.CommonParams:
    configuration = Configuration(**({"ctx": 512} | options))  # type: ignore[arg-type]
    return engine_parameters(xllamacpp, child_settings(Path("model.gguf"), configuration, None))


def test_no_field_is_forgotten() -> None:
    fields = {field.name for field in dataclasses.fields(Configuration)}
    assert fields == set(FIELDS) | OTHERS


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_reaches_the_engine(field: str) -> None:
    value, name, expected = FIELDS[field]
    assert getattr(parameters(**{field: value}), name) == expected
    assert getattr(parameters(), name) != expected


def test_a_split_reaches_the_engine_and_none_is_left_to_it() -> None:
    assert not any(parameters().tensor_split)
    split = parameters(gpu_layers=13, gpu_split=(9, 4)).tensor_split
    assert split[:2] == [9.0, 4.0]
    assert not any(split[2:])


def test_values_are_cached_as_keys_unless_named() -> None:
    assert parameters(kv_type="Q8_0").cache_type_v == xllamacpp.ggml_type.GGML_TYPE_Q8_0
