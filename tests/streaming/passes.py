"""Passes in processes of their own, which tests kill. A server that has imported all forks them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from made import SMALL_SLAB, importance_of, output

from snugfit.errors import SnugfitError
from snugfit.models import Blocks, open_model
from snugfit.streaming import stream
from snugfit.streaming.executor import Threads

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["snugfit.quantize", "importlib.metadata"])


class Child:
    """A pass of FOLDER/model.gguf to out.gguf and, in splits, split-*.gguf.

    Every task waits so many seconds after it read its rows, so that a signal finds it at work.
    """

    def __init__(self, folder: Path, delay: float = 0.0) -> None:
        self.receiver, sender = SERVER.Pipe(duplex=False)
        self.process = SERVER.Process(target=run, args=(folder, delay, sender))
        self.process.start()
        sender.close()
        self.read: list[str] = []  # tasks whose rows were read
        self.said: list[str] = []

    def next(self) -> bool:
        """Wait until it has read once more; return whether it lives."""
        try:
            kind, text = self.receiver.recv()
        except (EOFError, ConnectionResetError):
            return False
        (self.read if kind == "read" else self.said).append(text)
        return True

    def stop(self, number: signal.Signals) -> None:
        if self.process.is_alive() and self.process.pid:
            os.kill(self.process.pid, number)

    def wait(self) -> int | None:
        while self.next():
            pass
        self.process.join()
        return self.process.exitcode


def run(folder: Path, delay: float, sender: Connection) -> None:
    def read(name: str, first: int, count: int) -> Blocks:
        rows = inner(name, first, count)
        sender.send(("read", f"{name} {first}"))
        time.sleep(delay)
        return rows

    # Ctrl-C is ignored by what a shell runs in the background, such as these tests may be.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    stream.SECONDS_BETWEEN_NOTES = 0.002
    model = open_model(str(folder / "model.gguf"))
    inner = model.read
    outputs = [
        output(folder / "out.gguf", model),
        output(folder / "split.gguf", model, "Q8_0", split_tensors=2),
    ]
    try:
        stream.stream(
            replace(model, read=read),
            outputs,
            Threads(2),
            importance=importance_of(model),
            notice=lambda line: sender.send(("said", line)),
            slab_bytes=SMALL_SLAB,
        )
    except SnugfitError as error:
        sender.send(("said", str(error)))
        os._exit(error.exit_status)
