"""Bytes of files that may change or end while they are read: read, not mapped.

A mapped page whose file has become shorter kills the process, and mapped pages count as its memory.
A map still says where things are: `loaded` reads what a view of one shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from snugfit.errors import FormatError

Array = np.ndarray[Any, Any]
# A view that skips more than this part of what it spans is copied through the map instead.
MOST_SPANNED = 4


def read_at(path: Path, offset: int, count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return `count` bytes from `offset` on. Raises FormatError where the file ends before."""
    values = np.empty(count, np.uint8)
    read = 0
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            while read < count:
                more = file.readinto(values[read:].data)
                if not more:
                    raise FormatError(
                        f"{path}: ends at byte {offset + read}, but byte {offset + count} was "
                        "there when it was opened. Get the file again."
                    )
                read += more
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror}).") from None
    return values


def mapped(path: Path, dtype: np.dtype[Any], offset: int, shape: tuple[int, ...]) -> Array:
    """Map values of a file without reading them. Raises FormatError if it is gone or shorter."""
    try:
        return np.memmap(path, dtype, "r", offset=offset, shape=shape)
    except (OSError, ValueError):
        raise FormatError(
            f"{path}: is shorter than when it was opened, or gone. Get the file again."
        ) from None


def loaded(view: Array) -> Array:
    """Return what a view of a mapped file shows, in memory; any other array as it is.

    Raises FormatError if the file has become shorter.
    """
    root = _root_of(view)
    if root is None or not view.size:
        return view
    low, high = spanned(view)
    if high - low > MOST_SPANNED * view.nbytes:
        return gathered(view)
    start = view.ctypes.data + low - root.ctypes.data
    taken = read_at(Path(str(root.filename)), root.offset + start, high - low)
    return np.ndarray(view.shape, view.dtype, taken, -low, view.strides)


def gathered(view: Array) -> Array:
    """Return a copy that lies as the view does, but close together, as for turning it over.

    Columns of a large matrix, copied row by row, would miss every cache there is.
    """
    return np.array(view, order="K", subok=False)


def spanned(view: Array) -> tuple[int, int]:
    """Return where the bytes of a view that is not empty begin and end, from its first item on."""
    steps = [(length - 1) * step for length, step in zip(view.shape, view.strides, strict=True)]
    return sum(s for s in steps if s < 0), sum(s for s in steps if s > 0) + view.itemsize


def _root_of(view: Array) -> np.memmap[Any, Any] | None:
    """Return the map that an array is a view of, or None."""
    array: Any = view
    while isinstance(array.base, np.ndarray):
        array = array.base
    is_map = isinstance(array, np.memmap) and array.base is not None
    return array if is_map and array.filename is not None else None
