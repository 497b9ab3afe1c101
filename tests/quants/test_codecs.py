"""Codecs against gguf (bits), against ggml (error), and against bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import ggml_library
import gguf
import numpy as np
import pytest
from ggml_rows import COLUMNS, KINDS, ggml_costs, importance_of, rows_of
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from snugfit.errors import FormatError, SnugfitError, UnsupportedError, UsageError
from snugfit.quants import _native
from snugfit.quants.codecs import (
    READABLE,
    can_dequantize,
    can_quantize,
    dequantize_rows,
    quantize_rows,
    requantize_rows,
)
from snugfit.quants.types import TYPES

Rows = NDArray[np.float32]

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "golden_blocks.json").read_text())[
    "types"
]
READ = [name for name in TYPES if name in READABLE]
WRITTEN = [name for name in READ if can_quantize(name)]
QUANTIZED = [name for name in WRITTEN if TYPES[name].is_quantized]


def golden_input() -> tuple[Rows, Rows]:
    """The weights and importance that the golden file's provenance describes."""
    i = np.arange(256, dtype=np.int64)
    weights = ((i * i * 7919 + i * 104729) % 2003 - 1001) / 50000
    return weights.astype(np.float32)[None], (1 + 31 * i % 17).astype(np.float32)


def random_blocks(type_name: str, n_rows: int, n_blocks: int) -> NDArray[np.uint8]:
    """Blocks of random bytes whose 16-bit scales are finite, uint8 [n_rows, row_bytes]."""
    random = np.random.default_rng(7)
    type_ = TYPES[type_name]
    blocks = random.integers(0, 256, (n_rows, n_blocks * type_.block_bytes), np.uint8)
    fields = blocks.reshape(-1, type_.block_bytes).view(type_.block)
    for name in type_.block.names or ():
        if type_.block[name] == np.dtype("<f2"):
            fields[name] = random.normal(0, 1, fields.shape).astype(np.float16)
            fields[name][::5] = np.float16(3e-7)  # subnormal
            fields[name][::7] = np.float16(-0.0)
    return blocks


@pytest.mark.parametrize("name", READ)
def test_dequantize_is_ggml_bit_for_bit(name: str) -> None:
    blocks = random_blocks(name, 7, 9)
    if name in ("Q1_0", "Q2_0"):  # unknown to gguf
        expected = np.stack([ggml_library.dequantize(row, name) for row in blocks])
    else:
        expected = gguf.dequantize(blocks, gguf.GGMLQuantizationType(TYPES[name].id))
    found = dequantize_rows(blocks, name)
    assert found.dtype == np.float32
    assert (found.view(np.uint32) == expected.view(np.uint32)).all()


@pytest.mark.parametrize("name", ["MXFP4", "NVFP4"])
def test_every_small_scale_is_read_bit_for_bit(name: str) -> None:
    type_ = TYPES[name]
    scales = type_.block.names[0] if type_.block.names else ""
    blocks = np.arange(type_.block_bytes * 256, dtype=np.uint8).reshape(256, -1)
    blocks.view(type_.block)[scales] = np.arange(256)[:, None, None]
    expected = np.stack([ggml_library.dequantize(row, name) for row in blocks])
    found = dequantize_rows(blocks, name)
    assert (found.view(np.uint32) == expected.view(np.uint32)).all()


def test_every_half_float_is_read_bit_for_bit() -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    found = dequantize_rows(halves.view(np.uint8)[None], "F16")[0]
    finite = ~np.isnan(halves)
    expected = halves.astype(np.float32)
    assert (found.view(np.uint32) == expected.view(np.uint32))[finite].all()
    assert np.isnan(found[~finite]).all()


@pytest.mark.parametrize("name", [name for name in READ if name in GOLDEN])
def test_golden_blocks(name: str) -> None:
    blocks = np.frombuffer(bytes.fromhex(GOLDEN[name]["blocks"]), np.uint8)
    found = dequantize_rows(blocks[None], name)
    assert found.tobytes().hex() == GOLDEN[name]["values"]


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_blocks_are_what_their_provenance_says(name: str) -> None:
    blocks = np.frombuffer(bytes.fromhex(GOLDEN[name]["blocks"]), np.uint8)
    if not name.startswith("IQ1"):  # ggml takes half a minute to prepare for these
        rows, importance = golden_input()
        assert (ggml_library.quantize(rows, name, importance)[0] == blocks).all()
    assert ggml_library.dequantize(blocks, name).tobytes().hex() == GOLDEN[name]["values"]


