"""The process that holds llama.cpp: `python -m snugfit.runtimes.llama_cpp_child`.

One JSON document a line. The first line in holds the settings of `engine_parameters`; the first
line out is {"ready": true} or {"failed": reason}. From then on
    in:  {"id": 7, "path": "/completion", "body": {...}}   a request to the engine's own HTTP API
         {"cancel": 7}
    out: {"id": 7, "event": {...}}   for each piece of a stream, or once for a whole answer
         {"id": 7, "error": {...}}   the engine refused
         {"id": 7, "done": true}     always last
The process ends when its standard input closes, so it never outlives its parent.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import select
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit


class Outbox:
    """Writes one message a line, whole, from any thread."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def send(self, message: dict[str, Any]) -> None:
        self._write(json.dumps(message).encode())

    def send_event(self, request_id: int, event: bytes) -> None:
        """Forward the engine's JSON as it is: parsing it here would cost time for every token."""
        self._write(b'{"id": %d, "event": %s}' % (request_id, event))

    def _write(self, line: bytes) -> None:
        # A broken pipe means that the parent is gone, which the closed input tells us too.
        with self._lock, contextlib.suppress(BrokenPipeError):
            self._stream.write(line + b"\n")
            self._stream.flush()


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


class Engine:
    """The embedded server's HTTP address, guarded by a key that only this process knows.

    A Unix socket where there is one: over TCP the engine leaves Nagle's algorithm on, which holds
    tokens back for up to 40 ms.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        import xllamacpp

        self._key = secrets.token_hex(16)
        self._socket: str = settings["socket"]
        parameters = engine_parameters(xllamacpp, settings)
        parameters.api_keys = [self._key]
        if self._socket:
            parameters.hostnames = [self._socket]
        self._server = xllamacpp.Server(parameters)  # holds the model; gone with the process
        self._address = self._server.listening_address

    def connect(self) -> http.client.HTTPConnection:
        if self._socket:
            connection: http.client.HTTPConnection = UnixConnection(self._socket)
        else:
            address = urlsplit(self._address)
            connection = http.client.HTTPConnection(address.hostname or "127.0.0.1", address.port)
        connection.connect()  # now, so that a request can be cancelled from its first moment
        return connection

    def ask(
        self, connection: http.client.HTTPConnection, path: str, body: dict[str, Any] | None
    ) -> http.client.HTTPResponse:
        """Send one request: POST, or GET without a body."""
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        if body is None:
            connection.request("GET", path, headers=headers)
        else:
            connection.request("POST", path, json.dumps(body).encode(), headers)
        return connection.getresponse()


def engine_parameters(xllamacpp: Any, settings: dict[str, Any]) -> Any:
    """Return xllamacpp's parameters for our settings; everything that costs memory is explicit."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = settings["model"]
    parameters.n_ctx = settings["ctx"]
    parameters.n_parallel = settings["slots"]
    parameters.kv_unified = settings["kv_unified"]
    parameters.swa_full = settings["swa_full"]
    parameters.n_ubatch = settings["ubatch"]
    parameters.n_batch = max(2048, settings["ubatch"])
    types = xllamacpp.ggml_type
    parameters.cache_type_k = getattr(types, f"GGML_TYPE_{settings['kv_type']}")
    parameters.cache_type_v = getattr(types, f"GGML_TYPE_{settings['value_type']}")
    flash = "ENABLED" if settings["flash_attention"] else "DISABLED"
    parameters.flash_attn_type = getattr(
        xllamacpp.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{flash}"
    )
    parameters.n_gpu_layers = settings["gpu_layers"]
    if settings["gpu_split"]:
        split = [float(count) for count in settings["gpu_split"]]
        unused = [0.0] * (len(parameters.tensor_split) - len(split))
        parameters.tensor_split = split + unused
    parameters.moe_cache_size = settings["expert_cache_bytes"]
    overrides = expert_overrides(settings["cpu_expert_layers"])
    if overrides:
        parameters.tensor_buft_overrides = overrides
    if settings["threads"]:
        parameters.cpuparams.n_threads = settings["threads"]
        parameters.cpuparams_batch.n_threads = settings["threads"]
    # Our planner decided; and no host memory beyond the plan for kept prompts and checkpoints.
    parameters.fit_params = False
    parameters.cache_ram_mib = 0
    parameters.cache_idle_slots = False
    parameters.n_ctx_checkpoints = 0
    # 4 is the least verbosity that prints the buffer sizes.
    parameters.verbosity = 4
    parameters.ui = False
    return parameters


