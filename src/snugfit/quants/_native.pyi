"""Compiled kernels, called by `codecs`, which checks what it passes."""

import numpy as np
from numpy.typing import NDArray

_Rows = NDArray[np.float32]
_Blocks = NDArray[np.uint8]

def quantize(
    type_name: str,
    rows: _Blocks,
    source_name: str,
    blocks: _Blocks,
    importance: _Rows | None,
    best: bool,
    threads: int,
) -> int:
    """Fill blocks from rows that are bytes of another type.

    Return the first row with a number that is not finite, or -1.
    """

def dequantize(type_name: str, blocks: _Blocks, rows: _Rows, threads: int) -> None:
    """Fill rows."""

def readable() -> list[str]:
    """Names of the types that have a kernel."""

def writable() -> list[str]: ...
def writable_better() -> list[str]:
    """Names of the types that have a slower way of less error."""

def set_grid(name: str, values: NDArray[np.int8]) -> None: ...
def use_instruction_set(name: str) -> None: ...
def instruction_sets() -> list[str]: ...
def instruction_set() -> str: ...
