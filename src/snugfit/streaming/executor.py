"""Runs tasks on threads of this process: some read and write while others quantize."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from snugfit.models import Model
from snugfit.streaming.tasks import Task, Work, run_task

# Threads more than quantize at a time: they wait for the disk, on both sides.
READING_AHEAD = 2


class Executor(Protocol):
    """Whatever runs tasks: it yields each when its bytes are written, in any order.

    The first failure in the order of tasks is raised; what was under way is finished before.
    """

    def __call__(self, model: Model, work: Work, tasks: Iterable[Task]) -> Iterator[Task]: ...


class Threads:
    """An Executor that quantizes on so many threads at a time."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(self, model: Model, work: Work, tasks: Iterable[Task]) -> Iterator[Task]:
        turn = threading.Semaphore(self.count)
        return _in_threads(
            lambda task: run_task(model, work, task, turn), tasks, self.count + READING_AHEAD
        )


Outcome = tuple[int, Task | BaseException]


def _in_threads(run: Callable[[Task], Task], tasks: Iterable[Task], count: int) -> Iterator[Task]:
    numbered, handing_out = enumerate(tasks), threading.Lock()
    finished: queue.SimpleQueue[Outcome | None] = queue.SimpleQueue()
    stopped = threading.Event()

    def work() -> None:
        while not stopped.is_set():
            with handing_out:
                number, task = next(numbered, (-1, None))
            if task is None:
                break
            try:
                finished.put((number, run(task)))
            except BaseException as error:
                stopped.set()
                finished.put((number, error))
        finished.put(None)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    failures: list[tuple[int, BaseException]] = []
    working = count
    try:
        while working:
            outcome = finished.get()
            if outcome is None:
                working -= 1
            elif isinstance(outcome[1], Task):
                yield outcome[1]
            else:
                failures.append((outcome[0], outcome[1]))
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
    if failures:
        raise min(failures, key=lambda failure: failure[0])[1]