def expert_overrides(layers: int) -> str:
    """Return llama.cpp's pattern=buffer list that keeps the first layers' experts in RAM."""
    return ",".join(
        rf"blk\.{layer}\.ffn_(up|down|gate|gate_up)_(ch|)exps=CPU" for layer in range(layers)
    )


def serve(engine: Engine, inbox: BinaryIO, outbox: Outbox) -> None:
    """Answer requests, several at a time, until the input closes."""
    connections: dict[int, http.client.HTTPConnection] = {}
    for line in inbox:
        message = json.loads(line)
        if "cancel" in message:
            hang_up(connections.get(message["cancel"]))
            continue
        connection = connections[message["id"]] = engine.connect()
        work = (engine, connection, message, outbox, connections)
        threading.Thread(target=answer, args=work, daemon=True).start()


def answer(
    engine: Engine,
    connection: http.client.HTTPConnection,
    message: dict[str, Any],
    outbox: Outbox,
    connections: dict[int, http.client.HTTPConnection],
) -> None:
    """Pass one request on to the engine and its answer back."""
    request_id: int = message["id"]
    try:
        response = engine.ask(connection, message["path"], message.get("body"))
        if response.status != http.client.OK:
            outbox.send({"id": request_id, "error": refusal(response)})
        else:
            for event in events(response):
                outbox.send_event(request_id, event)
    except (OSError, ValueError, http.client.HTTPException) as error:
        outbox.send({"id": request_id, "error": {"message": f"the connection broke: {error}"}})
    finally:
        connections.pop(request_id, None)
        connection.close()
        outbox.send({"id": request_id, "done": True})


def events(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield the JSON documents of a server-sent stream, or the one document of a plain answer."""
    if "event-stream" not in (response.getheader("Content-Type") or ""):
        yield response.read()
        return
    for line in response:
        kind, _, data = line.strip().partition(b": ")
        if kind == b"error":
            yield b'{"error": %s}' % data
        elif kind == b"data" and data != b"[DONE]":
            yield data


def refusal(response: http.client.HTTPResponse) -> Any:
    """Return the engine's error object, or its bare text as one."""
    text = response.read().decode("utf-8", "replace")
    try:
        return json.loads(text)["error"]
    except (ValueError, KeyError, TypeError):
        return {"message": f"HTTP {response.status} {text}"}


def hang_up(connection: http.client.HTTPConnection | None) -> None:
    """Break a connection: the engine then stops working on its request."""
    if connection is not None and connection.sock is not None:
        with contextlib.suppress(OSError):
            connection.sock.shutdown(socket.SHUT_RDWR)


def take_standard_streams() -> tuple[BinaryIO, Outbox]:
    """Keep the two pipes for messages; what the engine prints to stdout goes to stderr."""
    inbox, outbox = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return inbox, Outbox(outbox)


@contextlib.contextmanager
def dying_with(inbox: BinaryIO) -> Iterator[None]:
    """End this process at once if its input closes meanwhile.

    Loading holds Python's lock, so no thread of ours could notice. The kernel can: it sends SIGIO
    when the pipe's other end closes. Elsewhere than on Linux we notice after loading.
    """
    if sys.platform != "linux":
        yield
        return
    import fcntl

    descriptor = inbox.fileno()
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_ASYNC)
    if select.select([descriptor], [], [], 0)[0]:  # nothing is sent now, so it is the end
        os._exit(0)
    try:
        yield
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)


def volunteer_for_out_of_memory() -> None:
    """Have Linux choose this process, not the person's desktop, when memory runs out."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("800", encoding="ascii")


def remove_socket(path: str) -> None:
    """Remove the socket and its folder, for a parent that was killed and cannot."""
    with contextlib.suppress(OSError):
        if path:
            Path(path).unlink()
            Path(path).parent.rmdir()


def main() -> int:
    """Load, then serve until the parent hangs up. Exit status 1 when loading fails."""
    inbox, outbox = take_standard_streams()
    volunteer_for_out_of_memory()
    try:
        settings = json.loads(inbox.readline())
        with dying_with(inbox):
            engine = Engine(settings)
    except Exception as error:  # whatever it is, the parent reports it
        outbox.send({"failed": f"{type(error).__name__}: {error}"})
        return 1  # a normal exit, which flushes the engine's log
    # The engine took the signals over; a plain SIGTERM must end us even when it hangs.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    outbox.send({"ready": True})
    serve(engine, inbox, outbox)
    remove_socket(settings["socket"])
    os._exit(0)  # no clean-up that could hang; the system frees everything


if __name__ == "__main__":
    sys.exit(main())
