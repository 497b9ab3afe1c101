"""Checked numbers out of a model's metadata: it comes from strangers' files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np

from snugfit.errors import FormatError

# Far above any model that exists, and far below what overflows a sum of products.
MOST_LAYERS, MOST_HEADS, MOST_EXPERTS = 4096, 2**14, 2**16
WIDEST, LONGEST = 2**20, 2**31 - 1
REMEDY = "Download the file again, or convert the model anew."


@dataclass(frozen=True)
class Metadata:
    """One model's numbers; `key` lacks the architecture's prefix. All raise FormatError."""

    name: str
    architecture: str
    values: Mapping[str, Any]

    def has(self, key: str) -> bool:
        return f"{self.architecture}.{key}" in self.values

    def whole(self, key: str, lowest: int, highest: int, default: int | None = None) -> int:
        value = self.values.get(f"{self.architecture}.{key}", default)
        return self._checked(key, value, lowest, highest)

    def each_layer(
        self,
        key: str,
        layers: int,
        lowest: int,
        highest: int,
        default: Sequence[int] | int | None = None,
    ) -> tuple[int, ...]:
        """Return one number a layer: the file has an array of them, or one for all layers."""
        value = self.values.get(f"{self.architecture}.{key}", default)
        if not self._is_array(value):
            return (self._checked(key, value, lowest, highest),) * layers
        if len(value) < layers:
            raise self.fault(key, f"has {len(value)} numbers for {layers} layers")
        return tuple(self._checked(key, one, lowest, highest) for one in value[:layers])

    def each_layer_flag(self, key: str, layers: int) -> tuple[bool, ...] | None:
        """Return one truth a layer, or None where the file has no array of them."""
        value = self.values.get(f"{self.architecture}.{key}")
        if not self._is_array(value):
            return None
        if len(value) < layers:
            raise self.fault(key, f"has {len(value)} numbers for {layers} layers")
        return tuple(bool(self._checked(key, int(one), 0, 1)) for one in value[:layers])

    def fault(self, key: str, what: str) -> FormatError:
        return FormatError(f"{self.name}: {self.architecture}.{key} {what}. {REMEDY}")

    @staticmethod
    def _is_array(value: object) -> TypeGuard[Sequence[Any]]:
        return isinstance(value, np.ndarray | list | tuple)

    def _checked(self, key: str, value: object, lowest: int, highest: int) -> int:
        if value is None:
            raise self.fault(key, "is missing")
        if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
            raise self.fault(key, f"is not a whole number but {str(value)[:40]!r}")
        if not lowest <= int(value) <= highest:
            raise self.fault(key, f"is {value}, not between {lowest} and {highest}")
        return int(value)
