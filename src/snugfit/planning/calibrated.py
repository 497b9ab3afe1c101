"""Paces out of timings: what each type, layer and look of attention takes on one memory.

Decoding is a sum of what is read and done, each times its own seconds, so that timings of a few
models that differ in one thing each are a linear system. Prompts follow one by one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from snugfit.archs.cache import padded_cells
from snugfit.core import Machine, ModelSpec
from snugfit.hardware import calibration
from snugfit.hardware.calibration import Calibration
from snugfit.planning.pace import Pace, paces_of
from snugfit.planning.speed import PLAIN_TENSORS, Reads, reads_of
from snugfit.quants.types import TYPES

# Beyond the fit's own residuals: other shapes, and a machine that is never twice the same.
LEAST_BAND, MOST_BAND, LEAST_PREFILL_BAND = 0.15, 1.0, 0.25
BANDS_OF_SCATTER = 1.6  # nine of ten runs, where they scatter normally
# Faster than this is not seen in the timings: attention that hides behind the reading.
FASTEST_OPERATIONS = 1e16
# A type that was not measured takes as long for a weight as one of its kind that was.
LIKE: Mapping[str, tuple[str, ...]] = {
    "BF16": ("F16",),
    "F16": ("BF16",),
    "Q4_1": ("Q5_K", "Q4_0"),
    "Q5_0": ("Q5_K", "Q8_0"),
    "Q5_1": ("Q5_K", "Q8_0"),
    "IQ4_NL": ("Q4_0", "IQ4_XS"),
    "IQ4_XS": ("Q4_K",),
    "MXFP4": ("Q4_0", "IQ4_XS"),
    "NVFP4": ("MXFP4", "IQ4_XS"),
    "Q5_K": ("Q6_K",),
    "Q6_K": ("Q5_K", "Q8_0"),
    "Q4_0": ("Q4_K",),
    "Q3_K": ("Q2_K", "Q4_K"),
    "Q2_K": ("Q3_K", "Q4_K"),
    "IQ3_S": ("IQ3_XXS", "IQ2_XS"),
    "IQ3_XXS": ("IQ3_S", "IQ2_XS"),
    "IQ2_S": ("IQ2_XS", "IQ3_S"),
    "IQ2_XXS": ("IQ2_XS", "IQ3_S"),
    "IQ2_XS": ("IQ2_XXS", "IQ3_S"),
    "IQ1_S": ("IQ2_XS", "IQ3_S"),
    "IQ1_M": ("IQ2_XS", "IQ3_S"),
    "TQ1_0": ("Q2_K",),
    "TQ2_0": ("Q2_K",),
    "Q1_0": ("Q2_K",),
    "Q2_0": ("Q2_K",),
}


@dataclass(frozen=True)
class Sample:
    """Timings of one model at one fill of its cache, seconds."""

    spec: ModelSpec
    filled: int
    token_seconds: tuple[float, ...]  # one a repetition
    prompt_tokens: int = 0
    prompt_seconds: tuple[float, ...] = ()

    @property
    def reads(self) -> Reads:
        types = {tensor.name: tensor.type_name for tensor in self.spec.tensors}
        sizes = {tensor.name: tensor.size_bytes for tensor in self.spec.tensors}
        return reads_of(self.spec, types, sizes)

    @property
    def is_long(self) -> bool:
        """Whether it was timed for attention, which a few tokens of context do not show."""
        return self.filled >= 1024


def quiet(seconds: Sequence[float]) -> float:
    """Return the lowest tenth: others on a machine only ever make a run slower, at times a hundred
    times where threads wait for each other, and one lucky run is no measure either.
    """
    return float(np.quantile(seconds, 0.1))


def terms_of(sample: Sample) -> dict[str, float]:
    """Return how much of everything one decoded token of a model takes: its row of the system."""
    reads, caches = sample.reads, sample.spec.caches
    cells = padded_cells(sample.filled + 1)  # attention looks at the empty ones of a step too
    terms: dict[str, float] = {
        "token": 1.0,
        "layer": sum(reads.tensors) / PLAIN_TENSORS,
        "expert layer": float(sum(1 for layer in reads.experts if layer)),
        "experts": float(sum(sum(layer.values()) for layer in reads.experts)),
        "score": float(sample.spec.heads * len(caches) * cells),
        "row": float(sum(cache.heads for cache in caches) * cells),
        "attention": float(sum(reads.attention_operations) * cells),
        "cache": float(sum(2 * (c.key_width + c.value_width) for c in caches) * cells),
    }
    for layer in reads.dense:
        for type_name, size in layer.items():
            if type_name != "F32":  # norms and routers, see `plain_bytes`
                terms[f"type {type_name}"] = terms.get(f"type {type_name}", 0.0) + size
    return {name: amount for name, amount in terms.items() if amount}


def plain_bytes(sample: Sample) -> int:
    """Return the bytes of norms and routers: a thousandth, taken to be read at the best rate."""
    return sum(layer.get("F32", 0) for layer in sample.reads.dense)


def solve(rows: Sequence[Mapping[str, float]], seconds: Sequence[float]) -> dict[str, float]:
    """Return the seconds of one unit of each term, none negative, by relative least squares."""
    names = sorted({name for row in rows for name in row})
    matrix = np.array([[row.get(name, 0.0) for name in names] for row in rows])
    matrix /= np.array(seconds)[:, None]  # relative: every model counts alike
    scale = matrix.max(axis=0)
    kept = list(range(len(names)))
    found = np.zeros(len(names))
    while kept:
        part = matrix[:, kept] / scale[kept]
        solution = np.linalg.lstsq(part, np.ones(len(rows)), rcond=None)[0]
        worst = int(np.argmin(solution))
        if solution[worst] >= 0:
            found[kept] = solution / scale[kept]
            break
        del kept[worst]
    return {name: float(value) for name, value in zip(names, found, strict=True)}


def fit(
    samples: Sequence[Sample], *, date: str, read_bytes_per_s: float, expert_type: str = "Q4_K"
) -> Calibration:
    """Return what the samples of one memory say. Of repetitions, the quiet ones are fitted.

    Every type needs a sample, experts of `expert_type` too, and attention one with a long context.
    """
    rows = [terms_of(sample) for sample in samples]
    timed = [quiet(sample.token_seconds) for sample in samples]
    rates = _type_rates(solve(rows, timed))
    plain = [plain_bytes(sample) / max(rates.values()) for sample in samples]
    timed = [max(one - more, one / 2) for one, more in zip(timed, plain, strict=True)]
    found = solve(rows, timed)
    rates = _type_rates(found)
    made = Calibration(
        bytes_per_s=rates,
        operations_per_s=rates,  # until the prompts are looked at
        expert_bytes_per_s=_rate(found.get("experts", 0.0)),
        expert_operations_part=1.0,
        expert_type=expert_type,
        layer_seconds=found.get("layer", 0.0),
        expert_layer_seconds=found.get("expert layer", 0.0),
        token_seconds=found.get("token", 0.0),
        cache_bytes_per_s=_rate(found.get("cache", 0.0)),
        score_seconds=found.get("score", 0.0),
        row_seconds=found.get("row", 0.0),
        attention_operations_per_s=_rate(found.get("attention", 0.0)),
        prompt_attention_operations_per_s=FASTEST_OPERATIONS,
        band=_band(rows, samples, found),
        prefill_band=LEAST_PREFILL_BAND,
        date=date,
        read_bytes_per_s=read_bytes_per_s,
    )
    return with_prompts(made, samples)


def _type_rates(found: Mapping[str, float]) -> dict[str, float]:
    return {
        name.removeprefix("type "): _rate(seconds)
        for name, seconds in found.items()
        if name.startswith("type ")
    }


def _rate(seconds: float) -> float:
    return min(1 / seconds, FASTEST_OPERATIONS) if seconds > 0 else FASTEST_OPERATIONS


def _band(
    rows: Sequence[Mapping[str, float]], samples: Sequence[Sample], found: Mapping[str, float]
) -> float:
    """Return what nine of ten are off by, relative, of the two halves of each model's repetitions:
    what the fit leaves, and what the machine changes between two passes.
    """
    off = []
    for row, sample in zip(rows, samples, strict=True):
        fitted = sum(found[name] * amount for name, amount in row.items())
        middle = (len(sample.token_seconds) + 1) // 2
        halves = sample.token_seconds[:middle], sample.token_seconds[middle:]
        off += [abs(math.log(quiet(half) / fitted)) for half in halves if half]
    return max(LEAST_BAND, min(math.expm1(float(np.quantile(off, 0.9))), MOST_BAND))


def with_prompts(made: Calibration, samples: Sequence[Sample]) -> Calibration:
    """Return `made` with what the prompts of the samples say of operations a second."""
    rates: dict[str, float] = {}
    expert_rates: list[float] = []
    long = [sample for sample in samples if sample.is_long and sample.prompt_seconds]
    short = [sample for sample in samples if not sample.is_long and sample.prompt_seconds]
    for sample in short:
        names = [name for layer in sample.reads.dense for name in layer if name != "F32"]
        if not sample.spec.experts and names[0] not in rates:  # the wide layers come first
            rates[names[0]] = _operations_rate(made, sample, of_experts=False)
    made = replace(made, operations_per_s=rates or made.operations_per_s)
    expert_rates = [
        _operations_rate(made, sample, of_experts=True) for sample in short if sample.spec.experts
    ]
    if expert_rates and made.expert_type in rates:
        part = float(np.median(expert_rates)) / rates[made.expert_type]
        made = replace(made, expert_operations_part=min(max(part, 0.02), 5.0))
    looked = [_looking_rate(made, sample) for sample in long]
    if looked:
        made = replace(made, prompt_attention_operations_per_s=float(np.median(looked)))
    return made


def _operations_rate(made: Calibration, sample: Sample, *, of_experts: bool) -> float:
    """Return the operations a second of a short prompt's matrices, or of its experts alone."""
    reads, tokens = sample.reads, sample.prompt_tokens
    size = sum(sum(layer.values()) for layer in reads.dense) + sum(reads.all_experts)
    dense = tokens * sum(reads.dense_operations[:-1]) + reads.dense_operations[-1]
    known = size / max(made.bytes_per_s.values()) + len(reads.dense) * made.layer_seconds
    operations = dense
    if of_experts:
        known += dense / made.operations_per_s[made.expert_type]
        operations = tokens * sum(reads.expert_operations)
    return _rate_of(operations, quiet(sample.prompt_seconds), known)


