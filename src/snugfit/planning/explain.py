"""Says where every number of a plan comes from, one line each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from snugfit.core import Machine, Plan
from snugfit.planning import value
from snugfit.planning.axes import Goal
from snugfit.planning.search import Found
from snugfit.quants.types import TYPES, QuantType
from snugfit.units import format_size


@dataclass(frozen=True)
class Line:
    """A number, what it is of, and how it came to be."""

    part: str
    what: str
    value: str
    how: str


def explanation(found: Found, machine: Machine, goal: Goal) -> tuple[Line, ...]:
    """Return the lines on the plan that was chosen."""
    plan = found.chosen
    return (*_weights(plan), *_memory(plan, machine), *_speed(plan), *_worth(found, goal))


def _weights(plan: Plan) -> list[Line]:
    counts = Counter(plan.tensor_types.values())
    lines = [
        Line(
            "Where the weights' bytes come from",
            f"{type_name}, {count} tensors",
            f"{TYPES[type_name].bits_per_weight:.4g} bits a weight",
            _of_blocks(TYPES[type_name]),
        )
        for type_name, count in counts.most_common()
    ]
    lines.append(
        Line(
            lines[0].part if lines else "Where the weights' bytes come from",
            "file",
            f"{plan.file_bytes:,} bytes",
            "header and metadata, then every tensor, each padded to 32 bytes: exact",
        )
    )
    return lines


def _of_blocks(row: QuantType) -> str:
    if row.block_weights == 1:
        return f"{row.block_bytes} bytes a weight"
    return f"{row.block_bytes} bytes for every {row.block_weights} weights of a row"


def _memory(plan: Plan, machine: Machine) -> list[Line]:
    use, lines = plan.memory, []
    configuration = use.configuration
    for device, here in zip(use.devices, machine.devices, strict=True):
        if not device.total_bytes:
            continue
        part = f"Where the bytes of {device.name} come from"
        values = configuration.value_type or configuration.kv_type
        rows = (
            ("weights", device.weights_bytes, "of the tensors that are placed there: exact"),
            (
                "KV cache",
                device.kv_cache_bytes,
                f"{configuration.ctx} tokens of {configuration.slots} slot(s) in its layers, keys "
                f"{configuration.kv_type}, values {values}, cells in steps of 256: {use.kv_basis}",
            ),
            (
                "state",
                device.recurrent_state_bytes,
                f"32-bit floats of its recurrent layers for each slot: {use.kv_basis}",
            ),
            (
                "compute",
                device.compute_bytes,
                f"what a pass of {min(configuration.ubatch, configuration.ctx)} tokens keeps alive "
                f"at its busiest moment: {use.compute_basis}"
                + (f" within {use.compute_band:.0%}" if use.compute_band else ""),
            ),
            (
                "other",
                device.overhead_bytes,
                "driver and context on a GPU; process, vocabulary and outputs in RAM: estimated",
            ),
            ("free", device.free_bytes, here.note or "as the system says"),
        )
        lines += [Line(part, what, format_size(size), how) for what, size, how in rows if size]
    return lines


def _speed(plan: Plan) -> list[Line]:
    if plan.speed is None:
        return []
    speed = plan.speed
    part = f"Where the time of a token goes, {speed.filled_tokens} tokens in the cache"
    lines = []
    for one in speed.parts:
        how = "work that no byte explains"
        if one.size_bytes:
            rate = one.size_bytes / one.seconds / 1e9
            how = f"{format_size(one.size_bytes)} at {rate:.3g} GB/s"
            how += "" if one.what.endswith(": cache") else ", with what each layer costs"
        lines.append(Line(part, one.what, f"{1e3 * one.seconds:.3g} ms", how))
    band = speed.decode_tokens_per_s
    lines.append(
        Line(
            part,
            "decoding",
            f"{band.middle:.3g} tokens/s",
            f"one over the sum; nine of ten measurements are from {band.low:.3g} to {band.high:.3g}"
            f" ({speed.basis})",
        )
    )
    return lines


def _worth(found: Found, goal: Goal) -> list[Line]:
    plan = found.chosen
    if plan.speed is None:
        return []
    part = f"What it is worth, of {found.considered:,} configurations"
    rate = value.exchange_rate(
        plan.speed.decode_tokens_per_s.middle, plan.speed.prefill_tokens_per_s.middle
    )
    ctx = plan.memory.configuration.ctx
    values = (
        value.quality_value(plan.expected_loss),
        value.speed_value(rate),
        value.context_value(float(ctx)),
    )
    hows = (
        f"{value.HALF_LOSS} / ({value.HALF_LOSS} + {plan.expected_loss:.3g}) nats a token of loss",
        f"{rate:.3g} / ({rate:.3g} + {value.HALF_TOKENS_PER_S:.3g}) tokens/s, for "
        f"{value.ANSWER_TOKENS} tokens of answer to {value.PROMPT_TOKENS} of prompt",
        f"{ctx} / ({ctx} + {value.HALF_CONTEXT}) tokens",
    )
    powers = value.OBJECTIVES[goal.objective]
    lines = [
        Line(part, what, f"{number:.3f}", how + (f", to the power of {power}" if power > 1 else ""))
        for what, number, how, power in zip(
            ("quality", "speed", "context"), values, hows, powers, strict=True
        )
    ]
    total = value.score(goal.objective, *values)
    lines.append(
        Line(part, "in all", f"{total:.3f}", "their product: no other way has a higher one")
    )
    return lines
