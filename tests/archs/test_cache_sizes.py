"""Cache bytes against what llama.cpp allocated for the same headers."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from snugfit.archs.cache import AttentionShape, cache_bytes, grouped_query, total_cells
from snugfit.archs.table import spec_of
from snugfit.core import Configuration, LayerCache, ModelSpec
from snugfit.errors import UnsupportedError, UsageError
from snugfit.formats.gguf import read_gguf
from snugfit.units import MIB

DATA = Path(__file__).parents[1] / "data"
MODELS = ("Llama-3.3-70B", "Qwen3-30B-A3B")
ROWS = [
    row
    for row in csv.DictReader((DATA / "llama_cpp_cache_sizes.csv").read_text().splitlines())
    if row["model"] in MODELS
]


@pytest.fixture(scope="module")
def specs() -> dict[str, ModelSpec]:
    found = {}
    for name in MODELS:
        file = read_gguf(DATA / f"headers/{name}.gguf")
        found[name] = spec_of(
            name,
            file.metadata,
            tuple(file.tensors.values()),
            file_bytes=file.file_bytes,
            header_bytes=file.header_bytes,
        )
    return found


def test_every_row_is_checked():
    assert len(ROWS) == 24
    assert {row["flash_attn"] for row in ROWS} == {"on", "off"}


@pytest.mark.parametrize(
    "row",
    ROWS,
    ids=lambda row: "-".join(
        row[key] for key in ("model", "n_ctx", "kv_type", "n_seq", "n_ubatch")
    ),
)
def test_cache_equals_llama_cpp(specs, row):
    configuration = Configuration(
        ctx=int(row["n_ctx"]),
        kv_type=row["kv_type"].upper(),
        slots=int(row["n_seq"]),
        ubatch=int(row["n_ubatch"]),
        flash_attention=row["flash_attn"] == "on",
    )
    for kv_unified in (False, True):
        sizes = cache_bytes(
            specs[row["model"]].caches, replace(configuration, kv_unified=kv_unified)
        )
        assert sum(sizes.values()) == float(row["kv_MiB"]) * MIB
        assert len(sizes) == specs[row["model"]].layers


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


def test_layers_without_key_heads_keep_nothing():
    assert grouped_query(AttentionShape((2, 0, 4), 64, 32)) == (
        LayerCache(0, 128, 64, 2),
        LayerCache(2, 256, 128, 4),
    )


@pytest.mark.parametrize(
    ("configuration", "error", "text"),
    [
        (Configuration(256, "Q4_K"), UsageError, "Known: f32, f16"),
        (Configuration(256, "Q8_0", flash_attention=False), UsageError, "flash attention"),
        (Configuration(256, "Q8_0"), UnsupportedError, "heads of 80"),
        (Configuration(0), UsageError, "context is 0"),
        (Configuration(256, slots=0), UsageError, "slots is 0"),
    ],
)
def test_what_llama_cpp_refuses_is_refused(configuration, error, text):
    with pytest.raises(error, match=text) as caught:
        cache_bytes([LayerCache(0, 160, 160, heads=2)], configuration)
    assert "\n" not in str(caught.value)