@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_plain_types_are_rounded_as_ggml_does(name: str) -> None:
    random = np.random.default_rng(8)
    bits = random.integers(0, 2**32, (8, 4096), dtype=np.uint32)
    rows = bits.view(np.float32)
    largest = 65504 if name == "F16" else 3.3e38
    rows = np.where(np.abs(rows) <= largest, rows, np.float32(0.1))  # and no NaN
    rows[0, :2049] = np.arange(2049) * 2.0**-25  # ties among subnormals
    assert (quantize_rows(rows, name) == ggml_library.quantize(rows, name)).all()


def test_f32_is_copied() -> None:
    rows = rows_of("heavy tail")
    assert (quantize_rows(rows, "F32").view(np.float32) == rows).all()


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "importance"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", QUANTIZED)
def test_error_is_at_most_that_of_ggml(name: str, kind: str, weighted: bool) -> None:
    rows = rows_of(kind)
    importance = importance_of(COLUMNS) if weighted else None
    costs = ggml_costs(rows, name, importance)
    ours = dequantize_rows(quantize_rows(rows, name, importance), name)
    ggmls = dequantize_rows(ggml_library.quantize(rows, name, importance), name)
    our_error = (costs * (ours.astype(np.float64) - rows) ** 2).sum()
    ggml_error = (costs * (ggmls.astype(np.float64) - rows) ** 2).sum()
    assert our_error <= ggml_error


@pytest.mark.parametrize("name", ["Q4_1", "Q5_1"])
def test_blocks_of_two_values_lose_less_to_rounding_than_those_of_ggml(name: str) -> None:
    importance = importance_of(COLUMNS)
    for seed in range(8):
        random = np.random.default_rng(seed)
        rows = np.zeros((16, COLUMNS), np.float32)
        rows[np.arange(16), random.integers(0, COLUMNS, 16)] = random.normal(0, 1, 16)
        costs = ggml_costs(rows, name, importance)
        ours = dequantize_rows(quantize_rows(rows, name, importance), name)
        ggmls = dequantize_rows(ggml_library.quantize(rows, name, importance), name)
        assert (costs * (ours - rows) ** 2).sum() <= (costs * (ggmls - rows) ** 2).sum()


@pytest.mark.parametrize("kind", ["gaussian", "laplace", "heavy tail", "shifted"])
@pytest.mark.parametrize("name", QUANTIZED)
def test_error_is_at_most_that_of_ggml_where_all_weights_count_alike(name: str, kind: str) -> None:
    rows = rows_of(kind)
    ours = dequantize_rows(quantize_rows(rows, name), name)
    ggmls = dequantize_rows(ggml_library.quantize(rows, name), name)
    assert ((ours - rows) ** 2).sum() <= ((ggmls - rows) ** 2).sum()


@pytest.mark.parametrize("name", WRITTEN)
def test_bytes_do_not_depend_on_threads(name: str) -> None:
    rows = rows_of("laplace")[:13]
    importance = importance_of(COLUMNS)
    blocks = quantize_rows(rows, name, importance)
    for threads in (2, 5, 64):
        assert (quantize_rows(rows, name, importance, threads) == blocks).all()
        weights = dequantize_rows(blocks, name, threads)
        assert (weights == dequantize_rows(blocks, name)).all()


@pytest.mark.parametrize("name", WRITTEN)
def test_bytes_do_not_depend_on_the_instruction_set(name: str) -> None:
    rows = np.concatenate([rows_of("heavy tail")[:5], rows_of("tiny")[:3]])[:, :768]
    importance = importance_of(COLUMNS)[:768]
    chosen = _native.instruction_set()
    blocks, weights = [], []
    try:
        for instruction_set in _native.instruction_sets():
            _native.use_instruction_set(instruction_set)
            both = (quantize_rows(rows, name), quantize_rows(rows, name, importance))
            blocks.append(np.concatenate(both))
            weights.append(dequantize_rows(blocks[0], name))
    finally:
        _native.use_instruction_set(chosen)
    assert all((other == blocks[0]).all() for other in blocks)
    assert all((other == weights[0]).all() for other in weights)


@pytest.mark.parametrize("name", WRITTEN)
def test_rows_are_independent(name: str) -> None:
    rows = rows_of("gaussian")[:4]
    rows[1] *= 1e6
    whole = quantize_rows(rows, name, importance_of(COLUMNS))
    for i in range(4):
        assert (quantize_rows(rows[i : i + 1], name, importance_of(COLUMNS)) == whole[i]).all()


@pytest.mark.parametrize("name", QUANTIZED)
def test_importance_of_zeros_is_no_importance(name: str) -> None:
    rows = rows_of("laplace")[:3]
    zeros = np.zeros(COLUMNS, np.float32)
    assert (quantize_rows(rows, name, zeros) == quantize_rows(rows, name)).all()


