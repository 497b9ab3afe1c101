"""Sizes of files from shapes alone, against published tables and files."""

import pytest
from measured_rows import spec_in
from published_sizes import (
    JOINED_BEFORE,
    LESS_EMBEDDING,
    MODELS,
    NO_FILE,
    OTHER_TABLES,
    WIDER_SSM,
    plain_files,
    predicted_bytes,
    published,
    reason_of,
    size_of,
    with_embedding_as_the_rest,
)

from snugfit.archs.catalogue import CATALOGUE

WITHIN = 0.01
PLAIN = [row for row in published() if not reason_of(row)]
EXPLAINED = [row for row in published() if reason_of(row)]


def name_of(row):
    return f"{row['model']}-{row['quantization']}"


@pytest.mark.parametrize("row", [*PLAIN, *plain_files()], ids=name_of)
def test_a_plain_mix_is_predicted_from_shapes(row):
    assert predicted_bytes(row["model"], row["quantization"]) == pytest.approx(
        size_of(row), rel=WITHIN
    )


def test_every_row_is_predicted_or_has_its_reason():
    assert (len(PLAIN), len(EXPLAINED), len(plain_files())) == (8, 43, 17)


@pytest.mark.parametrize(("model", "mix"), JOINED_BEFORE)
def test_a_file_of_before_is_another_today(model, mix):
    rows = [*PLAIN, *plain_files()]
    (row,) = (row for row in rows if (row["model"], row["quantization"]) == (model, mix))
    today = spec_in(MODELS[model], mix).file_bytes
    assert today != pytest.approx(size_of(row), rel=WITHIN)


@pytest.mark.parametrize("row", EXPLAINED, ids=name_of)
def test_a_reason_holds(row):
    """A row is not put aside without need, and what the reason says can be seen in its bytes."""
    model, mix, size = row["model"], row["quantization"], size_of(row)
    reason = reason_of(row)
    if reason in (WIDER_SSM, LESS_EMBEDDING, OTHER_TABLES):
        assert predicted_bytes(model, mix) != pytest.approx(size, rel=WITHIN)
    if reason == LESS_EMBEDDING:
        assert with_embedding_as_the_rest(model, mix) == pytest.approx(size, rel=0.003)
    if reason == NO_FILE:
        official = next(
            other
            for other in published()
            if other["model"] == model and other["quantization"].startswith("FP8")
        )
        assert size / size_of(official) == pytest.approx(int(mix[1:]) / 8, rel=WITHIN)


@pytest.mark.parametrize(
    ("model", "mix", "most_bits"),
    [
        ("Qwen3.6-27B", "Q6_K", 6.5625),
        ("Gemma 4 E2B", "Q6_K", 6.5625),
        ("Gemma 4 E2B", "Q8_0", 8.5),
    ],
)
def test_a_vendor_s_mix_has_more_bits_than_its_name(model, mix, most_bits):
    """All that a plain mix stores in more bits are norms and the like, 0.2 % of the file."""
    (row,) = (r for r in published() if (r["model"], r["quantization"]) == (model, mix))
    tensors = CATALOGUE[MODELS[model]].tensors.values()
    parameters = sum(tensor.parameters for tensor in tensors)
    assert 8 * size_of(row) / parameters > 1.01 * most_bits
