"""Runs tasks on the workers of a Ray cluster, or of one that is started here for the pass.

Every node must see the model and the output's folder under the same names, as on a shared file
system. Workers read the rows of a task by range and write them to place; only names and importance
travel. A worker that is lost takes nothing with it: its tasks are run again, and write the same
bytes.
"""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from snugfit.errors import SnugfitError, UsageError
from snugfit.formats.gguf_writer import output_errors
from snugfit.models import Model
from snugfit.streaming.tasks import Task, Work, run_task

# Weights of a group of tasks: about a second of work, beside which handing it out costs nothing.
GROUP_WEIGHTS = 2**25
GROUPS_AHEAD = 2  # of each worker, so that none waits
RETRIES = 20  # of a group whose worker was lost
ANSWER_SECONDS = 5
LOCAL = "local"


@dataclass(frozen=True)
class Node:
    """A machine of the cluster, and the tasks that it runs at a time."""

    name: str
    workers: int


class RayWorkers:
    """An Executor on the cluster at `address`: `local`, `local:WORKERS`, or one of Ray's own.

    Ray's are `auto`, HOST:PORT, and ray://HOST:PORT from outside. Raises SnugfitError without the
    ray package or where nothing answers, UsageError for an address that is none.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.local_workers = _local_workers(address)

    def nodes(self) -> tuple[Node, ...]:
        """Return the machines of the cluster; a local one is not started for it."""
        if self.local_workers:
            return (Node("this machine", self.local_workers),)
        with self._connected() as ray:
            found = [
                Node(str(node["NodeManagerHostname"]), int(node["Resources"].get("CPU", 0)))
                for node in ray.nodes()
                if node["Alive"]
            ]
        return tuple(node for node in found if node.workers)

    def __call__(self, model: Model, work: Work, tasks: Iterable[Task]) -> Iterator[Task]:
        with self._connected() as ray:
            run = ray.remote(num_cpus=1, max_retries=RETRIES)(run_group)
            shared = ray.put((version("snugfit"), model, work))
            waiting = groups_of(model, tasks)
            ahead = GROUPS_AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
            running: list[Any] = []
            while True:
                while len(running) < ahead and (group := next(waiting, None)):
                    running.append(run.remote(shared, group))
                if not running:
                    return
                finished, running = ray.wait(running, num_returns=1)
                yield from self._outcome(ray, finished[0])

    def _outcome(self, ray: Any, finished: Any) -> list[Task]:
        try:
            outcome: list[Task] | SnugfitError = ray.get(finished)
        except ray.exceptions.RayTaskError as error:
            raise SnugfitError(
                f"--cluster {self.address}: a worker failed ({_first_line(error.cause)}). "
                "Run the same command again to go on."
            ) from None
        except ray.exceptions.RayError as error:
            raise SnugfitError(
                f"--cluster {self.address}: tasks were lost {RETRIES} times ({_first_line(error)})."
                " Run the same command again to go on."
            ) from None
        if isinstance(outcome, SnugfitError):
            raise outcome
        return outcome

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        try:
            import ray
        except ImportError:
            raise SnugfitError(
                "ray: not installed; --cluster needs it. "
                "Install it with: pip install 'snugfit[cluster]'"
            ) from None
        if ray.is_initialized():  # by a program that uses us: its cluster, and left as it is
            yield ray
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or it warns of a default
        if not self.local_workers:
            _check_reachable(self.address)
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            if self.local_workers:
                ray.init(num_cpus=self.local_workers, include_dashboard=False, **quiet)
            else:
                ray.init(self.address, **quiet)
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            raise SnugfitError(
                f"--cluster {self.address}: no cluster answers ({_first_line(error)}). Start one "
                "with `ray start --head`, or use --cluster local."
            ) from None
        try:
            yield ray
        finally:
            ray.shutdown()


def groups_of(model: Model, tasks: Iterable[Task]) -> Iterator[list[Task]]:
    """Yield tasks in groups of about GROUP_WEIGHTS weights."""
    group: list[Task] = []
    weights = 0
    for task in tasks:
        group.append(task)
        weights += task.rows * model.tensors[task.tensor].columns
        if weights >= GROUP_WEIGHTS:
            yield group
            group, weights = [], 0
    if group:
        yield group


def run_group(shared: tuple[str, Model, Work], group: Sequence[Task]) -> list[Task] | SnugfitError:
    """Run tasks on a worker; return them once their bytes are on its disk, or what failed.

    A failure is returned, not raised: Ray would run it again, and wrap it.
    """
    needed, model, work = shared
    try:
        _check_node(needed, work, group)
        done = [run_task(model, work, task) for task in group]
        _sync(work, group)
    except SnugfitError as error:
        return error
    return done


def _check_node(needed: str, work: Work, group: Sequence[Task]) -> None:
    """Raise SnugfitError where this node has another program, or does not see the output."""
    if version("snugfit") != needed:
        raise SnugfitError(
            f"{platform.node()}: has snugfit {version('snugfit')}, but {needed} began the pass. "
            "Install the same on every node."
        )
    for number, task in _written(group):
        partial = work.targets[number].places[task.tensor].partial
        if not partial.exists():
            raise SnugfitError(
                f"{platform.node()}: does not see {partial}. "
                "Write to a folder that every node shares."
            )


def _sync(work: Work, group: Sequence[Task]) -> None:
    """Wait until the bytes are where other nodes see them, and outlive this one."""
    for number, task in _written(group):
        target = work.targets[number]
        partial = target.places[task.tensor].partial
        with output_errors(target.path, target.file_bytes), partial.open("r+b") as file:
            os.fsync(file.fileno())


def _written(group: Sequence[Task]) -> Iterator[tuple[int, Task]]:
    """Yield a target and a task that writes to it, for each tensor that the group has."""
    seen = set()
    for task in group:
        for number in task.targets:
            if (number, task.tensor) not in seen:
                seen.add((number, task.tensor))
                yield number, task


def _local_workers(address: str) -> int:
    """Return how many workers a cluster on this machine gets, 0 for a cluster elsewhere."""
    name, _, count = address.partition(":")
    if name != LOCAL:
        return 0
    if not count:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    if not count.isdecimal() or not 0 < int(count) <= 4096:
        raise UsageError(f"--cluster {address}: {count!r} is no number of workers. Use local:2.")
    return int(count)


def _check_reachable(address: str) -> None:
    """Raise SnugfitError where nothing listens at HOST:PORT: Ray itself tries for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise SnugfitError(
            f"--cluster {address}: no cluster answers ({_first_line(error)}). Start one with "
            "`ray start --head`, or use --cluster local."
        ) from None


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
