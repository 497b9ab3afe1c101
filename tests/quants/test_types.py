"""Sizes against gguf and ggml; fields against what ggml makes of a bit flipped in each."""

from __future__ import annotations

import json
from pathlib import Path

import ggml_library
import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from snugfit.errors import UnsupportedError
from snugfit.quants.types import TYPE_OF_ID, TYPES, type_named

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "golden_blocks.json").read_text())[
    "types"
]

# How many weights one bit of a field can change. Fields that reach a whole block are left out.
REACH = {
    "Q4_0": {"qs": 1},
    "Q4_1": {"qs": 1},
    "Q5_0": {"qh": 1, "qs": 1},
    "Q5_1": {"qh": 1, "qs": 1},
    "Q8_0": {"qs": 1},
    "Q2_K": {"scales": 16, "qs": 1},
    "Q3_K": {"hmask": 1, "qs": 1, "scales": 16},
    "Q4_K": {"scales": 32, "qs": 1},
    "Q5_K": {"scales": 32, "qh": 1, "qs": 1},
    "Q6_K": {"ql": 1, "qh": 1, "scales": 16},
    "IQ2_XXS": {"qs": 32},
    "IQ2_XS": {"qs": 8, "scales": 16},
    "IQ2_S": {"qs": 8, "qh": 8, "scales": 16},
    "IQ3_XXS": {"qs": 32},
    "IQ3_S": {"qs": 4, "qh": 4, "signs": 1, "scales": 32},
    "IQ1_S": {"qs": 8, "qh": 32},
    "IQ1_M": {"qs": 8, "qh": 8},
    "IQ4_NL": {"qs": 1},
    "IQ4_XS": {"scales_h": 32, "scales_l": 32, "qs": 1},
    "TQ1_0": {"qs": 5, "qh": 4},
    "TQ2_0": {"qs": 1},
    "MXFP4": {"qs": 1},
    "NVFP4": {"d": 16, "qs": 1},
    "Q1_0": {"qs": 1},
    "Q2_0": {"qs": 1},
}


def golden_block(name: str) -> NDArray[np.uint8]:
    """Return the first golden block of a type, a copy, uint8 [block_bytes]."""
    data = bytes.fromhex(GOLDEN[name]["blocks"])[: TYPES[name].block_bytes]
    return np.frombuffer(data, np.uint8).copy()


def changes_of(name: str, field: str) -> NDArray[np.float32]:
    """Flip each bit of a field in turn; return how ggml's weights change, [bits, weights]."""
    block = golden_block(name)
    before = ggml_library.dequantize(block, name)
    dtype, start = TYPES[name].block.fields[field][:2]
    changes = []
    for byte in range(start, start + dtype.itemsize):
        for bit in range(8):
            block[byte] ^= 1 << bit
            changes.append(np.nan_to_num(ggml_library.dequantize(block, name), nan=9e9) - before)
            block[byte] ^= 1 << bit
    return np.array(changes)


@pytest.mark.parametrize("name", TYPES)
def test_sizes_are_those_of_ggml(name: str) -> None:
    type_ = TYPES[name]
    ggml = ggml_library.library()
    assert ggml.ggml_type_size(type_.id) == type_.block_bytes
    assert ggml.ggml_blck_size(type_.id) == type_.block_weights
    assert ggml.ggml_row_size(type_.id, 4096) == type_.row_bytes(4096)


@pytest.mark.parametrize("quant", gguf.GGML_QUANT_SIZES, ids=lambda quant: quant.name)
def test_sizes_are_those_of_gguf(quant: gguf.GGMLQuantizationType) -> None:
    type_ = TYPES[quant.name]
    assert type_.id == quant.value
    expected = (32, 36) if quant.name == "Q8_1" else gguf.GGML_QUANT_SIZES[quant]
    assert (type_.block_weights, type_.block_bytes) == expected


def test_types_missing_in_gguf_are_known() -> None:
    assert set(TYPES) - {quant.name for quant in gguf.GGML_QUANT_SIZES} == {"Q2_0"}
    assert TYPE_OF_ID[42] is TYPES["Q2_0"]


@pytest.mark.parametrize("name", REACH)
def test_a_bit_of_a_field_reaches_as_many_weights_as_the_field_serves(name: str) -> None:
    found = {
        field: int((changes_of(name, field) != 0).sum(axis=1).max())
        for field in TYPES[name].block.names or ()
    }
    for field, reach in REACH[name].items():
        # The last sign of eight follows from the others, which may leave a weight as it is.
        assert reach - 1 <= found.pop(field) <= reach, field
    for field, reach in found.items():
        assert reach > 0.4 * TYPES[name].block_weights, field


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("Q3_K", "qs", "hmask"),
        ("Q5_0", "qs", "qh"),
        ("Q5_1", "qs", "qh"),
        ("Q5_K", "qs", "qh"),
        ("Q6_K", "ql", "qh"),
    ],
)
def test_high_bits_change_more_than_low_bits(name: str, low: str, high: str) -> None:
    assert np.abs(changes_of(name, high)).max() > np.abs(changes_of(name, low)).max()


@pytest.mark.parametrize("name", ["Q4_1", "Q5_1", "Q2_K", "Q4_K", "Q5_K"])
def test_without_d_only_the_offsets_are_left(name: str) -> None:
    raw = golden_block(name)
    raw.view(TYPES[name].block)["d"] = 0
    runs = ggml_library.dequantize(raw, name).reshape(-1, 16)
    assert (runs == runs[:, :1]).all()
    assert (runs != 0).any()


def test_a_row_that_blocks_do_not_fill_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="multiple of 256"):
        TYPES["Q4_K"].row_bytes(704)


def test_names_are_found_in_any_case() -> None:
    assert type_named("q4_k") is TYPES["Q4_K"]
    with pytest.raises(UnsupportedError, match="Q4_K"):
        type_named("Q4_K_M")
