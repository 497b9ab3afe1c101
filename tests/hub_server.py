"""A local server that answers as the Hub does, with ranges, and as hostile ones do."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PIECE_BYTES = 16384
LISTING = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?")
TREE = re.compile(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)")
FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


def parts(pattern: re.Pattern[str], address: str) -> list[str]:
    """Return what a path says, empty if it says nothing; a revision's own slashes are quoted."""
    match = pattern.fullmatch(urlsplit(address).path)
    return [unquote(part or "") for part in match.groups()] if match else []


@dataclass(frozen=True)
class Served:
    """A file of `size_bytes`, of which only the start is not zero."""

    start: bytes
    size_bytes: int

    def pieces(self, first: int, end: int) -> Iterator[bytes]:
        for at in range(first, end, PIECE_BYTES):
            count = min(PIECE_BYTES, end - at)
            yield self.start[at : at + count].ljust(count, b"\0")


def whole(content: bytes) -> Served:
    return Served(content, len(content))


@dataclass
class FakeHub:
    """What is served, how, and what was asked. `fault` is one of those in `Handler`."""

    repositories: dict[str, dict[str, Served]] = field(default_factory=dict)
    # Revision -> its commit, and the repositories at it; the others are at `commit`.
    revisions: dict[str, tuple[str, dict[str, dict[str, Served]]]] = field(default_factory=dict)
    fault: str = ""
    status: int = 0
    elsewhere: str = ""  # redirect files to this address
    commit: str = COMMIT
    requests: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)
    sent_bytes: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)
    address: str = ""

    def at(self, revision: str) -> tuple[str, dict[str, dict[str, Served]]]:
        """Return the commit and the repositories of a branch, a tag or a commit."""
        if revision in (self.commit, "main"):
            return self.commit, self.repositories
        known = {commit: (commit, found) for commit, found in self.revisions.values()}
        return (known | self.revisions).get(revision, ("", {}))

    def asked(self) -> list[str]:
        return [path for path, _ in self.requests]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        with contextlib.suppress(ConnectionError):
            self.answer()

    def do_HEAD(self) -> None:
        """What the Hub's own client asks before it downloads."""
        asked = parts(FILE, self.path)
        commit, repositories = self.hub.at(asked[1]) if asked else ("", {})
        served = repositories.get(asked[0], {}).get(asked[2]) if asked else None
        if served is None:
            self.refuse(404)
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{abs(hash((self.path, served))):x}"')
        self.send_header("Content-Length", str(served.size_bytes))
        self.end_headers()

    def answer(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.requests.append((path, dict(self.headers)))
        if hub.fault == "hangs":
            hub.stopped.wait(30)
        elif hub.fault == "drips headers":
            self.drip(b"HTTP/1.1 200 OK\r\n" + b"X-Slow: 1\r\n" * 10_000)
        elif found := parts(LISTING, self.path):
            self.answer_listing(found[0], found[1] or "main")
        elif found := parts(TREE, self.path):
            files = hub.at(found[1])[1].get(found[0], {})
            listed = [
                {"type": "file", "path": name, "size": served.size_bytes, "oid": "x"}
                for name, served in files.items()
            ]
            self.send_whole(json.dumps(listed).encode())
        elif found := parts(FILE, self.path):
            if hub.elsewhere:
                self.redirect(hub.elsewhere + self.path)
            else:
                self.answer_file(*found)
        else:
            self.refuse(404)

    def answer_listing(self, repository: str, revision: str) -> None:
        commit, repositories = self.hub.at(revision)
        files = repositories.get(repository)
        if self.hub.status or files is None:
            self.refuse(self.hub.status or 404)
            return
        if self.hub.fault == "no JSON":
            self.send_whole(b"<html>A captive portal</html>")
            return
        siblings = [
            {"rfilename": name, "size": served.size_bytes, "blobId": "x"}
            for name, served in files.items()
        ]
        self.send_whole(
            json.dumps({"id": repository, "sha": commit, "siblings": siblings}).encode()
        )

    def answer_file(self, repository: str, revision: str, name: str) -> None:
        served = self.hub.at(revision)[1].get(repository, {}).get(name)
        if served is None:
            self.refuse(404)
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        first, end = 0, served.size_bytes
        if asked and self.hub.fault != "no ranges":
            first, end = int(asked[1]), min(int(asked[2]) + 1, served.size_bytes)
            self.send_response(206)
            shown = first + 7 if self.hub.fault == "wrong range" else first
            self.send_header("Content-Range", f"bytes {shown}-{end - 1}/{served.size_bytes}")
        else:
            self.send_response(200)
        if self.hub.fault == "endless":
            self.send_header("Connection", "close")
            self.end_headers()
            while not self.hub.stopped.is_set():
                self.send(b"\xff" * PIECE_BYTES)
            return
        self.send_header("Content-Length", str(end - first))
        self.end_headers()
        for piece in served.pieces(first, end):
            if self.hub.fault == "drips":
                self.drip(piece)
            if self.hub.fault == "truncates":
                self.send(piece[:100])
                self.close_connection = True
                return
            self.send(piece)

    def send(self, piece: bytes) -> None:
        self.wfile.write(piece)
        self.hub.sent_bytes += len(piece)

    def drip(self, content: bytes) -> None:
        for at in range(len(content)):
            self.wfile.write(content[at : at + 1])
            if self.hub.stopped.wait(0.02):
                break
        self.close_connection = True

    def send_whole(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.send(content)

    def refuse(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def redirect(self, address: str) -> None:
        self.send_response(302)
        self.send_header("Location", address)
        self.send_header("Content-Length", "0")
        self.end_headers()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up, as ours do on servers that misbehave."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@contextlib.contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve on a free port of this machine until the block ends."""
    server = Server(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        hub.stopped.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
