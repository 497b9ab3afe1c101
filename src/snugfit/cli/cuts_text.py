"""How files of mixed types look: what was written, and what would be."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snugfit.cli import render
from snugfit.units import format_seconds, format_size

if TYPE_CHECKING:
    from snugfit.formats.imatrix import Importance
    from snugfit.mixes import Chosen, Coverage
    from snugfit.models import Model
    from snugfit.quantize import Output, Written
    from snugfit.streaming.estimate import PassPlan

LAYER = re.compile(r"blk\.\d+\.")
SHOWN = 3  # names of tensors in a warning


@dataclass(frozen=True)
class TypeTotal:
    """What of a file has one type."""

    tensors: int
    weights: int
    bytes: int
    parts: tuple[str, ...]  # the names of its tensors, without layers


@dataclass(frozen=True)
class CutPlan:
    """A file before it is written."""

    mix: str
    path: Path
    file_bytes: int
    types: Mapping[str, str]
    totals: Mapping[str, TypeTotal]  # by type
    replaced: Mapping[str, tuple[str, str]]  # tensors -> type that needs importance, type given
    coverage: Coverage | None  # nothing is said of a file without importance

    @classmethod
    def of(
        cls, model: Model, output: Output, chosen: Chosen, importance: Importance | None
    ) -> CutPlan:
        from snugfit.mixes import coverage
        from snugfit.quantize import predicted_bytes

        covered = coverage(chosen.types, model, importance) if importance is not None else None
        return cls(
            chosen.mix,
            output.path,
            predicted_bytes(model, output),
            chosen.types,
            totals_of(model, chosen.types),
            chosen.replaced,
            covered,
        )

    @property
    def bits_per_weight(self) -> float:
        weights = sum(total.weights for total in self.totals.values())
        return 8 * sum(total.bytes for total in self.totals.values()) / max(1, weights)

    def gaps(self) -> dict[str, Any]:
        """Return what importance lacks, for JSON."""
        found: dict[str, Any] = {
            "replaced_types": {
                name: {"wanted": wanted, "given": given}
                for name, (wanted, given) in self.replaced.items()
            }
        }
        if self.coverage is not None:
            found["without_importance"] = list(self.coverage.missed)
            found["experts_without_tokens"] = {
                name: few for name, (few, _) in self.coverage.unreached.items()
            }
        return found

    def document(self) -> dict[str, Any]:
        return {
            "mix": self.mix,
            "path": str(self.path),
            "file_bytes": self.file_bytes,
            "bits_per_weight": self.bits_per_weight,
            "weights_of_type": {name: total.weights for name, total in self.totals.items()},
            "bytes_of_type": {name: total.bytes for name, total in self.totals.items()},
            "types": dict(self.types),
            **self.gaps(),
        }

    def warn(self) -> None:
        """Say on stderr what importance lacks."""
        by_types: dict[tuple[str, str], list[str]] = {}
        for name, types in self.replaced.items():
            by_types.setdefault(types, []).append(name)
        for (wanted, given), names in by_types.items():
            render.warn(
                f"{_named(names)} had no importance, without which {wanted} is garbage: {given}"
            )
        if self.coverage is None:
            return
        warn_of_missed([name for name in self.coverage.missed if name not in self.replaced])
        if self.coverage.unreached:
            few = sum(few for few, _ in self.coverage.unreached.values())
            every = sum(every for _, every in self.coverage.unreached.values())
            render.warn(
                f"{few} of {every} experts in {_named(list(self.coverage.unreached))} were reached "
                "by no token: their columns count alike"
            )


def warn_of_missed(names: Sequence[str]) -> None:
    if names:
        render.warn(f"{_named(names)} had no importance: all columns count alike")


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(render.safe(name) for name in names[:SHOWN])
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} {'tensor' if len(names) == 1 else 'tensors'} ({shown}{more})"


def totals_of(model: Model, types: Mapping[str, str]) -> dict[str, TypeTotal]:
    """Return tensors, weights and bytes of each type, the type of most bytes first."""
    from snugfit.quants.types import TYPES

    found: dict[str, list[Any]] = {}
    for name, type_name in types.items():
        tensor = model.tensors[name]
        count = found.setdefault(type_name, [0, 0, 0, {}])
        count[0] += 1
        count[1] += tensor.parameters
        count[2] += TYPES[type_name].tensor_bytes(tensor.shape)
        count[3][LAYER.sub("", name).removesuffix(".weight")] = None
    ordered = sorted(found.items(), key=lambda item: -item[1][2])
    return {
        name: TypeTotal(tensors, weights, size, tuple(parts))
        for name, (tensors, weights, size, parts) in ordered
    }


def data_bytes(model: Model, types: Mapping[str, str]) -> int:
    """Return the bytes of all tensors with their padding."""
    from snugfit.formats.gguf import padded
    from snugfit.quants.types import TYPES

    return sum(
        padded(TYPES[types[name]].tensor_bytes(tensor.shape))
        for name, tensor in model.tensors.items()
    )


def show_plans(plans: Sequence[CutPlan], planned: PassPlan | None, json: bool) -> None:
    """Show files that would be written, and the pass that would write them."""
    if json:
        documents = [plan.document() for plan in plans]
        document = documents[0] if len(documents) == 1 else {"files": documents}
        render.print_json(document | ({"pass": of_pass(planned)} if planned else {}))
        return
    for plan in plans:
        render.heading(
            f"{render.safe(str(plan.path))}: {plan.mix}, {format_size(plan.file_bytes)} "
            f"({plan.file_bytes:,} bytes), {plan.bits_per_weight:.2f} bits a weight"
        )
        table = render.table("type", ">tensors", ">weights", ">bytes", "of")
        for name, total in plan.totals.items():
            of = ", ".join(total.parts)
            table.add_row(
                name,
                str(total.tensors),
                render.scaled(total.weights),
                f"{total.bytes:,}",
                render.safe(of),
            )
        render.out.print(table)
        plan.warn()
    if planned:
        show_pass(planned)
    render.note("nothing was written")


def of_pass(planned: PassPlan) -> dict[str, Any]:
    return {
        "tasks": planned.tasks,
        "read_bytes": planned.read_bytes,
        "written_bytes": planned.written_bytes,
        "core_seconds": planned.core_seconds,
        "seconds": planned.seconds,
        "bytes_per_s": planned.bytes_per_s,
        "nodes": [vars(share) for share in planned.shares],
    }


def show_pass(planned: PassPlan) -> None:
    """Show tasks, bytes and time; node by node where there are several."""
    render.out.print(
        f"One pass: {planned.tasks:,} tasks read {format_size(planned.read_bytes)} and write "
        f"{format_size(planned.written_bytes)}; {format_seconds(planned.seconds)} on "
        f"{planned.workers:,} {'core' if planned.workers == 1 else 'cores'} as fast as this one, "
        f"where disks move {format_size(int(planned.bytes_per_s))} a second or more."
    )
    if len(planned.shares) < 2:
        return
    table = render.table("node", ">workers", ">tasks", ">reads", ">writes")
    for share in planned.shares:
        table.add_row(
            render.safe(share.name),
            str(share.workers),
            f"{share.tasks:,}",
            format_size(share.read_bytes),
            format_size(share.written_bytes),
        )
    render.out.print(table)


def of_written(written: Written) -> dict[str, object]:
    return {
        "path": str(written.path),
        "paths": [str(path) for path in written.paths],
        "file_bytes": written.file_bytes,
        "bits_per_weight": written.bits_per_weight,
        "seconds": written.seconds,
        "weights_of_type": written.types,
        "without_importance": list(written.without_importance),
    }


def show(written: Written, mix: str) -> None:
    weights = sum(written.types.values())
    render.out.print(
        f"[bold]{render.safe(str(written.path))}[/]: {mix}, {format_size(written.file_bytes)} "
        f"({written.file_bytes:,} bytes), {written.bits_per_weight:.2f} bits a weight, "
        f"{render.scaled(weights / max(written.seconds, 1e-9))} weights/s",
        soft_wrap=True,
    )
