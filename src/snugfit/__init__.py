"""Snugfit fits the best possible language model into the memory you have."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snugfit.quants.codecs import dequantize_rows, quantize_rows
    from snugfit.sizing import inspect, memory, plan

__all__ = ["dequantize_rows", "inspect", "memory", "plan", "quantize_rows"]

# Loaded on first use: importing snugfit does nothing.
_HOME_OF_NAME = {
    "inspect": "snugfit.sizing",
    "memory": "snugfit.sizing",
    "plan": "snugfit.sizing",
    "quantize_rows": "snugfit.quants.codecs",
    "dequantize_rows": "snugfit.quants.codecs",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF_NAME:
        raise AttributeError(f"module 'snugfit' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF_NAME[name]), name)
