"""What a method of packing is given, and what it gives back."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from snugfit.errors import FormatError, UnsupportedError
from snugfit.formats.packed.codes import Array
from snugfit.formats.packed.recent import Recent
from snugfit.formats.packed.weights import DOWNLOAD, Rows, Weight
from snugfit.formats.safetensors import StoredTensor

# Values of a stored tensor that shapes follow from: a few bytes, read before any weight is.
ReadSmall = Callable[[StoredTensor], Array]
MOST_SMALL_BYTES = 2**16


@dataclass
class Source:
    """Stored tensors, and the weights that were found in them so far.

    `settings` is the quantization_config of config.json; `dtype` the type that dequantized values
    are handed on in.
    """

    folder: str
    tensors: Mapping[str, StoredTensor]
    settings: Mapping[str, Any]
    dtype: str
    read_small: ReadSmall
    weights: dict[str, Weight] = field(default_factory=dict)
    used: set[str] = field(
        default_factory=set
    )  # stored tensors that are parts of a weight, or idle
    recent: Recent = field(default_factory=Recent)
    small: dict[tuple[str, tuple[int, ...]], Array] = field(default_factory=dict)

    def part(self, name: str, of: str) -> StoredTensor:
        """Return a stored part of a weight, as used. Raises FormatError if it is missing."""
        if name not in self.tensors:
            raise FormatError(
                f"{self.folder}: tensor {name} is missing, without which {of} cannot be read. "
                "Download every shard."
            )
        self.used.add(name)
        return self.tensors[name]

    def optional(self, name: str) -> StoredTensor | None:
        return self.part(name, name) if name in self.tensors else None

    def ending(self, suffix: str) -> list[str]:
        """Return what comes before `suffix` in the names that end with it and are not used yet."""
        return [
            name.removesuffix(suffix)
            for name in self.tensors
            if name.endswith(suffix) and name not in self.used
        ]

    def drop(self, *suffixes: str) -> None:
        """Leave out tensors that weights do not need, as scales of activations."""
        self.used.update(name for name in self.tensors if name.endswith(suffixes))

    def add(
        self,
        name: str,
        first: StoredTensor,
        shape: tuple[int, ...],
        open_matrix: Callable[[int], Rows],
        dtype: str = "",
    ) -> None:
        """Add a weight; `first` is the part that its errors name. Raises FormatError."""
        if name in self.weights or (name in self.tensors and name not in self.used):
            raise FormatError(f"{self.folder}: {name} is stored twice, packed and not. {DOWNLOAD}")
        if len(shape) not in (2, 3):
            raise UnsupportedError(
                f"{first.path}: tensor {first.name} stands for a weight of shape {list(shape)}; "
                "packed weights are matrices or stacks of them. Use the model's 16-bit files."
            )
        self.weights[name] = Weight(
            first.path, name, dtype or self.dtype, shape, open_matrix, self.recent
        )

    def sample(self, tensor: StoredTensor) -> Array:
        """Return the values of a small tensor, or of one that differs in the numbers of its name.

        Layers and experts are alike; reading one of each kind is enough to know their shapes.
        Raises FormatError if it is not small.
        """
        key = (re.sub(r"\d+", "#", tensor.name), tensor.shape)
        if key not in self.small:
            if tensor.size_bytes > MOST_SMALL_BYTES:
                raise FormatError(
                    f"{tensor.path}: tensor {tensor.name} has {tensor.size_bytes} bytes, too many "
                    f"to describe a weight. {DOWNLOAD}"
                )
            self.small[key] = self.read_small(tensor)
        return self.small[key]

    def number(self, key: str, default: int) -> int:
        """Return a whole number of the settings. Raises FormatError if it is none."""
        value = self.settings.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**31:
            raise FormatError(
                f"{self.folder}/config.json: {key} of quantization_config is {value!r}, not a "
                f"sensible number. {DOWNLOAD}"
            )
        return value

    def unsupported(self, what: str) -> UnsupportedError:
        return UnsupportedError(f"{self.folder}: {what}. Use the model's 16-bit files.")
