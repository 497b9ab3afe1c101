"""Scores of streamed models against computations with the whole model at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny import VOCABULARY, Tiny, tiny_model

from snugfit.archs.decoder import Decoder
from snugfit.errors import FormatError, UsageError
from snugfit.scoring import score

torch.set_num_threads(1)

LENGTH, SCORED = 64, 31


def decoder_of(tiny: Tiny) -> Decoder:
    return Decoder(tiny.metadata, tiny.shapes, tiny.load)


def ids(sequences: int = 5) -> torch.Tensor:
    return torch.randint(
        0, VOCABULARY, (sequences, LENGTH), generator=torch.Generator().manual_seed(4)
    )


def predictions(tiny: Tiny, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probabilities float64 [sequences, positions, vocabulary] of the second half."""
    with torch.no_grad():
        logits = tiny.model(input_ids=tokens).logits
    return logits[:, LENGTH // 2 : -1].double().log_softmax(-1)


@pytest.mark.parametrize("kind", ["qwen3-tied", "qwen3moe"])
def test_scores_are_those_of_whole_models(kind: str) -> None:
    original = tiny_model(kind)
    other = original.perturbed(0.05)
    found = score(decoder_of(other), ids().numpy(), decoder_of(original))
    before, after = predictions(original, ids()), predictions(other, ids())
    targets = ids()[:, LENGTH // 2 + 1 :, None]
    apart = torch.nn.functional.kl_div(after, before, reduction="none", log_target=True).sum(-1)
    assert apart.mean() > 1e-3
    assert found.tokens == 5 * SCORED
    assert found.perplexity == pytest.approx(math.exp(-after.gather(-1, targets).mean()), rel=1e-5)
    assert found.reference_perplexity == pytest.approx(
        math.exp(-before.gather(-1, targets).mean()), rel=1e-5
    )
    assert found.divergence == pytest.approx(float(apart.mean()), rel=1e-4)
    by_sequence = apart.mean(1)
    assert found.divergence_error == pytest.approx(float(by_sequence.std()) / 5**0.5, rel=1e-3)
    assert found.divergence_99 == pytest.approx(float(apart.flatten().quantile(0.99)), rel=1e-3)
    same = before.argmax(-1) == after.argmax(-1)
    assert found.top1_agreement == pytest.approx(float(same.double().mean()))
    assert 0 < found.top1_agreement < 1


def test_a_model_does_not_diverge_from_itself() -> None:
    tiny = tiny_model("llama")
    found = score(decoder_of(tiny), ids(), decoder_of(tiny))
    assert found.divergence == 0
    assert found.divergence_error == 0
    assert found.divergence_99 == 0
    assert found.top1_agreement == 1
    assert found.reference_perplexity == found.perplexity


def test_without_a_reference_there_is_perplexity_alone() -> None:
    tiny = tiny_model("qwen2")
    found = score(decoder_of(tiny), ids())
    targets = ids()[:, LENGTH // 2 + 1 :, None]
    surprisals = -predictions(tiny, ids()).gather(-1, targets).flatten()
    expected = math.exp(surprisals.mean())
    assert found.perplexity == pytest.approx(expected, rel=1e-5)
    error = expected * float(surprisals.std(correction=0)) / math.sqrt(5 * SCORED - 1)
    assert found.perplexity_error == pytest.approx(error, rel=1e-4)
    assert found.divergence is None
    assert found.reference_perplexity is None


def test_neither_chunks_nor_groups_change_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    original = tiny_model("qwen3")
    other = original.perturbed(0.05)
    whole = score(decoder_of(other), ids(), decoder_of(original))
    monkeypatch.setattr("snugfit.archs.decoder.HIDDEN_BYTES", 2 * LENGTH * 256 * 4)
    monkeypatch.setattr("snugfit.scoring.LOGITS_BYTES", 7 * VOCABULARY * 4)
    steps: list[tuple[int, int]] = []
    parts = score(
        decoder_of(other),
        ids(),
        decoder_of(original),
        lambda done, total: steps.append((done, total)),
    )
    assert steps[-1] == (18, 18)  # three groups, two models of two layers and a head
    assert [done for done, _ in steps] == sorted({done for done, _ in steps})
    assert parts.divergence == pytest.approx(whole.divergence, rel=1e-4)
    assert parts.divergence_error == pytest.approx(whole.divergence_error, rel=1e-3)
    assert parts.perplexity == pytest.approx(whole.perplexity, rel=1e-5)


def test_what_cannot_be_scored_is_said() -> None:
    tiny = tiny_model("qwen3")
    with pytest.raises(UsageError, match="at least one of 4 tokens"):
        score(decoder_of(tiny), ids()[:, :3])
    smaller = dict(tiny.tensors)
    for name in ("token_embd.weight", "output.weight"):
        smaller[name] = smaller[name][:-1]
    shapes = {name: array.shape for name, array in smaller.items()}
    other = Decoder(tiny.metadata, shapes, smaller.__getitem__)
    with pytest.raises(UsageError, match="has 320 tokens, the reference 319"):
        score(decoder_of(tiny), ids(), other)
    tiny.tensors["output_norm.weight"][0] = np.nan
    with pytest.raises(FormatError, match="not finite"):
        score(decoder_of(tiny), ids())
