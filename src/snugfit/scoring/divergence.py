"""How far a model's predictions are from its original's: KL divergence, token by token."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Doubles = np.ndarray[Any, np.dtype[np.float64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]


def divergences(reference: Tensor, candidate: Tensor) -> Doubles:
    """Return KL(reference || candidate) of each token, nats, float64 [tokens].

    Both are log-probabilities float32 [tokens, vocabulary]. The whole vocabulary counts, where
    llama-perplexity leaves out what the reference gives less than exp(-16).
    """
    terms = reference.exp() * (reference - candidate)
    found: Doubles = terms.double().sum(-1).numpy()
    return found


def agreements(reference: Tensor, candidate: Tensor) -> Flags:
    """Return for each token whether both [tokens, vocabulary] have the same likeliest one."""
    found: Flags = (reference.argmax(-1) == candidate.argmax(-1)).numpy()
    return found


def mean_of(divergences: Doubles) -> tuple[float, float | None]:
    """Return the mean of [sequences, tokens] and its standard error over sequences.

    Tokens of one text are not independent, so that an error over tokens, as llama-perplexity has
    it, would be too small; sequences are taken for independent. One sequence has no error.
    """
    by_sequence = divergences.mean(axis=1)
    count = len(by_sequence)
    error = float(by_sequence.std(ddof=1)) / math.sqrt(count) if count > 1 else None
    return float(by_sequence.mean()), error


def percentile_99(divergences: Doubles) -> float:
    """Return the 99th percentile over all tokens, between the two nearest by rank."""
    return float(np.percentile(divergences, 99))
