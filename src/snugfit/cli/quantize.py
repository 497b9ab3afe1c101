"""snugfit quantize MODEL [OUT] [TYPE]..."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snugfit.cli import cuts_text, render
from snugfit.cli.calibrate import calibrated
from snugfit.cli.options import (
    Best,
    Bpw,
    Json,
    Like,
    ModelArgument,
    OutIfAny,
    Size,
    Text,
    Threads,
    size_limit,
)
from snugfit.cli.quantize_options import (
    AllowRequantize,
    Cluster,
    DryRun,
    ExcludeWeights,
    Imatrix,
    IncludeWeights,
    KeepSplit,
    LeaveOutputTensor,
    MaxBufferSize,
    OutputTensorType,
    OverrideKv,
    PruneLayers,
    Pure,
    Request,
    TensorTypeFile,
    TensorTypes,
    TokenEmbeddingType,
    Words,
    request_from,
)
from snugfit.errors import UsageError

if TYPE_CHECKING:
    from snugfit.formats.imatrix import Importance
    from snugfit.mixes import Chosen
    from snugfit.models import Model
    from snugfit.quantize import Output
    from snugfit.quants.overrides import Overrides
    from snugfit.quants.positions import Layout
    from snugfit.streaming.estimate import PassPlan


@dataclass(frozen=True)
class Source:
    """What files are cut from: the model as options change it, and its importance."""

    model: Model
    layout: Layout  # before layers were pruned
    importance: Importance | None
    overrides: Overrides
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def chosen(self, mix: str) -> Chosen:
        from snugfit.mixes import chosen_types

        return chosen_types(
            self.model,
            mix,
            importance=self.importance,
            overrides=self.overrides,
            layout=self.layout,
        )


def quantize_command(
    model: ModelArgument,
    words: Words = None,
    output: OutIfAny = None,
    like: Like = "",
    size: Size = "",
    bpw: Bpw = 0.0,
    imatrix: Imatrix = None,
    text: Text = None,
    include_weights: IncludeWeights = None,
    exclude_weights: ExcludeWeights = None,
    pure: Pure = False,
    leave_output_tensor: LeaveOutputTensor = False,
    output_tensor_type: OutputTensorType = "",
    token_embedding_type: TokenEmbeddingType = "",
    tensor_type: TensorTypes = None,
    tensor_type_file: TensorTypeFile = None,
    prune_layers: PruneLayers = "",
    override_kv: OverrideKv = None,
    allow_requantize: AllowRequantize = False,
    keep_split: KeepSplit = False,
    dry_run: DryRun = False,
    cluster: Cluster = "",
    threads: Threads = 0,
    best: Best = False,
    max_buffer_size: MaxBufferSize = 1,
    json: Json = False,
) -> None:
    """Write mixes of tensor types as GGUF: by name, or the best within a size.

    Weighted by importance with --imatrix or --text; `snugfit fit` does all of it. Options are those
    of llama-quantize, so that its command lines work.

    Example:  snugfit quantize demo demo-{type}.gguf Q4_K_M Q8_0
    """
    from snugfit.quants.overrides import overrides_from

    request = request_from(words or [], output, like, bool(size) + bool(bpw), threads)
    overrides = overrides_from(
        tensor_type or (),
        tensor_type_file,
        head=output_tensor_type,
        embedding=token_embedding_type,
        leave_head=leave_output_tensor,
        pure=pure,
    )
    if include_weights and exclude_weights:
        raise UsageError("give --include-weights or --exclude-weights, not both.")
    source = _source(
        model,
        overrides,
        prune_layers,
        override_kv or [],
        imatrix,
        text,
        (include_weights or [], exclude_weights or []),
        is_dry=dry_run,
    )
    limit = size_limit(size, bpw, source.model.spec().parameters)
    if limit:
        request = Request((_mix_within(source, limit, keep_split),), request.out, request.threads)
    chosen = [source.chosen(mix) for mix in request.mixes]
    outputs = [_output(source, request, one, keep_split) for one in chosen]
    plans = [
        cuts_text.CutPlan.of(source.model, output, one, source.importance)
        for output, one in zip(outputs, chosen, strict=True)
    ]
    if dry_run:
        planned = _pass_plan(source, outputs, cluster, request.threads)
        cuts_text.show_plans(plans, planned, json)
        return
    _check_importance(source, chosen)
    _write(model, source, outputs, plans, request.threads, cluster, best, allow_requantize, json)


def _pass_plan(source: Source, outputs: Sequence[Output], cluster: str, threads: int) -> PassPlan:
    from snugfit.quantize import available_threads
    from snugfit.streaming.estimate import plan_pass

    nodes = [("this machine", threads or available_threads())]
    if cluster:
        from snugfit.streaming.cluster import RayWorkers

        nodes = [(node.name, node.workers) for node in RayWorkers(cluster).nodes()]
    return plan_pass(source.model, outputs, nodes, has_importance=source.importance is not None)


def _source(
    name: str,
    overrides: Overrides,
    prune_layers: str,
    override_kv: list[str],
    imatrix: Path | None,
    text: Path | None,
    parts: tuple[list[str], list[str]],
    *,
    is_dry: bool,
) -> Source:
    from snugfit.edits import (
        importance_without_layers,
        layers_from,
        metadata_from,
        with_metadata,
        without_layers,
    )
    from snugfit.mixes import described, importance_for

    changed = metadata_from(override_kv)
    pruned = layers_from(prune_layers) if prune_layers else ()
    opened = with_metadata(_opened(name, is_dry=is_dry), changed)
    layout = opened.spec().layout
    importance = _importance(opened, layout, imatrix, text, is_dry=is_dry)
    left = without_layers(opened, pruned) if pruned else opened
    if importance is not None:
        if pruned:
            importance = importance_without_layers(importance, opened, pruned)
        include, exclude = parts
        importance = importance_for(left, importance, include=include, exclude=exclude)
        if imatrix:
            changed = described(importance, imatrix) | changed
    return Source(left, layout, importance, overrides, changed)


def _opened(name: str, *, is_dry: bool) -> Model:
    """Open a model; to say what would be written, its headers are enough."""
    from snugfit.headers import open_headers
    from snugfit.models import open_local, open_model

    if is_dry and open_local(name) is None:
        return open_headers(name).model
    return open_model(name)


def _importance(
    model: Model, layout: Layout, imatrix: Path | None, text: Path | None, *, is_dry: bool
) -> Importance | None:
    from snugfit.formats.imatrix import read_imatrix
    from snugfit.mixes import expected_importance

    if imatrix and text:
        raise UsageError("give --imatrix FILE or --text FILE, not both.")
    if imatrix:
        return read_imatrix(imatrix)
    if text:
        return expected_importance(model, layout) if is_dry else calibrated(model, text)
    return None


def _output(source: Source, request: Request, chosen: Chosen, keep_split: bool) -> Output:
    from snugfit.quantize import Output

    return Output(
        request.path(chosen.mix, source.model.path),
        chosen.types,
        chosen.file_type,
        metadata=source.metadata,
        keep_split=keep_split,
    )


def _mix_within(source: Source, limit: int, keep_split: bool) -> str:
    """Return the mix whose file, all options considered, comes closest to `limit` bytes."""
    from snugfit.mixes import largest
    from snugfit.planning.cuts import CHOICES
    from snugfit.quantize import predicted_bytes
    from snugfit.quants.recipes import RECIPES

    sizes, header = {}, 0
    for mix in CHOICES:
        if source.importance is None and RECIPES[mix].needs_importance:
            continue
        chosen = source.chosen(mix)
        data = cuts_text.data_bytes(source.model, chosen.types)
        if not header:  # which is as long for every mix
            output = _output(source, Request((), "", 0), chosen, keep_split)
            header = predicted_bytes(source.model, output) - data
        sizes[mix] = header + data
    return largest(sizes, limit, source.model.name)


def _check_importance(source: Source, chosen: Sequence[Chosen]) -> None:
    from snugfit.quants.recipes import COPY, recipe_named

    for one in chosen:
        is_blind = source.importance is None and one.mix != COPY
        if is_blind and recipe_named(one.mix).needs_importance:
            raise UsageError(
                f"{one.mix} is garbage without importance. Add --text FILE or --imatrix FILE, or "
                "use snugfit fit."
            )


def _write(
    name: str,
    source: Source,
    outputs: Sequence[Output],
    plans: Sequence[cuts_text.CutPlan],
    threads: int,
    cluster: str,
    best: bool,
    allow_requantize: bool,
    json: bool,
) -> None:
    from snugfit.quantize import quantize_all

    executor = None
    if cluster:
        from snugfit.streaming.cluster import RayWorkers

        executor = RayWorkers(cluster)
    with render.bar(f"quantizing to {', '.join(plan.mix for plan in plans)}", "weights") as bar:
        written = quantize_all(
            source.model,
            outputs,
            importance=source.importance,
            threads=threads,
            quality="best" if best else "fast",
            allow_requantize=allow_requantize,
            progress=bar,
            executor=executor,
            notice=render.warn,
        )
    if json:
        documents = [
            {"mix": plan.mix} | cuts_text.of_written(one) | plan.gaps()
            for one, plan in zip(written, plans, strict=True)
        ]
        render.print_json(documents[0] if len(documents) == 1 else {"files": documents})
        return
    for one, plan in zip(written, plans, strict=True):
        cuts_text.show(one, plan.mix)
        plan.warn()
    render.next_command(f"snugfit evaluate {written[0].path} --against {name}")
