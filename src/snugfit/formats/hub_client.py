"""Parts of files on the Hub, over its own client's session: bounded in bytes and in time.

A server may be slow, endless or a stranger. Each answer is read in a thread of its own, so that the
deadline holds whatever the server does: names that do not resolve, headers that drip, bodies
without an end.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar
from urllib.parse import quote

from snugfit.errors import NetworkError
from snugfit.units import KIB, MIB, format_size

Result = TypeVar("Result")
CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
FIRST_STEP_BYTES, LARGEST_STEP_BYTES = 128 * KIB, 8 * MIB
REFUSALS = {
    401: "it does not exist, is private or gated. Check the name, or log in with: hf auth login",
    403: "access was not granted. Ask for it on the model's page, then: hf auth login",
    404: "there is no such model, revision or file. Check the name",
    429: "too many requests. Wait some minutes, or log in with: hf auth login",
}


class Unreachable(NetworkError):
    """The server did not answer; what is in the cache may still serve."""


@dataclass(frozen=True)
class Limits:
    """How long and how much is read before giving up."""

    idle_seconds: float = 10.0  # to connect, and between two pieces of an answer
    total_seconds: float = 90.0  # for everything that one command reads
    listing_bytes: int = 32 * MIB
    header_bytes: int = 128 * MIB  # real ones have up to 20 MiB


@dataclass(frozen=True)
class HubClient:
    """Reads from one endpoint until the deadline, which starts with the client."""

    endpoint: str
    limits: Limits = field(default_factory=Limits)
    started: float = field(default_factory=time.monotonic)

    def listing(self, repository: str, revision: str | None = None) -> dict[str, Any]:
        """Return what the Hub says of a repository: `sha`, `siblings` with sizes. NetworkError."""
        of_revision = f"/revision/{quote(revision, safe='')}" if revision else ""
        url = f"{self.endpoint}/api/models/{quote(repository)}{of_revision}?blobs=true"
        most = self.limits.listing_bytes
        text, is_whole = self._within(repository, lambda stop: _get(url, None, most, self, stop))
        if not is_whole:
            raise NetworkError(f"{repository}: its listing has more than {format_size(most)}.")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise NetworkError(
                f"{repository}: {self.endpoint} did not answer as a Hub does. Check HF_ENDPOINT."
            )
        return value

    def read(self, repository: str, commit: str, file: str, start: int, count: int) -> bytes:
        """Return `count` bytes of a file from `start` on. Raises NetworkError."""
        url = f"{self.endpoint}/{quote(repository)}/resolve/{quote(commit, safe='')}/{quote(file)}"
        label = f"{repository}/{file}"
        text, _ = self._within(label, lambda stop: _get(url, start, count, self, stop))
        if len(text) < count:
            raise NetworkError(
                f"{label}: the server sent {len(text)} of {count} bytes from byte {start} on. "
                "Try again later."
            )
        return text

    def _within(self, label: str, work: Callable[[threading.Event], Result]) -> Result:
        """Return what `work` returns before the deadline. It is abandoned, not waited for."""
        results: SimpleQueue[tuple[Result | None, Exception | None]] = SimpleQueue()
        is_abandoned = threading.Event()

        def run() -> None:
            try:
                results.put((work(is_abandoned), None))
            except Exception as error:  # of several libraries, on answers that nobody foresaw
                results.put((None, error))

        left = self.started + self.limits.total_seconds - time.monotonic()
        threading.Thread(target=run, daemon=True, name="snugfit-hub").start()
        try:
            result, error = results.get(timeout=max(0.0, left))
        except Empty:
            raise self._too_slow(label) from None
        finally:
            is_abandoned.set()
        if isinstance(error, _Status):
            raise error.refusal(label) from None
        if error is not None:
            raise self._failed(label, error) from None
        return result  # type: ignore[return-value]  # an error or a result is there

    def _too_slow(self, label: str) -> Unreachable:
        return Unreachable(
            f"{label}: {self.endpoint} took longer than {self.limits.total_seconds:g} s. "
            "Try again later, or use --offline for what is in the cache."
        )

    def _failed(self, label: str, error: Exception) -> NetworkError:
        if isinstance(error, NetworkError):
            return error
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        return Unreachable(
            f"{label}: {self.endpoint} cannot be reached ({reason}). "
            "Check the network and HF_ENDPOINT, or use --offline for what is in the cache."
        )


class _Status(Exception):
    """The server answered with a status other than success."""

    def __init__(self, status: int) -> None:
        self.status = status

    def refusal(self, label: str) -> NetworkError:
        if self.status >= 500:
            return Unreachable(
                f"{label}: the Hub is out of order (status {self.status}). Try again later."
            )
        reason = REFUSALS.get(self.status, f"status {self.status}. Check HF_ENDPOINT")
        return NetworkError(f"{label}: the Hub refused it: {reason}.")


def _get(
    url: str, start: int | None, most: int, client: HubClient, is_abandoned: threading.Event
) -> tuple[bytes, bool]:
    """Return up to `most` bytes of an answer from `start` on, and whether it ended there.

    Servers may ignore ranges and send everything; then what comes before is passed over.
    """
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    headers = build_hf_headers() | {"accept-encoding": "identity"}
    if start is not None:
        headers["range"] = f"bytes={start}-{start + most - 1}"
    body = bytearray()
    request = get_session().stream(
        "GET", url, headers=headers, follow_redirects=True, timeout=client.limits.idle_seconds
    )
    with request as response:
        if response.status_code not in (200, 206):
            raise _Status(response.status_code)
        to_skip = _bytes_before(response, start or 0)
        for piece in response.iter_raw():
            if is_abandoned.is_set():
                break
            passed = min(to_skip, len(piece))
            to_skip -= passed
            body += piece[passed:]
            if len(body) > most or (start is not None and len(body) == most):
                return bytes(body[:most]), False
    return bytes(body), True


def _bytes_before(response: Any, start: int) -> int:
    """Return how much of an answer comes before `start`. Raises NetworkError on a wrong range."""
    if response.status_code != 206:
        return start
    stated = response.headers.get("content-range", "")
    match = CONTENT_RANGE.fullmatch(stated.strip())
    if match is None or int(match[1]) != start:
        raise NetworkError(
            f"{response.url.host}: asked for bytes from {start} on, the server answered "
            f"{stated[:80]!r}. Check HF_ENDPOINT."
        )
    return 0


class RemoteWindow:
    """A far file as bytes to slice, front to back: fetched in growing steps, and then let go."""

    def __init__(self, fetch: Callable[[int, int], bytes], size: int, path: Path, most: int):
        self.fetch, self.size, self.path, self.most = fetch, size, path, most
        self.start, self.held = 0, b""
        self.step = 0
        self.fetched = 0

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, span: slice) -> bytes:
        start, stop = span.start or 0, min(span.stop, self.size)
        if start < self.start or stop > self.start + len(self.held):
            self._load(start, stop)
        return self.held[start - self.start : max(0, stop - self.start)]

    def _load(self, start: int, stop: int) -> None:
        end = self.start + len(self.held)
        is_next = self.start <= start <= end
        kept = self.held[start - self.start :] if is_next else b""
        begin = start + len(kept)
        wanted = 2 * self.step if is_next else 0
        self.step = min(max(wanted, FIRST_STEP_BYTES), LARGEST_STEP_BYTES)
        count = min(max(stop - begin, self.step), self.size - begin)
        if self.fetched + count > self.most:
            raise NetworkError(
                f"{self.path}: its header has more than {format_size(self.most)}; no model's has. "
                "It is damaged, or not a model."
            )
        self.held = kept + (self.fetch(begin, count) if count > 0 else b"")
        self.start = start
        self.fetched += max(0, count)
