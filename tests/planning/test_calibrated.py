"""The fit: constants that are known come back out of the timings that they make."""

from dataclasses import replace

import numpy as np
import pytest

from snugfit.bench import TYPES_TIMED, UNTIMED, Trial, spec_of_shape, trials_of
from snugfit.core import Configuration, Device, Machine
from snugfit.hardware import calibration
from snugfit.planning.calibrated import (
    LIKE,
    Sample,
    fit,
    pace_of,
    paces_of_machine,
    plain_bytes,
    quiet,
    solve,
    terms_of,
)
from snugfit.planning.memory import footprint_of
from snugfit.planning.pace import typical_pace
from snugfit.planning.speed import reads_of, speed_of
from snugfit.quants.types import TYPES
from snugfit.runtimes.synthetic import Shape
from snugfit.units import GIB, MIB

RAM = Device("RAM", "ram", 64 * GIB, 64 * GIB)
MACHINE = Machine("here", "a processor", 4, (RAM,))
SECONDS = {f"type {name}": 1e-10 * (1 + number) for number, name in enumerate(TYPES_TIMED)} | {
    "experts": 2e-10,
    "layer": 3e-5,
    "expert layer": 2e-5,
    "token": 1e-4,
    "score": 2e-8,
    "row": 7e-8,
    "attention": 1e-10,
    "cache": 4e-10,
}
OTHERS = (
    Shape("Q4_K", 16, 1024, 3072, heads=16, kv_heads=8, vocabulary=32000, output_type="Q6_K"),
    Shape("Q8_0", 24, 768, 2048, heads=12, kv_heads=4, vocabulary=8192),
    Shape("Q4_K", 10, 512, 768, experts=32, experts_used=4, heads=8),
)


def sample_of(trial: Trial, noise: float = 0.0, seed: int = 0) -> Sample:
    sample = Sample(spec_of_shape(trial.shape, trial.name), trial.filled, ())
    seconds = sum(SECONDS[name] * amount for name, amount in terms_of(sample).items())
    seconds += plain_bytes(sample) * min(SECONDS[f"type {name}"] for name in TYPES_TIMED)
    slower = 1 + noise * np.random.default_rng(seed).random(9)
    return replace(sample, token_seconds=tuple(seconds * slower))


def fitted(noise: float = 0.0):
    trials = trials_of(TYPES_TIMED, 96 * MIB)
    samples = [sample_of(trial, noise, number) for number, trial in enumerate(trials)]
    return fit(samples, date="today", read_bytes_per_s=30e9)


def test_constants_that_made_the_timings_are_found():
    row = fitted()
    for name in TYPES_TIMED:
        assert row.bytes_per_s[name] == pytest.approx(1 / SECONDS[f"type {name}"], rel=1e-3)
    assert row.expert_bytes_per_s == pytest.approx(5e9, rel=1e-3)
    assert row.layer_seconds == pytest.approx(3e-5, rel=1e-3)
    assert row.expert_layer_seconds == pytest.approx(2e-5, rel=1e-3)
    assert row.token_seconds == pytest.approx(1e-4, rel=1e-3)
    assert row.score_seconds == pytest.approx(2e-8, rel=1e-3)
    assert row.row_seconds == pytest.approx(7e-8, rel=1e-3)
    assert row.cache_bytes_per_s == pytest.approx(2.5e9, rel=1e-3)
    assert row.attention_operations_per_s == pytest.approx(1e10, rel=1e-3)
    assert row.band == 0.15


@pytest.mark.parametrize("filled", [256, 512, 4096])
@pytest.mark.parametrize("shape", OTHERS, ids=lambda shape: f"{shape.type_name} {shape.experts}")
def test_models_of_other_shapes_are_predicted(shape, filled):
    """The fit and the speed model must count alike: here they meet."""
    spec = spec_of_shape(shape, "other")
    types = {tensor.name: tensor.type_name for tensor in spec.tensors}
    sizes = {tensor.name: tensor.size_bytes for tensor in spec.tensors}
    pace = pace_of(fitted(), typical_pace(RAM))
    speed = speed_of(
        footprint_of(spec), reads_of(spec, types, sizes), Configuration(8192), [RAM], [pace], filled
    )
    true = quiet(sample_of(Trial("other", shape, filled)).token_seconds)
    assert 1 / speed.decode_tokens_per_s.middle == pytest.approx(true, rel=0.01)
    assert speed.basis == "measured"


