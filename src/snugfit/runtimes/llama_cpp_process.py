"""The engine's process: its pipes, the threads that drain them, and how it is ended."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from snugfit.runtimes.llama_cpp_log import EngineLog

STARTING = 0  # the id under which the child's first message is delivered; requests count from 1
CHILD_MODULE = "snugfit.runtimes.llama_cpp_child"
ENDING_SECONDS = 2.0  # how long each step of ending the child may take before the next, harsher one
# How CUDA, ROCm and Vulkan are told which devices there are; an empty list is none.
GPU_LISTS = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES")
LONGEST_SOCKET_PATH = 100  # bytes; the systems' limits are 104 and 108


class Child:
    """The engine's process, its pipes and the threads that drain them."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.log = EngineLog()
        self.last_sign_of_life = time.monotonic()
        self._mailboxes: dict[int, queue.SimpleQueue[dict[str, Any] | None]] = {}
        self._lock = threading.Lock()  # of the mailboxes
        self._writing = threading.Lock()
        self._ended = False
        self.open_mailbox(STARTING)
        self._folder = tempfile.mkdtemp(prefix="snugfit-")  # readable for this user alone
        self.process = subprocess.Popen(
            [sys.executable, "-m", CHILD_MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=child_environment(uses_gpus=settings["gpu_layers"] > 0),
            start_new_session=True,  # Ctrl-C is for us; the child follows when we hang up
        )
        self._readers = [
            threading.Thread(target=self._read_messages, daemon=True),
            threading.Thread(target=self._read_log, daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        self.send(settings | {"socket": socket_path(self._folder)})

    def send(self, message: dict[str, Any]) -> None:
        """Write one message; a child that is gone is noticed by whoever waits for its answer."""
        with self._writing, contextlib.suppress(OSError, ValueError):
            pipe = _opened(self.process.stdin)
            pipe.write(json.dumps(message).encode() + b"\n")
            pipe.flush()

    def open_mailbox(self, request_id: int) -> queue.SimpleQueue[dict[str, Any] | None]:
        """Return where the answers to a request arrive; None arrives when the child has ended."""
        mailbox: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        with self._lock:
            self._mailboxes[request_id] = mailbox
            if self._ended:
                mailbox.put(None)
        return mailbox

    def mailbox(self, request_id: int) -> queue.SimpleQueue[dict[str, Any] | None]:
        return self._mailboxes[request_id]

    def close_mailbox(self, request_id: int) -> None:
        with self._lock:
            self._mailboxes.pop(request_id, None)

    def end(self, *, patiently: bool = True) -> int:
        """Hang up, then terminate, then kill; at once without patience. Returns the exit status."""
        with contextlib.suppress(OSError):
            _opened(self.process.stdin).close()
        harsher: list[Callable[[], None]] = [self.process.terminate] if patiently else []
        for next_step in [*harsher, self.process.kill]:
            try:
                status = self.process.wait(ENDING_SECONDS if patiently else 0)
                break
            except subprocess.TimeoutExpired:
                next_step()
        else:
            status = self.process.wait()
        for reader in self._readers:
            reader.join(ENDING_SECONDS)
        shutil.rmtree(self._folder, ignore_errors=True)
        return status

    def _read_messages(self) -> None:
        with _opened(self.process.stdout) as pipe, contextlib.suppress(ValueError):
            for line in pipe:
                self._deliver(json.loads(line))
        with self._lock:
            self._ended = True
            for mailbox in self._mailboxes.values():
                mailbox.put(None)

    def _deliver(self, message: dict[str, Any]) -> None:
        self.last_sign_of_life = time.monotonic()
        with self._lock:
            mailbox = self._mailboxes.get(message.get("id", STARTING))
            if mailbox is not None:  # else its asker has gone away
                mailbox.put(message)

    def _read_log(self) -> None:
        with _opened(self.process.stderr) as pipe:
            for line in pipe:
                self.last_sign_of_life = time.monotonic()
                self.log.add(line.decode("utf-8", "replace").rstrip())


def socket_path(folder: str) -> str:
    """Return the path of a Unix socket in `folder`, empty where the system cannot have it."""
    path = str(Path(folder) / "engine.sock")
    fits = hasattr(socket, "AF_UNIX") and len(os.fsencode(path)) <= LONGEST_SOCKET_PATH
    return path if fits and sys.platform != "win32" else ""


def child_environment(*, uses_gpus: bool) -> dict[str, str]:
    """Return our environment, with this very snugfit first on the child's path.

    Without layers on a GPU the engine must not see one: it would put compute buffers there. Its
    threads wait for each other hundreds of times a token: those that sleep at once, as the command
    line asks of torch's, made the engine 2 to 20 times slower.
    """
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    hidden = {} if uses_gpus else dict.fromkeys(GPU_LISTS, "")
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    return (
        inherited
        | hidden
        | {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "PYTHONSAFEPATH": "1",  # -m would otherwise import from the current folder first
            "GGML_NO_BACKTRACE": "1",  # it would run a debugger on itself as it aborts
        }
    )


def _opened(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None  # Popen was asked for all three
    return pipe
