"""Perplexity of a model on text, over the tokens that llama-perplexity scores."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Doubles = np.ndarray[Any, np.dtype[np.float64]]


def scored_positions(length: int) -> slice:
    """Return the positions of a sequence whose next token is scored: the second half of it.

    llama-perplexity gives each token at least half a window of context (tools/perplexity): of 512
    tokens it scores 255, the predictions made at 256 to 510 of those at 257 to 511.
    """
    return slice(length // 2, length - 1)


def surprisals(log_probabilities: Tensor, targets: Tensor) -> Doubles:
    """Return -log p of each token that came, nats, float64 [tokens].

    `log_probabilities` are float32 [tokens, vocabulary], `targets` the next tokens' ids [tokens].
    """
    found: Doubles = -log_probabilities.gather(-1, targets[:, None])[:, 0].double().numpy()
    return found


def perplexity_of(surprisals: Doubles) -> tuple[float, float]:
    """Return the perplexity and its standard error: exp of the mean surprisal, by the delta method.

    As llama-perplexity has it: the error of the mean, times the perplexity, with tokens taken for
    independent. One token alone has no error; its is given as 0.
    """
    mean = float(surprisals.mean())
    perplexity = math.exp(mean) if mean < 700 else math.inf
    count = surprisals.size
    error = float(surprisals.std()) / math.sqrt(count - 1) if count > 1 else 0.0
    return perplexity, perplexity * error
