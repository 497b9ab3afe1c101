"""snugfit inspect MODEL"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from snugfit.cli import documents, render
from snugfit.cli.options import HeadersArgument, Json, Offline
from snugfit.core import ModelSpec
from snugfit.units import format_size

if TYPE_CHECKING:
    from snugfit.formats.hub_files import Listing


def inspect_command(
    model: HeadersArgument,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    offline: Offline = False,
    json: Json = False,
) -> None:
    """Show a model's shapes, tensor types, bytes and cache, from its headers alone.

    Of a Hub repository with several quantizations, list them.

    Example:  snugfit inspect demo-moe --tensors
    """
    from snugfit.headers import list_repository, open_headers

    listing = list_repository(model, is_offline=offline)
    if listing is not None:
        show_repository(listing, is_json=json)
        return
    headers = open_headers(model, is_offline=offline)
    spec = headers.model.spec()
    if json:
        render.print_json(documents.of_model(spec) | {"headers": headers.note})
        return
    say_where_from(spec.name, headers.note)
    show(spec)
    if tensors:
        show_tensors(spec)
    render.next_command(f"snugfit plan {model}")


def show(spec: ModelSpec) -> None:
    document = documents.of_model(spec)
    experts = f", {spec.experts} experts, {spec.experts_used} used" if spec.experts else ""
    render.out.print(
        f"[bold]{render.safe(spec.name)}[/]  {render.safe(spec.architecture)}, "
        f"{render.scaled(spec.parameters)} parameters, {spec.layers} layers{experts}"
    )
    warn_of_unknown(spec)
    facts = render.table("", "")
    cache = document["kv_cache_bytes_per_token"]
    rows = [
        ("file", f"{format_size(spec.file_bytes)} ({spec.file_bytes:,} bytes)"),
        ("weights", f"{format_size(spec.weights_bytes)}, {spec.bits_per_weight:.2f} bits a weight"),
        ("KV cache", f"{format_size(cache['value'])} a token in F16 ({cache['basis']})"),
        *_state_rows(document["recurrent_state_bytes"]["value"]),
        ("context", f"{spec.context_length:,} tokens in training"),
        ("vocabulary", f"{spec.vocabulary:,} tokens, hidden size {spec.hidden_size:,}"),
    ]
    for row in rows:
        facts.add_row(*row)
    facts.show_header = False
    render.out.print(facts)
    types = render.table("type", ">bytes", ">share")
    for name, size_bytes in document["bytes_of_type"].items():
        types.add_row(name, format_size(size_bytes), f"{size_bytes / spec.weights_bytes:.1%}")
    render.out.print(types)


def _state_rows(state_bytes: int) -> list[tuple[str, str]]:
    return [("state", f"{format_size(state_bytes)} a slot")] if state_bytes else []


def show_repository(listing: Listing, *, is_json: bool) -> None:
    """Print the quantizations of a Hub repository, one a row, projectors last."""
    if is_json:
        render.print_json(documents.of_repository(listing))
        return
    sets = listing.gguf_sets()
    render.out.print(f"[bold]{render.safe(listing.name)}[/]  {len(listing.models())} quantizations")
    table = render.table("mix", ">bytes", ">size", ">parts", "file")
    for one in sets:
        parts = str(one.parts) if one.is_whole else f"{len(one.files)} of {one.parts}"
        mix = "aside" if one.is_aside else one.mix
        table.add_row(
            render.safe(mix),
            f"{one.size_bytes:,}",
            format_size(one.size_bytes),
            parts,
            render.safe(one.files[0]),
        )
    render.out.print(table)
    render.next_command(f"snugfit plan {listing.name}")


def say_where_from(name: str, note: str) -> None:
    """Say so where a model is not opened from a file that is here."""
    if note:
        render.note(f"{render.safe(name)}: {note}")


def warn_of_unknown(spec: ModelSpec) -> None:
    """Say that a cache without a rule of its own is a guess; unknown is an answer."""
    if spec.cache_basis == "exact":
        return
    seen = "its key and value matrices" if spec.caches else "nothing: it has no such matrices"
    render.warn(
        f"the architecture {render.safe(spec.architecture)} has no rule here yet; its cache is "
        f"estimated from {seen}. Windows, compressed and recurrent states are not seen."
    )


def show_tensors(spec: ModelSpec) -> None:
    table = render.table("tensor", ">shape", "type", ">bytes")
    for tensor in spec.tensors:
        shape = " x ".join(str(length) for length in tensor.shape)
        table.add_row(render.safe(tensor.name), shape, tensor.type_name, f"{tensor.size_bytes:,}")
    render.out.print(table)
