"""Models from the Hugging Face Hub: their headers by parts of files, or whole, through its client.

Headers are a few megabytes where the weights are hundreds of gigabytes. They are kept, keyed by
commit; a listing that cannot be read anew is taken from the cache, and says so.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from snugfit.errors import FormatError, SnugfitError
from snugfit.formats.gguf import (
    SPLIT_NAME,
    GgufFile,
    Skimmed,
    joined,
    read_header,
)
from snugfit.formats.gguf_writer import encode_header
from snugfit.formats.header_cache import HeaderCache, cache_folder
from snugfit.formats.hub_client import HubClient, RemoteWindow, Unreachable
from snugfit.formats.hub_files import GgufSet, Listing, listing_of
from snugfit.formats.safetensors import (
    LENGTH_BYTES,
    StoredTensor,
    Tensors,
    header_length,
    json_object,
    read_shards,
    tensors_of,
)
from snugfit.units import KIB, MIB, format_size

Item = TypeVar("Item")
Result = TypeVar("Result")
Read = Callable[[int, int], bytes]  # first byte, count
# What a conversion reads; other weight formats of a repository stay where they are.
WANTED = ["config.json", "generation_config.json", "tokenizer*", "*.jinja", "*.safetensors*"]
AT_A_TIME = 8  # answers that are waited for
MOST_JSON_BYTES = 64 * MIB
FIRST_SHARD_BYTES = 64 * KIB
# Beside a kept header's own keys: bytes of the header, of its file, and of what was passed over.
KEPT_SIZES = "snugfit.sizes"


@dataclass(frozen=True)
class Hub:
    """Headers of repositories, from the cache first, else from the client unless offline."""

    client: HubClient
    cache: HeaderCache
    is_offline: bool = False

    def listing(self, repository: str, revision: str | None = None) -> Listing:
        """Return the files of a repository. Raises NetworkError: refused, or not to be had."""
        if not self.is_offline:
            try:
                answer = self.client.listing(repository, revision)
                found = listing_of(repository, answer, revision)
            except Unreachable:
                kept = self._kept_listing(repository, revision)
                if kept is None:
                    raise
                return kept
            described = json.dumps({"sha": found.commit, "files": dict(found.files)})
            self.cache.write(described.encode(), repository, *self._listing_key(revision))
            return found
        kept = self._kept_listing(repository, revision)
        if kept is None:
            raise self._missing(f"{repository}@{revision}" if revision else repository)
        return kept

    def _listing_key(self, revision: str | None) -> tuple[str, ...]:
        return (self.client.endpoint, f"@{revision}") if revision else (self.client.endpoint,)

    def _kept_listing(self, repository: str, revision: str | None) -> Listing | None:
        text = self.cache.read(repository, *self._listing_key(revision))
        try:
            value = json.loads(text) if text else {}
            return Listing(repository, value["sha"], value["files"], True, revision)
        except (ValueError, KeyError, TypeError):
            return None

    def _missing(self, name: str) -> Unreachable:
        return Unreachable(
            f"{name}: its header is not in the cache, and the Hub is not asked when offline. "
            "Try once without --offline and HF_HUB_OFFLINE."
        )

    def gguf(self, listing: Listing, chosen: GgufSet, skimmed: Skimmed | None = None) -> GgufFile:
        """Return a quantization's header, its splits joined, without arrays of its tokenizer.

        `skimmed` is shared by the quantizations of one model; from the second on, little is read.
        Raises FormatError, UnsupportedError, NetworkError.
        """
        shared: Skimmed = {} if skimmed is None else skimmed
        first = self._gguf_part(listing, chosen.files[0], shared)
        others = each(lambda name: self._gguf_part(listing, name, shared), chosen.files[1:])
        return joined([first, *others]) if others else first

    def _gguf_part(self, listing: Listing, name: str, skimmed: Skimmed) -> GgufFile:
        path = Path(f"{listing.repository}/{name}")

        def fetch(read: Read) -> bytes:
            most = self.client.limits.header_bytes
            window = RemoteWindow(read, listing.files[name], path, most)
            return _packed(read_header(path, window, skimmed))

        return self._kept(listing, name, fetch, lambda kept: _unpacked(path, kept))

    def _read(self, listing: Listing, name: str, start: int, count: int) -> bytes:
        if self.is_offline:
            raise self._missing(f"{listing.repository}/{name}")
        return self.client.read(listing.repository, listing.commit, name, start, count)

    def json(self, listing: Listing, name: str) -> dict[str, Any]:
        """Return a JSON object of the repository. Raises FormatError, NetworkError."""
        path = Path(f"{listing.repository}/{name}")
        size = listing.files.get(name, 0)
        if size > MOST_JSON_BYTES:
            raise FormatError(f"{path}: {format_size(size)} of JSON; no model's has as much.")
        return self._kept(
            listing, name, lambda read: read(0, size), lambda kept: json_object(path, kept)
        )

    def safetensors(self, listing: Listing) -> Tensors:
        """Return the tensors of all shards. Raises FormatError, NetworkError."""
        if listing.index:
            index = Path(f"{listing.repository}/{listing.index}")
            described = self.json(listing, listing.index)
            return read_shards(index, described, lambda names: self._shards(listing, names))
        found: Tensors = {}
        for tensors in self._shards(listing, listing.safetensors):
            found |= tensors
        return found

    def values(self, listing: Listing, tensor: StoredTensor) -> np.ndarray[Any, Any]:
        """Return the values of a tensor of a few bytes, by a part of its file. Raises NetworkError.

        Where a model is stored quantized, some shapes are in such tensors and not in headers.
        """
        name = tensor.path.relative_to(listing.repository).as_posix()
        key = (self.client.endpoint, listing.commit, name, tensor.name)
        content = self.cache.read(listing.repository, *key)
        if content is None or len(content) != tensor.size_bytes:
            content = self._read(listing, name, tensor.offset, tensor.size_bytes)
            self.cache.write(content, listing.repository, *key)
        return np.frombuffer(content, tensor.item)

    def _shards(self, listing: Listing, names: Sequence[str]) -> list[Tensors]:
        for name in names:
            if name not in listing.files:
                raise FormatError(f"{listing.repository}/{name}: the shard is not on the Hub.")
        return each(lambda name: self._shard(listing, name), names)

    def _shard(self, listing: Listing, name: str) -> Tensors:
        path, size = Path(f"{listing.repository}/{name}"), listing.files[name]

        def fetch(read: Read) -> bytes:
            start = read(0, min(size, FIRST_SHARD_BYTES))
            end = LENGTH_BYTES + header_length(path, start[:LENGTH_BYTES], size)
            rest = read(len(start), end - len(start)) if end > len(start) else b""
            return start[:end] + rest

        return self._kept(
            listing, name, fetch, lambda kept: tensors_of(path, kept[LENGTH_BYTES:], size)
        )

    def _kept(
        self,
        listing: Listing,
        name: str,
        fetch: Callable[[Read], bytes],
        parse: Callable[[bytes], Result],
    ) -> Result:
        """Return what `parse` makes of a kept part of a file, or of what `fetch` reads of it now.

        Only what makes sense is kept.
        """
        key = (self.client.endpoint, listing.commit, name)
        kept = self.cache.read(listing.repository, *key)
        if kept is not None:
            with contextlib.suppress(SnugfitError, KeyError, ValueError):  # damaged: read it anew
                return parse(kept)
        content = fetch(lambda start, count: self._read(listing, name, start, count))
        result = parse(content)
        self.cache.write(content, listing.repository, *key)
        return result


def open_hub(*, is_offline: bool = False) -> Hub:
    """Return the Hub that HF_ENDPOINT names; HF_HUB_OFFLINE is heard too."""
    from huggingface_hub import constants

    return Hub(
        HubClient(constants.ENDPOINT),
        HeaderCache(cache_folder()),
        is_offline or bool(constants.HF_HUB_OFFLINE),
    )


def each(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Return `work` of every item, several at a time. The first failure ends it."""
    executor = ThreadPoolExecutor(AT_A_TIME)
    try:
        return list(executor.map(work, items))
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _packed(file: GgufFile) -> bytes:
    sizes = (file.header_bytes, file.file_bytes, file.absent_bytes)
    return encode_header(
        file.metadata | {KEPT_SIZES: np.array(sizes, np.uint64)}, list(file.tensors.values())
    )