@pytest.mark.parametrize("name", QUANTIZED)
def test_a_block_without_importance_is_stored_all_the_same(name: str) -> None:
    rows = rows_of("gaussian")[:3]
    importance = importance_of(COLUMNS)
    importance[:256] = 0
    weights = dequantize_rows(quantize_rows(rows, name, importance), name)
    errors = np.abs(weights - rows)[:, :256]
    assert errors.mean() < (0.7 if TYPES[name].bits_per_weight < 4 else 0.15) * np.abs(rows).mean()


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(WRITTEN),
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40),
    st.lists(st.floats(0, width=32, allow_infinity=False), min_size=1, max_size=40),
)
def test_finite_rows_give_finite_weights(
    name: str, values: list[float], importance: list[float]
) -> None:
    rows = np.resize(np.array(values, np.float32), (2, 256))
    for costs in (None, np.resize(np.array(importance), 256)):
        blocks = quantize_rows(rows, name, costs)
        weights = dequantize_rows(blocks, name)
        assert np.isfinite(weights).all()
        fields = blocks.reshape(-1, TYPES[name].block_bytes).view(TYPES[name].block)
        for field in ("d", "m", "dmin"):
            if field in (TYPES[name].block.names or ()):
                assert np.isfinite(fields[field]).all()


@pytest.mark.parametrize(("name", "largest"), [("F16", 65504.0), ("BF16", 0xFF * 2.0**120)])
def test_plain_types_stay_at_their_largest_value(name: str, largest: float) -> None:
    most = float(np.finfo(np.float32).max)
    weights = dequantize_rows(quantize_rows([[most, -most, 1.0001 * 65504]], name), name)
    assert weights[0, :2].tolist() == [largest, -largest]
    assert np.isfinite(weights).all()


