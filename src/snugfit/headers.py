"""Models by their headers alone: what planning needs, before anything is downloaded.

A demo, a directory or a file is opened as it is; a name of the catalogue stands for shapes; of a
Hub repository only headers are read, of all its quantizations at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snugfit.core import TensorInfo
from snugfit.errors import FormatError, SnugfitError
from snugfit.folders import converted_folder, unpacked
from snugfit.formats.gguf import padded
from snugfit.formats.gguf_writer import header_size
from snugfit.models import (
    Blocks,
    HubName,
    Model,
    Read,
    hub_name,
    model_metadata,
    open_local,
    unknown_name,
)

if TYPE_CHECKING:
    from snugfit.archs.catalogue import CatalogueModel
    from snugfit.formats.gguf import Skimmed
    from snugfit.formats.hub import Hub
    from snugfit.formats.hub_files import GgufSet, Listing

FROM_CATALOGUE = "from the catalogue: shapes only, the tokenizer's bytes estimated"
FROM_HUB = "headers from the Hub, no weights"
FROM_DOWNLOAD = "as it was downloaded before; the Hub was not asked or did not answer"
FROM_CACHE = "headers from the cache; the Hub was not asked or did not answer"


@dataclass(frozen=True)
class Headers:
    """What a name stands for: one model, or the quantizations of a repository by their mixes."""

    models: dict[str, Model]  # by what picks one of several; "" for the only one
    note: str = ""  # where headers came from, unless from a file here
    weights: str = ""  # the MODEL that has the weights, where the name itself has none

    @property
    def model(self) -> Model:
        """The only model. Raises FormatError where a name stands for several."""
        if len(self.models) == 1:
            return next(iter(self.models.values()))
        raise FormatError(
            f"{self.weights}: holds {len(self.models)} quantizations. Name one, as "
            f"{self.weights}:{next(iter(self.models))}; snugfit inspect {self.weights} lists them."
        )


def open_headers(name: str, *, is_offline: bool = False) -> Headers:
    """Open what a user calls MODEL without its weights.

    Raises FormatError, UnsupportedError, NetworkError: one line each.
    """
    local = open_local(name, skim=True)
    if local is not None:
        return Headers({"": local})
    from snugfit.archs.catalogue import CATALOGUE

    if name.lower() in CATALOGUE:
        entry = CATALOGUE[name.lower()]
        return Headers({"": _of_catalogue(entry)}, FROM_CATALOGUE, entry.weights)
    hub = hub_name(name)
    if hub is None:
        raise unknown_name(name)
    return _of_hub(hub, is_offline=is_offline)


def list_repository(name: str, *, is_offline: bool = False) -> Listing | None:
    """Return the listing of a Hub repository of several quantizations, or None for all else."""
    hub = hub_name(name)
    if hub is None or hub.file or open_local(name, skim=True) is not None:
        return None
    from snugfit.formats.hub import open_hub

    listing = open_hub(is_offline=is_offline).listing(hub.repository, hub.revision)
    return None if listing.has_safetensors or len(listing.models()) < 2 else listing


def _of_catalogue(entry: CatalogueModel) -> Model:
    return _shapes(
        entry.name,
        entry.metadata,
        entry.tensors,
        f"{entry.name}: the catalogue has its shapes, not its weights. Name {entry.weights}.",
        absent_bytes=entry.tokenizer_bytes,
    )


def _of_hub(name: HubName, *, is_offline: bool) -> Headers:
    from snugfit.formats.hub import download, one_model, open_hub
    from snugfit.formats.hub_client import Unreachable

    hub = open_hub(is_offline=is_offline)
    try:
        listing = hub.listing(name.repository, name.revision)
        note = FROM_CACHE if listing.is_kept else FROM_HUB
        if not name.file and listing.has_safetensors:
            return Headers({"": _of_safetensors(hub, listing)}, note)
        if name.file or len(listing.models()) < 2:
            chosen = one_model(listing, name.file)
            return Headers({"": _of_gguf(hub, listing, chosen, {})}, note)
        return Headers(_of_quantizations(hub, listing), note, listing.name)
    except Unreachable as unreachable:
        try:
            path = download(name.repository, name.file, name.revision, is_local=True)
        except SnugfitError:
            raise unreachable from None
        model = open_local(str(path), skim=True)
        assert model is not None
        return Headers({"": model}, FROM_DOWNLOAD)


def _of_quantizations(hub: Hub, listing: Listing) -> dict[str, Model]:
    """Open every quantization: the smallest alone, the others at once with what it taught."""
    from snugfit.formats.hub import each

    sets = listing.models()
    seen: Skimmed = {}
    smallest = _of_gguf(hub, listing, sets[-1], seen)
    others = each(lambda one: _of_gguf(hub, listing, one, seen), sets[:-1])
    mixes = [one.mix for one in sets]
    picks = [one.mix if mixes.count(one.mix) == 1 else one.files[0] for one in sets]
    return dict(zip(picks, [*others, smallest], strict=True))


def _of_gguf(hub: Hub, listing: Listing, chosen: GgufSet, seen: Skimmed) -> Model:
    file = hub.gguf(listing, chosen, seen)
    name = f"{listing.name}:{chosen.files[0]}"
    return Model(
        file.path.stem,
        file.path,
        model_metadata(file),
        file.tensors,
        chosen.size_bytes,
        _no_weights(f"{name}: only its header was read. Download it to read weights."),
        absent_bytes=file.absent_bytes,
    )


def _of_safetensors(hub: Hub, listing: Listing) -> Model:
    from snugfit.archs.catalogue import TOKENIZER_BYTES_A_TOKEN
    from snugfit.archs.conversion.config import Config

    name = listing.repository.split("/")[1]
    config = Config(listing.repository, hub.json(listing, "config.json"))
    files = hub.safetensors(listing)
    has_own = "hf_quant_config.json" in listing.files
    stored = unpacked(
        config,
        files,
        (lambda file: hub.json(listing, file)) if has_own else None,
        lambda tensor: hub.values(listing, tensor),
    )
    metadata, converted = converted_folder(config, stored, name)
    return _shapes(
        name,
        metadata,
        {tensor.info.name: tensor.info for tensor in converted},
        f"{listing.name}: only its headers were read. Download it to read weights.",
        # The tokenizer's file would be the largest thing that is read; its bytes are estimated.
        absent_bytes=TOKENIZER_BYTES_A_TOKEN * config.vocabulary,
        file_bytes=sum(listing.files[file] for file in {t.path.name for t in files.values()}),
    )


def _shapes(
    name: str,
    metadata: dict[str, Any],
    tensors: dict[str, TensorInfo],
    refusal: str,
    *,
    absent_bytes: int,
    file_bytes: int | None = None,
) -> Model:
    """Return a model without weights; without `file_bytes`, of the size that its GGUF would be."""
    is_original = file_bytes is not None
    if file_bytes is None:
        header_bytes = header_size(metadata, list(tensors.values()), absent_bytes)
        file_bytes = header_bytes + sum(padded(t.size_bytes) for t in tensors.values())
    return Model(
        name,
        Path(name),
        metadata,
        tensors,
        file_bytes,
        _no_weights(refusal),
        absent_bytes,
        is_original=is_original,
    )


def _no_weights(refusal: str) -> Read:
    def read(_name: str, _first: int, _count: int) -> Blocks:
        raise FormatError(refusal)

    return read
