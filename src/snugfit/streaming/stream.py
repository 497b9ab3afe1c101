"""One pass over a model: every run of rows read once, and written to every output that lacks it."""

from __future__ import annotations

import hashlib
import json
import queue
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import lru_cache
from pathlib import Path

from snugfit.errors import SnugfitError
from snugfit.formats.imatrix import Importance
from snugfit.models import Model
from snugfit.quants import _native
from snugfit.quants.codecs import Quality
from snugfit.streaming.destination import Destination, Notice, check_apart, check_free
from snugfit.streaming.executor import Executor
from snugfit.streaming.outputs import Output, Part, parts_of
from snugfit.streaming.source import SourceFile, check_unchanged, source_files
from snugfit.streaming.tasks import SLAB_BYTES, Task, Work, slabs

Progress = Callable[[int, int], None]  # weights done, weights in all
SECONDS_BETWEEN_NOTES = 0.5  # what a kill costs at most, beside what is under way


class Interrupted(SnugfitError):
    """Ctrl-C: what is done is kept."""

    exit_status = 130


def to_stderr(line: str) -> None:
    print(f"snugfit: {line}", file=sys.stderr)


def stream(
    model: Model,
    outputs: Sequence[Output],
    executor: Executor,
    *,
    importance: Importance | None = None,
    quality: Quality = "fast",
    progress: Progress | None = None,
    notice: Notice = to_stderr,
    slab_bytes: int = SLAB_BYTES,
) -> list[list[Part]]:
    """Write `outputs`, all of them or none; return their files.

    What an earlier run of the same pass left is gone on with, and `notice` is told a line. Kept for
    a later run are the files of a pass that was killed or interrupted, not those of one that
    failed. Raises BadNumberError, FormatError, OutputError, Interrupted.
    """
    files = source_files(model.files)
    parts = [parts_of(model, output) for output in outputs]
    check_apart([part for of_output in parts for part in of_output])
    seed = _seed(model, files, importance, quality)
    destinations: list[Destination] = []
    try:
        for output, of_output in zip(outputs, parts, strict=True):
            destinations.append(Destination(output, of_output, _fingerprint(seed, of_output)))
        for destination in destinations:
            destination.find(notice)
        check_free(destinations)
        for destination in destinations:
            destination.begin()
        work = Work(tuple(d.target for d in destinations), importance, quality)
        _run(model, work, destinations, files, executor, progress, slab_bytes)
        check_unchanged(files)
        while destinations:
            destinations[0].publish()
            destinations.pop(0)
    except SnugfitError:
        for destination in destinations:
            destination.abandon()
        raise
    except BaseException as error:
        for destination in destinations:
            destination.keep()
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(
                f"{outputs[0].path}: interrupted. What is done is kept: run the same command "
                "again to go on."
            ) from None
        raise
    return parts


def tasks_of(
    model: Model, destinations: Sequence[Destination], slab_bytes: int = SLAB_BYTES
) -> Iterator[Task]:
    """Yield what is not done yet, in the order of the model's tensors."""
    for tensor in model.tensors.values():
        for first, rows in slabs(tensor, slab_bytes):
            lacking = tuple(
                number
                for number, destination in enumerate(destinations)
                if not destination.has(tensor.name, first, rows)
            )
            if lacking:
                yield Task(tensor.name, first, rows, lacking)


def _run(
    model: Model,
    work: Work,
    destinations: Sequence[Destination],
    files: Sequence[SourceFile],
    executor: Executor,
    progress: Progress | None,
    slab_bytes: int,
) -> None:
    columns = {name: tensor.columns for name, tensor in model.tensors.items()}
    total = sum(tensor.parameters for tensor in model.tensors.values())
    # Tasks are made as they are taken: a large model has a million.
    todo = tasks_of(model, destinations, slab_bytes)
    done = total - sum(task.rows * columns[task.tensor] for task in todo)
    finished = _finished(executor, model, work, tasks_of(model, destinations, slab_bytes))
    with Notes(destinations, files) as notes, closing(finished):
        for task in finished:
            notes.add(task)
            done += task.rows * columns[task.tensor]
            if progress:
                progress(done, total)


def _finished(
    executor: Executor, model: Model, work: Work, tasks: Iterable[Task]
) -> Generator[Task, None, None]:
    yield from executor(model, work, tasks)


class Notes:
    """Notes finished tasks in the journals, on a thread of its own that waits for the disk.

    Leaving the block, however, notes the last ones. Raises what noting raised.
    """

    def __init__(self, destinations: Sequence[Destination], files: Sequence[SourceFile]) -> None:
        self.destinations, self.files = destinations, files
        self.finished: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self.failure: BaseException | None = None
        self.closing = threading.Event()
        self.thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Notes:
        self.thread.start()
        return self

    def add(self, task: Task) -> None:
        if self.failure:
            raise self.failure
        self.finished.put(task)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.closing.set()
        self.thread.join()
        if self.failure and kind is None:
            raise self.failure

    def _work(self) -> None:
        try:
            while not self.closing.wait(SECONDS_BETWEEN_NOTES):
                self._note()
            self._note()
        except BaseException as error:
            self.failure = error

    def _note(self) -> None:
        finished = [self.finished.get() for _ in range(self.finished.qsize())]
        if not finished:
            return
        check_unchanged(self.files)
        for number, destination in enumerate(self.destinations):
            runs = [(t.tensor, t.first, t.rows) for t in finished if number in t.targets]
            if runs:
                destination.sync()
                destination.note(runs)


def _seed(
    model: Model,
    files: Sequence[SourceFile],
    importance: Importance | None,
    quality: Quality,
) -> str:
    """Return what the bytes of every output depend on, as a hash."""
    from importlib.metadata import version

    weights = hashlib.sha256()
    for name, sums in sorted(importance.weights.items()) if importance else []:
        weights.update(f"{name} {sums.squares.shape} {sums.squares.dtype}".encode())
        weights.update(sums.squares.tobytes())
        weights.update(sums.counts.tobytes())
    described = {
        "program": version("snugfit"),
        "kernels": _kernels(),
        "source": [[str(f.path.absolute()), f.size, f.modified_ns, f.inode] for f in files],
        "tensors": [[t.name, t.shape, t.type_name] for t in model.tensors.values()],
        "importance": weights.hexdigest(),
        "quality": quality,
    }
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()


@lru_cache
def _kernels() -> str:
    """Return a hash of the native kernels: a program under development keeps its version."""
    return hashlib.sha256(Path(_native.__file__).read_bytes()).hexdigest()


def _fingerprint(seed: str, parts: Sequence[Part]) -> str:
    made = hashlib.sha256(seed.encode())
    for part in parts:
        header = part.layout.header
        made.update(f"{part.path.name} {len(header)}".encode())
        made.update(header)
    return made.hexdigest()
