"""The main job from end to end: plan, calibrate, cut to size, prove the loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from snugfit.archs.decoder_rows import DECODERS
from snugfit.calibrate import calibrate
from snugfit.core import Machine, Plan, Score
from snugfit.errors import SnugfitError, UnsupportedError
from snugfit.evaluate import evaluate
from snugfit.formats.imatrix import Importance, read_imatrix
from snugfit.mixes import chosen_types, importance_for
from snugfit.models import Model, open_model
from snugfit.planning.axes import Goal
from snugfit.planning.search import choose
from snugfit.quantize import Written, quantize
from snugfit.quants.codecs import Quality
from snugfit.quants.recipes import RECIPES
from snugfit.quants.types import TYPES

# Called with the name of the stage, how much of it is done, and how much there is.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Fitted:
    """A finished fit: what was planned, what was written, how good it is."""

    plan: Plan
    written: Written
    score: Score | None

    @property
    def as_predicted(self) -> bool:
        return self.written.file_bytes == self.plan.file_bytes


def can_measure(model: Model) -> bool:
    """Return whether the model can be calibrated and scored here: torch has its layers."""
    return model.metadata.get("general.architecture") in DECODERS


def given_importance(model: Model, plan: Plan, imatrix: Path | None) -> Importance | None:
    """Return the importance of a file, or None where it is to be measured or is not needed.

    Raises UnsupportedError where there is no file and it cannot be, FormatError for another
    model's file.
    """
    if imatrix is not None:
        return importance_for(model, read_imatrix(imatrix))
    if can_measure(model) or not _quantizes(model, plan):
        return None
    raise UnsupportedError(
        f"{model.name}: {model.metadata.get('general.architecture')} models cannot be calibrated "
        f"here; {', '.join(DECODERS)} can. Add --imatrix FILE, which llama-imatrix makes of what "
        "snugfit convert writes, or use snugfit quantize."
    )


def plan_fit(model: Model, machine: Machine, goal: Goal) -> Plan:
    """Return the plan that `fit` would carry out. Raises BudgetError if nothing fits."""
    return choose(model.spec(), machine, goal)


def fit(
    model: Model,
    plan: Plan,
    out: Path,
    *,
    importance: Importance | None = None,
    text: Path | None = None,
    held_out: Path | None = None,
    threads: int = 0,
    quality: Quality = "fast",
    score: bool = True,
    progress: Progress | None = None,
) -> Fitted:
    """Cut `model` as `plan` says, to exactly the bytes it says, and score the file.

    Without `importance` the model is calibrated on `text`. The file appears whole or not at all.
    Raises what calibrating, quantizing and evaluating raise.
    """
    report = progress or (lambda stage, done, total: None)
    if importance is not None:
        _check_covered(model, plan, importance)
    elif _quantizes(model, plan):
        importance = calibrate(model, text, progress=lambda *at: report("calibrating", *at))
    written = quantize(
        model,
        out,
        plan.tensor_types,
        mix=plan.mix,
        importance=importance,
        threads=threads,
        quality=quality,
        progress=lambda *at: report("quantizing", *at),
    )
    if written.file_bytes != plan.file_bytes:
        raise SnugfitError(
            f"{out}: {written.file_bytes} bytes written, {plan.file_bytes} predicted. "
            "This is a fault of snugfit; please report it with the model's name."
        )
    proof = None
    if score:
        proof = evaluate(
            open_model(str(out)), model, held_out, progress=lambda *at: report("evaluating", *at)
        )
    return Fitted(plan, written, proof)


def _quantizes(model: Model, plan: Plan) -> bool:
    """Return whether a tensor gets a quantized type that it has not."""
    return any(
        TYPES[given].is_quantized and given != model.tensors[name].type_name
        for name, given in plan.tensor_types.items()
    )


def _check_covered(model: Model, plan: Plan, importance: Importance) -> None:
    """Raise UnsupportedError where tensors lack importance that their planned types need.

    Other types would not have the planned bytes.
    """
    if plan.mix not in RECIPES:
        return
    replaced = chosen_types(model, plan.mix, importance=importance).replaced
    if replaced:
        name, (wanted, _) = next(iter(replaced.items()))
        raise UnsupportedError(
            f"{model.name}: {len(replaced)} tensors have no importance, without which {wanted} is "
            f"garbage, first {name}. Use snugfit quantize, which gives them other types, or a "
            "larger --size."
        )