def _looking_rate(made: Calibration, sample: Sample) -> float:
    """Return the operations a second of attention in a long prompt."""
    reads, tokens = sample.reads, sample.prompt_tokens
    dense = tokens * sum(reads.dense_operations[:-1]) + reads.dense_operations[-1]
    rate = made.operations_per_s.get(made.expert_type) or max(made.operations_per_s.values())
    looks = tokens * sum(reads.attention_operations) * sample.filled / 2
    return _rate_of(looks, quiet(sample.prompt_seconds), dense / rate)


def _rate_of(operations: float, seconds: float, known: float) -> float:
    """Return a rate; what is known beside it never takes more than most of the time."""
    return min(max(operations / max(seconds - known, seconds / 4), 1.0), FASTEST_OPERATIONS)


def pace_of(row: Calibration, otherwise: Pace) -> Pace:
    """Return the pace that a row says; what was not measured is as `otherwise` has it."""
    slower = row.correction
    fastest = max(row.bytes_per_s.values())
    most = max(row.operations_per_s.values())
    rates = {name: _like(name, row.bytes_per_s, by_weight=False) for name in TYPES}
    operations = {name: _like(name, row.operations_per_s, by_weight=True) for name in TYPES}
    of_experts = row.expert_bytes_per_s / row.bytes_per_s.get(row.expert_type, fastest)
    spread = math.expm1(BANDS_OF_SCATTER * row.scatter)
    return replace(
        otherwise,
        bytes_per_s=fastest / slower,
        type_parts={name: rate / fastest for name, rate in rates.items() if rate},
        expert_part=min(max(of_experts, 0.05), 2.0),
        cache_bytes_per_s=row.cache_bytes_per_s / slower,
        layer_seconds=row.layer_seconds * slower,
        expert_layer_seconds=row.expert_layer_seconds * slower,
        token_seconds=row.token_seconds * slower,
        score_seconds=row.score_seconds * slower,
        row_seconds=row.row_seconds * slower,
        attention_operations_per_s=row.attention_operations_per_s / slower,
        operations_per_s=most,
        operation_parts={name: rate / most for name, rate in operations.items() if rate},
        expert_operations_part=row.expert_operations_part,
        prompt_attention_operations_per_s=row.prompt_attention_operations_per_s,
        band=max(row.band if len(row.runs) < 4 else LEAST_BAND, min(spread, 1.0)),
        prefill_band=row.prefill_band,
        basis="measured",
    )