@pytest.mark.parametrize("power", [-40, -20, -9, 3, 8, 19, 38])
@pytest.mark.parametrize("name", QUANTIZED)
def test_any_magnitude_gives_finite_weights(name: str, power: int) -> None:
    rows = np.random.default_rng(9).uniform(-1, 1, (2, 512)) * 10.0**power
    for importance in (None, np.geomspace(1e-30, 1e30, 512)):
        assert np.isfinite(dequantize_rows(quantize_rows(rows, name, importance), name)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("threads", [1, 3])
def test_bad_weights_are_refused_with_their_place(bad: float, threads: int) -> None:
    rows = rows_of("gaussian")[:8]
    rows[3, 17] = rows[6, 2] = bad
    with pytest.raises(FormatError, match=r"row 3, column 17 is (not a number|infinite); "):
        quantize_rows(rows, "Q4_K", threads=threads)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_bad_importance_is_refused(bad: float) -> None:
    importance = importance_of(COLUMNS)
    importance[5] = bad
    with pytest.raises(FormatError, match="column 5"):
        quantize_rows(rows_of("gaussian")[:1], "Q4_K", importance)


def test_rows_that_blocks_do_not_fill_are_refused_with_a_remedy() -> None:
    for columns, remedy in ((704, "Use Q5_0"), (100, "Use F16")):
        with pytest.raises(UnsupportedError, match=f"{columns} columns; Q4_K.* 256. {remedy}"):
            quantize_rows(np.zeros((2, columns)), "Q4_K")


def test_types_without_a_kernel_are_refused() -> None:
    assert can_quantize("q4_k")
    assert not can_quantize("Q8_K")
    assert not can_quantize("nonsense")
    for name in ("I8", "Q8_K", "nonsense"):
        with pytest.raises(UnsupportedError, match="Q4_K"):
            quantize_rows(np.zeros((1, 256)), name)
    assert can_dequantize("iq1_s")
    assert not can_dequantize("Q8_K")
    with pytest.raises(UnsupportedError, match="Q8_K cannot be read"):
        dequantize_rows(np.zeros((1, 292), np.uint8), "Q8_K")


def test_grids_of_another_name_or_size_are_refused() -> None:
    with pytest.raises(ValueError, match="no grid iq9"):
        _native.set_grid("iq9", np.zeros(16, np.int8))
    with pytest.raises(ValueError, match="size"):
        _native.set_grid("iq1", np.zeros(15, np.int8))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((np.zeros((1, 256)), "Q8_0", None, 1, "worst"), "no quality 'worst'"),
        ((np.zeros(256), "Q8_0"), "1 dimensions"),
        ((np.zeros((1, 256), np.complex64), "Q8_0"), "complex64"),
        (([["a"]], "F32"), "real numbers"),
        (([[1.0], [1.0, 2.0]], "F32"), "cannot be read"),
        ((np.zeros((1, 256)), "Q8_0", np.ones(255)), "256 columns"),
        ((np.zeros((1, 256)), "Q8_0", np.ones((1, 256))), "256 columns"),
        ((np.zeros((1, 256)), "Q8_0", None, 0), "0 threads"),
    ],
)
def test_wrong_arguments_are_refused(arguments: tuple[object, ...], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        quantize_rows(*arguments)  # type: ignore[arg-type]


def test_wrong_blocks_are_refused() -> None:
    with pytest.raises(FormatError, match="145 bytes is not made of Q4_K blocks, which have 144"):
        dequantize_rows(np.zeros((1, 145), np.uint8), "Q4_K")
    with pytest.raises(UsageError, match="float32"):
        dequantize_rows(np.zeros((1, 144), np.float32), "Q4_K")


@pytest.mark.parametrize("name", WRITTEN)
def test_native_functions_refuse_sizes_that_disagree(name: str) -> None:
    rows = np.zeros((2, 256), np.float32)
    floats = rows.view(np.uint8)
    blocks = np.zeros((2, TYPES[name].row_bytes(256)), np.uint8)
    with pytest.raises(ValueError, match="width"):
        _native.quantize(name, floats, "F32", blocks[:, :-1].copy(), None, False, 1)
    with pytest.raises(ValueError, match="whole blocks"):
        _native.quantize(name, floats[:, :-1].copy(), "F32", blocks, None, False, 1)
    with pytest.raises(ValueError, match="no kernel for Q9_9"):
        _native.quantize(name, floats, "Q9_9", blocks, None, False, 1)
    with pytest.raises(ValueError, match="number"):
        _native.dequantize(name, blocks, rows[:1].copy(), 1)
    with pytest.raises(ValueError, match="importance"):
        _native.quantize(name, floats, "F32", blocks, np.zeros(255, np.float32), False, 1)


def test_other_layouts_are_converted() -> None:
    rows = rows_of("gaussian")[:6]
    expected = quantize_rows(rows, "Q5_K")
    for other in (rows.astype(np.float64), np.asfortranarray(rows), rows.astype(">f4")):
        assert (quantize_rows(other, "Q5_K") == expected).all()
    blocks = expected.copy()
    blocks.setflags(write=False)
    assert (dequantize_rows(blocks, "Q5_K") == dequantize_rows(expected, "Q5_K")).all()


@pytest.mark.parametrize("name", WRITTEN)
def test_16_bit_rows_are_read_as_they_are(name: str) -> None:
    halves = rows_of("laplace")[:5].astype(np.float16)
    expected = quantize_rows(halves.astype(np.float32), name, importance_of(COLUMNS))
    assert (quantize_rows(halves, name, importance_of(COLUMNS), 2) == expected).all()
    brief = quantize_rows(halves, "BF16")
    expected = quantize_rows(dequantize_rows(brief, "BF16"), name)
    assert (requantize_rows(brief, "BF16", name, threads=3) == expected).all()


def test_bfloat_arrays_are_read_as_they_are() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    rows = rows_of("gaussian")[:3].astype(ml_dtypes.bfloat16)
    assert (quantize_rows(rows, "Q4_K") == quantize_rows(rows.astype(np.float32), "Q4_K")).all()


def test_blocks_are_quantized_again_from_any_type() -> None:
    blocks = quantize_rows(rows_of("gaussian")[:3], "Q8_0")
    expected = quantize_rows(dequantize_rows(blocks, "Q8_0"), "Q4_K")
    assert (requantize_rows(blocks, "Q8_0", "Q4_K") == expected).all()
    blocks[1, 34:36] = 0xFF  # the scale of its second block is not a number
    with pytest.raises(FormatError, match="row 1, column 32 is not a number"):
        requantize_rows(blocks, "Q8_0", "Q4_K")
    with pytest.raises(FormatError, match="bytes is not made of Q8_0 blocks"):
        requantize_rows(blocks[:, 1:], "Q8_0", "Q4_K")


def test_no_rows_and_no_columns() -> None:
    assert quantize_rows(np.zeros((0, 256)), "Q4_K").shape == (0, 144)
    assert quantize_rows(np.zeros((3, 0)), "Q4_K", np.zeros(0)).shape == (3, 0)
    assert dequantize_rows(np.zeros((0, 144), np.uint8), "Q4_K").shape == (0, 256)


def test_errors_are_one_line() -> None:
    with pytest.raises(SnugfitError) as caught:
        quantize_rows([[float("nan")]], "F32")
    assert "\n" not in str(caught.value)


def test_the_tables_of_the_i_types_are_loaded_on_first_use() -> None:
    program = (
        "import sys, numpy\n"
        "from snugfit.quants.codecs import dequantize_rows, quantize_rows\n"
        "dequantize_rows(quantize_rows(numpy.ones((1, 256)), 'Q4_K'), 'Q4_K')\n"
        "assert 'gguf' not in sys.modules\n"
        "quantize_rows(numpy.ones((1, 256)), 'IQ4_XS')\n"
        "assert 'gguf' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
