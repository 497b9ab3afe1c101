"""quality="best" against ggml and against the fast kernels, by llama.cpp's very weights."""

from __future__ import annotations

import ggml_library
import numpy as np
import pytest
from ggml_rows import COLUMNS, KINDS, ggml_costs, importance_of, rows_of
from numpy.typing import NDArray

from snugfit.quants import _native
from snugfit.quants.codecs import dequantize_rows, quantize_rows

NAMES = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"]
# Elsewhere nearly all of the error is rounding that no search avoids.
GAINS = ("gaussian", "laplace", "heavy tail", "demo model")


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "importance"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_best_loses_less_than_ggml_and_no_more_than_fast(
    name: str, kind: str, weighted: bool
) -> None:
    rows = rows_of(kind)
    importance = importance_of(COLUMNS) if weighted else None
    costs = ggml_costs(rows, name, importance)

    def error(blocks: NDArray[np.uint8]) -> float:
        return float((costs * (dequantize_rows(blocks, name).astype(np.float64) - rows) ** 2).sum())

    best = error(quantize_rows(rows, name, importance, quality="best"))
    ggml = error(ggml_library.quantize(rows, name, importance))
    fast = error(quantize_rows(rows, name, importance))
    # Block costs are compared as floats.
    assert best <= fast * (1 + 1e-6)
    assert best <= ggml * (0.97 if kind in GAINS else 1)


@pytest.mark.parametrize("name", NAMES)
def test_best_bytes_depend_on_neither_threads_nor_instruction_set(name: str) -> None:
    rows = np.concatenate([rows_of("heavy tail")[:5], rows_of("tiny")[:3]])[:, :768]
    importance = importance_of(COLUMNS)[:768]

    def blocks(threads: int) -> NDArray[np.uint8]:
        given = (None, importance)
        return np.stack([quantize_rows(rows, name, part, threads, "best") for part in given])

    expected = blocks(1)
    assert (blocks(3) == expected).all()
    chosen = _native.instruction_set()
    try:
        for instruction_set in _native.instruction_sets():
            _native.use_instruction_set(instruction_set)
            assert (blocks(1) == expected).all()
    finally:
        _native.use_instruction_set(chosen)


@pytest.mark.parametrize("power", [-40, -20, -9, 3, 8, 19, 38])
@pytest.mark.parametrize("name", NAMES)
def test_best_gives_finite_weights_of_any_magnitude(name: str, power: int) -> None:
    rows = np.random.default_rng(9).uniform(-1, 1, (2, 512)) * 10.0**power
    for importance in (None, np.geomspace(1e-30, 1e30, 512)):
        blocks = quantize_rows(rows, name, importance, quality="best")
        assert np.isfinite(dequantize_rows(blocks, name)).all()
