"""Proves the loss: perplexity on held-out text, and the distance from the original."""

from __future__ import annotations

from pathlib import Path

from snugfit.archs.decoder import Decoder
from snugfit.archs.tokenizer import tokenizer_of
from snugfit.calibration.corpus import read_text, sequences_of
from snugfit.core import Score
from snugfit.demo import HELD_OUT_TEXT
from snugfit.errors import UsageError
from snugfit.models import Model
from snugfit.scoring import Progress, score

SEQUENCES = 64  # of 512 tokens, of which the second half is scored: 16384 tokens


def evaluate(
    model: Model,
    reference: Model | None = None,
    text: Path | None = None,
    *,
    sequences: int = SEQUENCES,
    progress: Progress | None = None,
) -> Score:
    """Score `model` on a text (default: the held-out one that ships), and against `reference`.

    Both run in the same torch modules, so that only the weights differ. Raises UnsupportedError for
    an architecture without torch definition, UsageError for models of different tokenizers.
    """
    tokens = "tokenizer.ggml.tokens"
    if reference is not None and model.metadata.get(tokens) != reference.metadata.get(tokens):
        raise UsageError(
            f"{model.name} and {reference.name}: different tokenizers; a divergence between them "
            "means nothing. Compare with the model that the file was cut from."
        )
    tokenizer = tokenizer_of(model.metadata)
    ids = sequences_of(read_text(text or HELD_OUT_TEXT), tokenizer, most=sequences)
    decoders = [Decoder(m.metadata, m.shapes, m.load) for m in (model, reference) if m]
    return score(decoders[0], ids, decoders[1] if reference else None, progress)
