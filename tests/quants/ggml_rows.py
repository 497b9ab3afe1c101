"""Rows to quantize, and what an error of each weight counts in ggml's own quantizers."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from snugfit.models import open_model

Rows = NDArray[np.float32]
Costs = NDArray[np.float64]

COLUMNS, N_ROWS = 1024, 24
# ggml stops without importance here; ours counts all columns alike.
REFUSED_WITHOUT_IMPORTANCE = ("IQ1_S", "IQ2_XXS", "IQ2_XS")

KINDS: dict[str, Callable[[np.random.Generator], NDArray[np.float64]]] = {
    "gaussian": lambda random: random.normal(0, 0.02, (N_ROWS, COLUMNS)),
    "laplace": lambda random: random.laplace(0, 0.02, (N_ROWS, COLUMNS)),
    "heavy tail": lambda random: 0.02 * random.standard_t(3, (N_ROWS, COLUMNS)),
    "shifted": lambda random: random.normal(0.05, 0.02, (N_ROWS, COLUMNS)),
    "tiny": lambda random: random.normal(0, 1e-5, (N_ROWS, COLUMNS)),
    "constant": lambda random: np.repeat(random.normal(0, 0.02, (N_ROWS, 1)), COLUMNS, axis=1),
    "zeros": lambda random: np.zeros((N_ROWS, COLUMNS)),
    "one outlier": lambda random: with_outlier(random, random.normal(0, 0.02, (N_ROWS, COLUMNS))),
    "outlier a block": lambda random: with_outliers(random),
    "one weight": lambda random: with_outlier(random, np.zeros((N_ROWS, COLUMNS))),
    "demo model": lambda random: demo_rows(),
}


def rows_of(kind: str) -> Rows:
    """Return rows of one kind, float32 [n_rows, COLUMNS]."""
    return KINDS[kind](np.random.default_rng(5)).astype(np.float32)


def with_outlier(random: np.random.Generator, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    rows[np.arange(N_ROWS), random.integers(0, COLUMNS, N_ROWS)] = random.normal(0, 2, N_ROWS)
    return rows


def with_outliers(random: np.random.Generator) -> NDArray[np.float64]:
    """One in every 32 weights."""
    rows, count = random.normal(0, 0.02, (N_ROWS, COLUMNS)), COLUMNS // 32
    ends = random.choice([-1, 1], (N_ROWS, count)) * random.uniform(0.2, 1)
    rows[:, np.arange(0, COLUMNS, 32) + random.integers(0, 32, count)] = ends
    return rows


@lru_cache
def demo_rows() -> NDArray[np.float64]:
    """Every fortieth row or so of the demo model's matrices, cut to COLUMNS."""
    model = open_model("demo")
    parts = []
    for name, tensor in model.tensors.items():
        if len(tensor.shape) == 2:
            weights = model.load(name)[::40].ravel()
            parts.append(weights[: weights.size // COLUMNS * COLUMNS].reshape(-1, COLUMNS))
    return np.concatenate(parts).astype(np.float64)


def importance_of(columns: int) -> Rows:
    """Return uneven importance, as activations have it, float32 [columns]."""
    random = np.random.default_rng(6)
    spread = random.chisquare(1, columns) * np.exp(random.normal(0, 1, columns))
    return spread.astype(np.float32)


def mean_square(x: Costs, group: int) -> Costs:
    means = (x.reshape(len(x), -1, group) ** 2).mean(axis=2)
    return np.repeat(means, group, axis=1)


# What multiplies importance in ggml-quants.c. Its other types take importance as it is, or none.
WITH_IMPORTANCE: dict[str, Callable[[Costs], Costs]] = {
    **dict.fromkeys(
        ("Q4_0", "Q4_1", "Q5_0", "Q5_1"), lambda x: np.sqrt(mean_square(x, x.shape[1]) + x * x)
    ),
    **dict.fromkeys(("Q2_K", "IQ2_XXS", "IQ2_XS"), lambda x: np.sqrt(mean_square(x, 256) + x * x)),
    **dict.fromkeys(
        ("Q3_K", "Q4_K", "Q5_K", "IQ1_S", "IQ1_M", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"),
        lambda x: np.sqrt(2 * mean_square(x, 256) + x * x),
    ),
    "IQ4_NL": lambda x: np.sqrt(2 * mean_square(x, 32) + x * x),
}
# What an error counts without importance, where not all count alike.
WITHOUT_IMPORTANCE: dict[str, Callable[[Costs], Costs]] = {
    "Q2_K": np.abs,
    **dict.fromkeys(("Q4_K", "Q5_K"), lambda x: np.sqrt(mean_square(x, 32)) + np.abs(x)),
    **dict.fromkeys(("Q3_K", "Q6_K", "IQ1_M", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS"), np.square),
    "IQ2_S": lambda x: 0.5 * mean_square(x, 256) + x * x,
}


def ggml_costs(rows: Rows, type_name: str, importance: Rows | None) -> Costs:
    """Return what a squared error of each weight counts, float64 [n_rows, n_columns]."""
    x = rows.astype(np.float64)
    if importance is None and type_name in REFUSED_WITHOUT_IMPORTANCE:
        importance = np.ones(rows.shape[1], np.float32)
    if type_name == "Q8_0":  # whatever the importance
        return np.ones_like(x)
    if importance is None:
        return WITHOUT_IMPORTANCE.get(type_name, np.ones_like)(x)
    return importance.astype(np.float64) * WITH_IMPORTANCE.get(type_name, np.ones_like)(x)
