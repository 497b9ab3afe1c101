"""Scores a model on held-out text, alone or against its original, one layer in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from snugfit.archs.decoder import Decoder
from snugfit.core import Score
from snugfit.errors import FormatError, UsageError
from snugfit.scoring.divergence import agreements, divergences, mean_of, percentile_99
from snugfit.scoring.perplexity import perplexity_of, scored_positions, surprisals

if TYPE_CHECKING:
    from torch import Tensor

Progress = Callable[[int, int], None]  # parts done, parts in all; a part is a layer or the head
LOGITS_BYTES = 32 * 2**20  # of one model's logits at a time
SHORTEST = 4  # tokens of a sequence that leave one to score


def score(
    candidate: Decoder,
    sequences: Tensor | np.ndarray[Any, Any],
    reference: Decoder | None = None,
    progress: Progress | None = None,
) -> Score:
    """Score `candidate` on token ids [sequences, length], and against `reference` if there is one.

    The second half of each sequence is scored, llama-perplexity's way. Log-probabilities are
    float32, sums float64. Perplexity's standard error takes tokens for independent, as
    llama-perplexity does; the divergence's takes whole sequences, and is None for one sequence.

    Raises UsageError for sequences too short or models of different vocabularies, FormatError if
    logits are not finite.
    """
    import torch

    sequences = torch.as_tensor(sequences)
    models = [candidate] if reference is None else [candidate, reference]
    _check(models, sequences)
    # The wider model decides how many sequences' hidden states are kept.
    groups = max((model.groups(sequences) for model in models), key=len)
    steps = _Steps(len(groups) * sum(model.layer_count + 1 for model in models), progress)
    tallies = []
    with torch.no_grad():
        for group in groups:
            hidden = [_last_hidden(model, group, steps) for model in models]
            tallies.append(_tally(models, hidden, group))
            steps.advance(len(models))
    return _score_of(tallies, reference is not None)


def _check(models: list[Decoder], sequences: Tensor) -> None:
    if sequences.ndim != 2 or sequences.shape[0] < 1 or sequences.shape[1] < SHORTEST:
        raise UsageError(
            f"sequences {tuple(sequences.shape)}: at least one of {SHORTEST} tokens is needed. "
            "Give a longer text."
        )
    sizes = [model.vocabulary for model in models]
    if len(set(sizes)) > 1:
        raise UsageError(
            f"the model has {sizes[0]} tokens, the reference {sizes[1]}. "
            "Compare a model to the one that it was made from."
        )


def _last_hidden(model: Decoder, group: Tensor, steps: _Steps) -> Tensor:
    """Return what the last layer gives at the positions scored, [sequences, positions, width]."""
    hidden = model.embed(group)
    for index in range(model.layer_count):
        model.advance(index, hidden)
        steps.advance()
    return hidden[:, scored_positions(group.shape[1])].clone()


@dataclass
class _Tally:
    """What the scored tokens of some sequences gave, in runs of positions."""

    sequences: int
    surprisals: list[list[Any]]  # one list a model
    divergences: list[Any] = field(default_factory=list)
    agreements: list[Any] = field(default_factory=list)


def _tally(models: list[Decoder], hidden: list[Tensor], group: Tensor) -> _Tally:
    """Make logits of a chunk of positions at a time: memory holds chunk times vocabulary."""
    positions = scored_positions(group.shape[1])
    targets = group[:, positions.start + 1 : positions.stop + 1]
    tally = _Tally(len(group), [[] for _ in models])
    with ExitStack() as stack:
        heads = [stack.enter_context(model.head()) for model in models]
        for rows, wanted in _chunks(hidden, targets, models[0].vocabulary):
            predicted = [
                head(states).log_softmax(-1) for head, states in zip(heads, rows, strict=True)
            ]
            for kept, log_probabilities in zip(tally.surprisals, predicted, strict=True):
                kept.append(surprisals(log_probabilities, wanted))
            if len(predicted) == 2:
                tally.divergences.append(divergences(predicted[1], predicted[0]))
                tally.agreements.append(agreements(predicted[1], predicted[0]))
    return tally


def _chunks(
    hidden: list[Tensor], targets: Tensor, vocabulary: int
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Yield runs of positions in order: each model's states [positions, width], and targets."""
    flat = [states.flatten(0, 1) for states in hidden]
    step = max(1, LOGITS_BYTES // (4 * vocabulary))
    for first in range(0, targets.numel(), step):
        rows = slice(first, first + step)
        yield [states[rows] for states in flat], targets.flatten()[rows]


def _score_of(tallies: list[_Tally], has_reference: bool) -> Score:
    own = _joined(tallies, lambda tally: tally.surprisals[0])
    perplexity, error = perplexity_of(own)
    if not has_reference:
        return Score(own.size, perplexity, error)
    # Sequences are of one length, so that the scored tokens fall into equal rows.
    count = sum(tally.sequences for tally in tallies)
    apart = _joined(tallies, lambda tally: tally.divergences).reshape(count, -1)
    mean, mean_error = mean_of(apart)
    return Score(
        own.size,
        perplexity,
        error,
        perplexity_of(_joined(tallies, lambda tally: tally.surprisals[1]))[0],
        mean,
        mean_error,
        percentile_99(apart),
        float(_joined(tallies, lambda tally: tally.agreements).mean()),
    )


def _joined(tallies: list[_Tally], pick: Callable[[_Tally], list[Any]]) -> np.ndarray[Any, Any]:
    joined = np.concatenate([part for tally in tallies for part in pick(tally)])
    if not np.isfinite(joined).all():
        raise FormatError(
            "the logits are not finite; the weights are damaged. Make the file again."
        )
    return joined


@dataclass
class _Steps:
    """Counts parts and tells the caller."""

    total: int
    progress: Progress | None
    done: int = 0

    def advance(self, parts: int = 1) -> None:
        self.done += parts
        if self.progress:
            self.progress(self.done, self.total)