def _like(name: str, rates: Mapping[str, float], *, by_weight: bool) -> float:
    """Return the rate of a type or, if it was not measured, what one of its kind implies; or 0.

    A byte holds more weights of one type than of another: operations are counted by weight already.
    """
    if name in rates:
        return rates[name]
    for other in LIKE.get(name, ()):
        if other in rates:
            bits = TYPES[name].bits_per_weight / TYPES[other].bits_per_weight
            return rates[other] * (1.0 if by_weight else bits)
    return 0.0


def paces_of_machine(
    machine: Machine, rows: Mapping[str, Calibration] | None = None, threads: int = 0
) -> tuple[Pace, ...]:
    """Return the pace of every device, RAM last: calibrated here where it was, else typical.

    `rows` are those that `calibration.read` finds, by default. Machines that are only named match
    where processor and GPU are those that were measured.
    """
    if rows is None:  # a machine that is only described was measured nowhere
        rows = calibration.read() if machine.processor else {}
    if not rows:
        return paces_of(machine.devices)
    paces = []
    for device, pace in zip(machine.devices, paces_of(machine.devices), strict=True):
        row = rows.get(calibration.key_of(device, machine.processor, machine.cores, threads))
        paces.append(pace if row is None else pace_of(row, pace))
    return tuple(paces)