def test_disturbed_repetitions_move_the_fit_little_and_widen_the_band():
    row = fitted(noise=1.0)  # up to twice as slow
    for name in TYPES_TIMED:
        assert row.bytes_per_s[name] == pytest.approx(1 / SECONDS[f"type {name}"], rel=0.45)
    assert row.band >= 0.15


def test_nothing_takes_less_than_no_time():
    rows = [{"a": 1.0, "b": 1.0}, {"a": 2.0, "b": 1.0}, {"a": 3.0, "b": 1.0}]
    assert solve(rows, [1.0, 3.0, 5.0])["b"] == 0.0
    assert solve(rows, [3.0, 5.0, 7.0]) == pytest.approx({"a": 2.0, "b": 1.0})


def test_prompts_say_operations_by_type():
    trials = trials_of(("Q4_K", "F16", "Q8_0"), 96 * MIB)
    samples = []
    for trial in trials:
        sample = sample_of(trial)
        reads, tokens = sample.reads, 1024 if trial.filled > 16 else 64
        operations = tokens * sum(reads.dense_operations[:-1]) + reads.dense_operations[-1]
        rate = {"Q8_0": 2e11}.get(trial.shape.type_name, 1e11)
        size = sum(sum(layer.values()) for layer in reads.dense) + sum(reads.all_experts)
        seconds = operations / rate
        if trial.filled == 16:
            seconds += size / 1e10 + len(reads.dense) * 3e-5
        else:
            seconds += tokens * sum(reads.attention_operations) * trial.filled / 2 / 4e10
        seconds += tokens * sum(reads.expert_operations) / 5e10
        samples.append(replace(sample, prompt_tokens=tokens, prompt_seconds=(seconds,)))
    row = fit(samples, date="today", read_bytes_per_s=30e9)
    assert row.operations_per_s == pytest.approx(
        {"Q4_K": 1e11, "F16": 1e11, "Q8_0": 2e11}, rel=0.02
    )
    assert row.prompt_attention_operations_per_s == pytest.approx(4e10, rel=0.02)
    assert row.expert_operations_part == pytest.approx(0.5, rel=0.1)


def test_runs_slow_a_pace_down_and_their_scatter_widens_it():
    row, otherwise = fitted(), typical_pace(RAM)
    pace = pace_of(row, otherwise)
    slow = pace_of(replace(row, runs=(1.3,) * 16), otherwise)
    factor = 1.3 ** (16 / 18)
    assert pace.bytes_per_s / slow.bytes_per_s == pytest.approx(factor)
    assert slow.layer_seconds / pace.layer_seconds == pytest.approx(factor)
    assert slow.token_seconds / pace.token_seconds == pytest.approx(factor)
    assert pace_of(replace(row, runs=(0.5, 2.0) * 8), otherwise).band == 1.0


def test_every_type_of_matrices_has_a_rate_from_a_few():
    pace = pace_of(fitted(), typical_pace(RAM))
    matrices = {name for name in TYPES if name not in UNTIMED}
    assert matrices <= set(pace.type_parts) == set(LIKE) | set(TYPES_TIMED)
    per_weight = [pace.type_parts[name] / TYPES[name].bits_per_weight for name in ("Q2_K", "TQ2_0")]
    assert per_weight[0] == pytest.approx(per_weight[1])


def test_paces_are_calibrated_where_the_processor_is_the_one_measured():
    key = calibration.key_of(RAM, MACHINE.processor, MACHINE.cores)
    rows = {key: fitted()}
    assert paces_of_machine(MACHINE, rows)[0].basis == "measured"
    assert paces_of_machine(MACHINE, rows, threads=2)[0].basis == "estimated"
    other = replace(MACHINE, processor="another")
    assert paces_of_machine(other, rows)[0].basis == "estimated"
    gpu = Device("RTX 4090", "gpu", 24 * GIB, 24 * GIB)
    both = replace(MACHINE, devices=(gpu, RAM))
    assert [pace.basis for pace in paces_of_machine(both, rows)] == ["estimated", "measured"]
