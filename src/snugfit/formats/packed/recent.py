"""What was made last of packed weights, for threads that ask for it again soon."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

READERS = 4  # matrices that threads are at work on: as many follow each other within their slabs
MATRICES = 2  # unpacked; threads at the end of one and the beginning of the next


class Latest:
    """The few things that were used last, each made by one thread while others wait for it.

    A copy of it in another process is empty.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.lock = threading.Lock()
        self.made: dict[Hashable, _Made] = {}  # last used, last in order

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        with self.lock:
            entry = self.made[key] = self.made.pop(key, _Made())
            if len(self.made) > self.most:
                del self.made[next(iter(self.made))]
        with entry.lock:
            if entry.value is None:
                entry.value = make()
            return entry.value

    def __reduce__(self) -> tuple[type[Latest], tuple[int]]:
        return Latest, (self.most,)


@dataclass
class _Made:
    value: Any = None
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class Recent:
    """What is kept of all packed weights of a model."""

    readers: Latest = field(default_factory=lambda: Latest(READERS))
    # Those of which rows are columns when they are handed on: no run of rows would do.
    matrices: Latest = field(default_factory=lambda: Latest(MATRICES))
