"""Two small real models that we trained, and the text to calibrate and to judge them with."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent

# Names that stand for a model wherever a MODEL is taken.
DEMOS: dict[str, Path] = {"demo": _HERE / "dense", "demo-moe": _HERE / "moe"}

# Split by file from the training text: neither was trained on.
CALIBRATION_TEXT = _HERE / "text" / "calibration.txt"
HELD_OUT_TEXT = _HERE / "text" / "held_out.txt"
