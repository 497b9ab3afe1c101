"""Predictions against what strangers' machines and logs said: tests/data/measured_memory.csv."""

import pytest
from measured_rows import CHECKS, LOGS, PAIRS, ROWS, Measured, figures, predicted, read

from snugfit.units import MIB

TABLES = (("measured_memory.csv", ROWS), ("gpu_logs.csv", LOGS))
COLUMNS = {
    "weights": "model_buf_MiB",
    "context": "kv_buf_MiB",
    "compute": "compute_buf_MiB",
    "total": "total_MiB",
}
COMPARED = [
    pytest.param(check, entry, row, id=f"{name}-{number}-{check}")
    for name, entries in TABLES
    for number, (entry, row) in enumerate(zip(entries, read(name), strict=True), 1)
    if isinstance(entry, Measured)
    for check in entry.checks
]


def allowed(check, entry, measured, text):
    """Return how far off we may be: rounding, the compute band, or 3 % and 300 MiB of a total."""
    if check == "compute":
        return predicted(entry).compute_band * measured
    if check == "total":
        return max(0.03 * measured, 300)
    return 0.02 if "." in text else 1.0  # fit and llama.cpp's tables cut off at whole MiB


@pytest.mark.parametrize(("check", "entry", "row"), COMPARED)
def test_a_public_measurement(check, entry, row):
    text = row[COLUMNS[check]]
    measured = float(text)
    if check == "context" and entry.context_mib:
        measured, text = entry.context_mib, str(entry.context_mib)
    assert figures(entry, row)[check] == pytest.approx(
        measured, abs=allowed(check, entry, measured, text)
    )


@pytest.mark.parametrize(("more", "fewer", "what"), PAIRS)
def test_rows_that_differ_in_one_thing_differ_by_as_much(more, fewer, what):
    rows = read("measured_memory.csv")
    measured = [float(rows[number - 1]["total_MiB"]) for number in (more, fewer)]
    ours = [
        sum(device.total_bytes for device in predicted(ROWS[number - 1]).devices[:-1]) / MIB
        for number in (more, fewer)
    ]
    assert ours[0] - ours[1] == pytest.approx(measured[0] - measured[1], rel=0.03)


def test_every_row_is_compared_or_says_why_not():
    for name, entries in TABLES:
        for entry, row in zip(entries, read(name), strict=True):
            if isinstance(entry, str):
                assert entry
                continue
            given = {check for check in CHECKS if row[COLUMNS[check]]}
            left = given - set(entry.checks) - (set() if entry.mix else {"weights"})
            assert not left or entry.why_not, row
    checks = [check for entry in ROWS if isinstance(entry, Measured) for check in entry.checks]
    assert {check: checks.count(check) for check in CHECKS} == {
        "weights": 7,
        "context": 17,
        "compute": 6,
        "total": 11,
    }
