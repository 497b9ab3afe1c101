"""What a way of running a model is worth: quality, speed and context as one number.

Each counts from 0 to 1 and is half at a point that people know: quality where the loss is plain to
see, speed where reading begins to wait, context where a long conversation ends. The product of the
three is the score; an objective raises its own to a power.
"""

from __future__ import annotations

import bisect
import math
from typing import TypeVar

import numpy as np

from snugfit.core import Configuration
from snugfit.errors import UsageError

# One number, or an array of them.
Numbers = TypeVar("Numbers", float, "np.ndarray[tuple[int, ...], np.dtype[np.float64]]")

# Bits a weight -> KL divergence from the original in nats a token: llama.cpp's mixes with
# importance on Llama 3.1 8B, published with ExLlamaV3; Q8_0 from llama.cpp's own table of it.
LOSSES = (
    (1.6, 2.0),
    (2.1, 0.65),
    (2.4, 0.42),
    (2.7, 0.245),
    (3.3, 0.092),
    (3.7, 0.070),
    (4.3, 0.023),
    (4.8, 0.018),
    (5.7, 0.007),
    (6.6, 0.003),
    (8.5, 0.0014),
    (16.0, 0.00001),
)
# What a cache of this type adds, as published for several models of 8B to 35B; more in long texts.
CACHE_LOSSES = {
    "F32": 0.0,
    "F16": 0.0,
    "BF16": 0.0001,
    "Q8_0": 0.004,
    "Q5_1": 0.015,
    "Q5_0": 0.02,
    "Q4_1": 0.05,
    "Q4_0": 0.06,
    "IQ4_NL": 0.06,
}
HALF_LOSS, HALF_TOKENS_PER_S, HALF_CONTEXT = 0.05, 15.0, 4096
# An exchange as people have them: its speed is the answer's tokens over the seconds of both.
PROMPT_TOKENS, ANSWER_TOKENS = 1024, 512
# Name -> powers of quality, speed, context.
OBJECTIVES = {
    "balanced": (1, 1, 1),
    "quality": (4, 1, 1),
    "speed": (1, 4, 1),
    "context": (1, 1, 4),
}


def check_objective(name: str) -> None:
    """Raise UsageError for an objective that there is not."""
    if name not in OBJECTIVES:
        raise UsageError(f"'{name}' is not an objective. Choose one of {', '.join(OBJECTIVES)}.")


def expected_loss(bits_per_weight: float) -> float:
    """Return the KL divergence to expect of a mix, in nats a token: log-linear between LOSSES."""
    if bits_per_weight >= LOSSES[-1][0]:
        return 0.0
    above = max(1, bisect.bisect(LOSSES, (bits_per_weight, math.inf)))
    (low, loss_low), (high, loss_high) = LOSSES[above - 1], LOSSES[above]
    part = (bits_per_weight - low) / (high - low)
    return float(loss_low * (loss_high / loss_low) ** part)


def cache_loss(configuration: Configuration) -> float:
    types = (configuration.kv_type, configuration.value_type or configuration.kv_type)
    return sum(CACHE_LOSSES[name] for name in types) / 2


def quality_value(loss: Numbers) -> Numbers:
    return HALF_LOSS / (HALF_LOSS + loss)


def speed_value(tokens_per_s: Numbers) -> Numbers:
    return tokens_per_s / (tokens_per_s + HALF_TOKENS_PER_S)


def context_value(ctx: Numbers) -> Numbers:
    return ctx / (ctx + HALF_CONTEXT)


def score(objective: str, quality: Numbers, speed: Numbers, context: Numbers) -> Numbers:
    """Return the product of the three values, each to its power in OBJECTIVES."""
    powers = OBJECTIVES[objective]
    return quality ** powers[0] * speed ** powers[1] * context ** powers[2]


def exchange_rate(decode_tokens_per_s: Numbers, prefill_tokens_per_s: Numbers) -> Numbers:
    """Return the tokens a second of an answer, the wait for its first token counted."""
    seconds = PROMPT_TOKENS / prefill_tokens_per_s + ANSWER_TOKENS / decode_tokens_per_s
    return ANSWER_TOKENS / seconds
