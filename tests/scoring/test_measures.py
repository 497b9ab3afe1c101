"""Perplexity and divergence against closed forms and torch's own functions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from snugfit.scoring.divergence import agreements, divergences, mean_of, percentile_99
from snugfit.scoring.perplexity import perplexity_of, scored_positions, surprisals

torch.set_num_threads(1)


def log_probabilities(seed: int, tokens: int = 50, vocabulary: int = 300) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(tokens, vocabulary, generator=generator)).log_softmax(-1)


def test_the_second_half_of_a_window_is_scored() -> None:
    positions = list(range(512))[scored_positions(512)]
    assert (positions[0], positions[-1], len(positions)) == (256, 510, 255)


def test_surprisals_are_cross_entropies() -> None:
    predicted, targets = log_probabilities(0), torch.arange(50) * 3
    expected = torch.nn.functional.cross_entropy(predicted, targets, reduction="none")
    found = surprisals(predicted, targets)
    assert found.dtype == np.float64
    assert np.allclose(found, expected.numpy(), rtol=1e-5)


def test_a_uniform_prediction_has_the_vocabulary_as_perplexity() -> None:
    uniform = torch.zeros(20, 64).log_softmax(-1)
    perplexity, error = perplexity_of(surprisals(uniform, torch.arange(20)))
    assert perplexity == pytest.approx(64, rel=1e-6)
    assert error == pytest.approx(0, abs=1e-4)


def test_perplexity_s_error_is_llama_perplexity_s() -> None:
    values = np.array([0.5, 1.0, 2.0, 4.5])
    mean, mean_square = values.mean(), (values**2).mean()
    # As the tool computes it: sqrt((E[x^2] - E[x]^2) / (n - 1)), times the perplexity.
    expected = math.exp(mean) * math.sqrt((mean_square - mean**2) / 3)
    assert perplexity_of(values) == (pytest.approx(math.exp(2)), pytest.approx(expected))
    assert perplexity_of(values[:1]) == (pytest.approx(math.exp(0.5)), 0)
    assert perplexity_of(np.array([1e4]))[0] == math.inf


def test_divergences_are_torch_s() -> None:
    reference, candidate = log_probabilities(1), log_probabilities(2)
    expected = torch.nn.functional.kl_div(
        candidate.double(), reference.double(), reduction="none", log_target=True
    ).sum(-1)
    found = divergences(reference, candidate)
    assert found.dtype == np.float64
    assert np.allclose(found, expected.numpy(), rtol=1e-5)
    assert np.array_equal(divergences(reference, reference), np.zeros(50))
    assert not np.allclose(found, divergences(candidate, reference), rtol=0.01)


def test_divergence_of_two_coins() -> None:
    reference = torch.tensor([[0.5, 0.5]]).log()
    candidate = torch.tensor([[0.25, 0.75]]).log()
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert divergences(reference, candidate)[0] == pytest.approx(expected, rel=1e-6)


def test_agreement_is_of_the_likeliest_token() -> None:
    reference = torch.tensor([[0.1, 0.9], [0.6, 0.4], [0.7, 0.3]])
    candidate = torch.tensor([[0.4, 0.6], [0.4, 0.6], [0.9, 0.1]])
    assert agreements(reference, candidate).tolist() == [True, False, True]


def test_the_mean_s_error_comes_from_sequences() -> None:
    # Tokens of a sequence alike: an error over the eight tokens would be too small.
    values = np.repeat([[1.0], [2.0], [3.0], [6.0]], 2, axis=1)
    spread = math.sqrt((4 + 1 + 0 + 9) / 3)
    assert mean_of(values) == (3, pytest.approx(spread / 2))
    assert mean_of(values[:1]) == (1, None)


def test_percentile_is_between_the_nearest_tokens() -> None:
    assert percentile_99(np.arange(101.0).reshape(1, 101)) == pytest.approx(99)
    assert percentile_99(np.array([[0.0, 1.0]])) == pytest.approx(0.99)
