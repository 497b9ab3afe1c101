"""Measures which weights matter: the model runs over text, a layer in memory at a time."""

from __future__ import annotations

from pathlib import Path

from snugfit.archs.decoder import Decoder
from snugfit.archs.tokenizer import tokenizer_of
from snugfit.calibration.corpus import read_text, sequences_of
from snugfit.calibration.importance import Progress, measure
from snugfit.demo import CALIBRATION_TEXT
from snugfit.formats.imatrix import Importance
from snugfit.models import Model

SEQUENCES = 128  # of 512 tokens; llama-imatrix's users take 100 to 200 chunks


def calibrate(
    model: Model,
    text: Path | None = None,
    *,
    sequences: int = SEQUENCES,
    progress: Progress | None = None,
) -> Importance:
    """Return the importance of every matrix of `model` on a text (default: the one that ships).

    Raises UnsupportedError for an architecture without torch definition, FormatError for damaged
    weights, UsageError for a text shorter than one sequence.
    """
    text = text or CALIBRATION_TEXT
    ids = sequences_of(read_text(text), tokenizer_of(model.metadata), most=sequences)
    decoder = Decoder(model.metadata, model.shapes, model.load)
    return measure(decoder, ids, progress, datasets=(text.name,))