def _unpacked(path: Path, kept: bytes) -> GgufFile:
    file = read_header(path, kept)
    header_bytes, file_bytes, absent_bytes = map(int, file.metadata.pop(KEPT_SIZES))
    return replace(
        file,
        header_bytes=header_bytes,
        file_bytes=file_bytes,
        absent_bytes=absent_bytes,
        has_data=False,
    )


def download(
    repository: str, file: str | None, revision: str | None = None, *, is_local: bool = False
) -> Path:
    """Return the local path of a GGUF file (first of its splits), or of a folder of safetensors.

    `file` is a file or a mix, as Q4_K_M. Files come from the client's cache when they are there,
    with `is_local` from nowhere else. Raises FormatError or NetworkError, in one line.
    """
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    names = _names(repository, file, revision, is_local=is_local)
    where: dict[str, Any] = {"revision": revision, "local_files_only": is_local}
    try:
        if names:
            paths = [hf_hub_download(repository, name, **where) for name in names]
            return Path(paths[0])
        return Path(snapshot_download(repository, allow_patterns=WANTED, **where))
    except (LocalEntryNotFoundError, OSError) as error:
        if isinstance(error, HfHubHTTPError):
            raise _refused(repository, error) from None
        raise FormatError(
            f"{repository}: no such file here, and the Hub cannot be reached. "
            "Check the name and the network, or give a local path."
        ) from None
    except HFValidationError:
        raise FormatError(f"{repository}: not a path and not a Hub name (owner/name).") from None


def _names(
    repository: str, file: str | None, revision: str | None, *, is_local: bool
) -> tuple[str, ...]:
    """Return the GGUF files to download; none where the repository is one of safetensors."""
    if file and file.endswith(".gguf"):
        match = SPLIT_NAME.fullmatch(file)
        count = min(int(match[3]), 10_000) if match else 1
        if match is None or count < 2:
            return (file,)
        return tuple(f"{match[1]}-{n:05d}-of-{match[3]}.gguf" for n in range(1, count + 1))
    try:
        listing = open_hub(is_offline=is_local).listing(repository, revision)
    except Unreachable:
        if file:
            raise
        return ()
    return () if not file and listing.has_safetensors else one_model(listing, file).files


def one_model(listing: Listing, file: str | None) -> GgufSet:
    """Return the quantization that is named, or the only one. Raises FormatError."""
    if file:
        return listing.chosen(file)
    models = listing.models()
    if len(models) == 1:
        return models[0]
    if not models:
        raise FormatError(f"{listing.name}: holds neither safetensors nor GGUF files.")
    raise FormatError(
        f"{listing.name}: holds {len(models)} quantizations. Name one, as "
        f"{listing.name}:{models[0].mix}; snugfit inspect {listing.name} lists them."
    )


def _refused(repository: str, error: Exception) -> FormatError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    reason = {
        401: "it is private or gated; log in with: hf auth login",
        404: "no such model or revision",
    }
    return FormatError(
        f"{repository}: the Hub refused it ({reason.get(status or 0, f'status {status}')})."
    )
