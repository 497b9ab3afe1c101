"""Results as JSON documents. Terminal and JSON read the same objects, so they cannot disagree."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from snugfit.core import Answer, Machine, MemoryUse, ModelSpec, Plan, Score, Speed
from snugfit.planning.beside import NOT_COUNTED

if TYPE_CHECKING:
    from snugfit.formats.hub_files import Listing
    from snugfit.planning.explain import Line
    from snugfit.planning.search import Found
    from snugfit.tables import Tables


def of_machine(machine: Machine) -> dict[str, Any]:
    return dataclasses.asdict(machine)


def of_model(spec: ModelSpec) -> dict[str, Any]:
    types: Counter[str] = Counter()
    for tensor in spec.tensors:
        types[tensor.type_name] += tensor.size_bytes
    per_token = sum(  # windows stop growing, and compressed tokens share a cell
        2 * (cache.key_width + cache.value_width) / cache.tokens_per_cell
        for cache in spec.caches
        if not cache.window
    )
    state = 4 * sum(s.numbers for s in spec.states)
    return {
        "name": spec.name,
        "architecture": spec.architecture,
        "parameters": spec.parameters,
        "layers": spec.layers,
        "hidden_size": spec.hidden_size,
        "heads": spec.heads,
        "experts": spec.experts,
        "experts_used": spec.experts_used,
        "vocabulary": spec.vocabulary,
        "context_length": spec.context_length,
        "weights_bytes": spec.weights_bytes,
        "file_bytes": spec.file_bytes,
        "bits_per_weight": spec.bits_per_weight,
        "kv_cache_bytes_per_token": {"value": round(per_token), "basis": spec.cache_basis},
        "recurrent_state_bytes": {"value": state, "basis": spec.cache_basis},
        "bytes_of_type": dict(types.most_common()),
        "tensors": [
            {"name": t.name, "shape": list(t.shape), "type": t.type_name, "bytes": t.size_bytes}
            for t in spec.tensors
        ],
    }


def of_repository(listing: Listing) -> dict[str, Any]:
    return {
        "repository": listing.repository,
        "commit": listing.commit,
        "quantizations": [
            {
                "mix": one.mix,
                "bytes": one.size_bytes,
                "files": list(one.files),
                "parts": one.parts,
                "is_model": not one.is_aside,
            }
            for one in listing.gguf_sets()
        ],
    }


def of_memory(use: MemoryUse) -> dict[str, Any]:
    return {
        "configuration": dataclasses.asdict(use.configuration),
        "weights_bytes": use.weights_bytes,
        "kv_cache_bytes": use.kv_cache_bytes,
        "recurrent_state_bytes": use.recurrent_state_bytes,
        "compute_bytes": use.compute_bytes,
        "overhead_bytes": use.overhead_bytes,
        "total_bytes": use.total_bytes,
        "file_bytes": use.file_bytes,
        "fits": use.fits,
        "basis": {
            "weights_bytes": {"basis": "exact"},
            "kv_cache_bytes": {"basis": use.kv_basis},
            "recurrent_state_bytes": {"basis": use.kv_basis},
            "compute_bytes": {"basis": use.compute_basis, "band": use.compute_band},
            "overhead_bytes": {"basis": "estimated", "band": 0.5},
        },
        "devices": [
            dataclasses.asdict(device) | {"total_bytes": device.total_bytes, "fits": device.fits}
            for device in use.devices
        ],
        "not_counted": list(NOT_COUNTED),
    }


def of_plan(plan: Plan) -> dict[str, Any]:
    return {
        "model": plan.model,
        "mix": plan.mix,
        "file_bytes": plan.file_bytes,
        "bits_per_weight": plan.bits_per_weight,
        "expected_loss": plan.expected_loss,
        "memory": of_memory(plan.memory),
        "speed": of_speed(plan.speed),
        "reasons": list(plan.reasons),
        "tensor_types": plan.tensor_types,
    }


def of_score(score: Score) -> dict[str, Any]:
    return dataclasses.asdict(score)


def of_answer(answer: Answer) -> dict[str, Any]:
    return dataclasses.asdict(answer) | {"tokens_per_second": answer.tokens_per_second}


def of_search(found: Found, explained: Sequence[Line]) -> dict[str, Any]:
    """A plan with what else was found: the frontier, and the best way of every mix."""
    document = of_plan(found.chosen)
    document["considered"] = found.considered
    document["frontier"] = [of_way(plan) for plan in found.frontier]
    document["candidates"] = [of_way(plan) for plan in found.ways]
    if explained:
        document["explanation"] = [dataclasses.asdict(line) for line in explained]
    return document


def of_way(plan: Plan) -> dict[str, Any]:
    """A plan in one line, for the table of all of them."""
    return {
        "mix": plan.mix,
        "file_bytes": plan.file_bytes,
        "bits_per_weight": plan.bits_per_weight,
        "expected_loss": plan.expected_loss,
        "configuration": dataclasses.asdict(plan.memory.configuration),
        "total_bytes": plan.memory.total_bytes,
        "fits": plan.memory.fits,
        "speed": of_speed(plan.speed),
    }


def of_speed(speed: Speed | None) -> dict[str, Any] | None:
    return dataclasses.asdict(speed) if speed else None


def of_tables(tables: Tables) -> dict[str, Any]:
    from snugfit.tables import definitions

    return dataclasses.asdict(tables) | {"definitions": definitions(tables)}
