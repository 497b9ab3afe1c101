"""config.json as conversion reads it: every number checked, for it comes from strangers."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from snugfit.archs.conversion.defaults import DEFAULTS
from snugfit.errors import FormatError, UnsupportedError

# Where models of several kinds of input keep the language model's numbers.
OF_LANGUAGE = ("text_config", "llm_config", "language_config")
# What model classes call the number of experts.
EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
LARGEST_HEAD = 2**16
DRAFT_LAYER = re.compile(r"(?:^|\.)mtp\.layers\.(\d{1,4})\.")
MOST_DRAFT_LAYERS = 64


@dataclass(frozen=True)
class Config:
    """A model's numbers: of its language model, and around it. Sizes in elements.

    `raw` is config.json with the numbers of the language model in its own place, and defaults for
    what it leaves out; `outer` is config.json as it is, vision towers and all. `stored_names` are
    the names of the model's tensors.
    """

    folder: str
    outer: Mapping[str, Any]
    stored_names: Collection[str] = ()

    @cached_property
    def raw(self) -> Mapping[str, Any]:
        inner: Any = next((self.outer[key] for key in OF_LANGUAGE if key in self.outer), {})
        if not isinstance(inner, Mapping):
            raise FormatError(
                f"{self.folder}/config.json: its language model is no object. Download it again."
            )
        kind = inner.get("model_type", self.outer.get("model_type"))
        defaults = DEFAULTS.get(kind, {}) if isinstance(kind, str) else {}
        return {**defaults, **self.outer, **inner}

    def part(self, key: str) -> Config:
        """Return the config of a tower, as `vision_config`. Raises FormatError without one."""
        found = self.outer.get(key)
        if not isinstance(found, Mapping):
            raise FormatError(
                f"{self.folder}/config.json: has no {key}; the model has no such part."
            )
        return Config(self.folder, found)

    def number(self, key: str, default: int | float | None = None) -> Any:
        """Return a number of the config. Raises FormatError if it is missing or not a sane one."""
        value = self.raw.get(key, default)
        if value is None:
            value = default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**40:
            raise FormatError(
                f"{self.folder}/config.json: {key} is {value!r}, not a sensible number. "
                "Download the model again."
            )
        return value

    def each_layer(self, key: str) -> list[int]:
        """Return a number of every layer: the config has one for all, or a list."""
        value = self.raw.get(key)
        if not isinstance(value, list):
            return [int(self.number(key))] * self.layers
        whole = all(isinstance(one, int) and 0 <= one < 2**31 for one in value)
        if len(value) != self.layers or not whole:
            raise FormatError(
                f"{self.folder}/config.json: {key} is no list of {self.layers} sensible numbers. "
                "Download it again."
            )
        return value

    def require(self, **allowed: tuple[Any, ...]) -> None:
        """Raise UnsupportedError where a key is there with a value that llama.cpp does not run."""
        for key, values in allowed.items():
            if key in self.raw and self.raw[key] not in values:
                raise UnsupportedError(
                    f"{self.folder}/config.json: {key} is {self.raw[key]!r}; llama.cpp runs this "
                    f"architecture with {' or '.join(map(repr, values))} only."
                )

    @property
    def layers(self) -> int:
        layers = int(self.number("num_hidden_layers"))
        if not 0 < layers < 10_000:
            raise FormatError(f"{self.folder}/config.json: {layers} layers cannot be right.")
        return layers

    @property
    def hidden_size(self) -> int:
        return int(self.number("hidden_size"))

    @property
    def vocabulary(self) -> int:
        return int(self.number("vocab_size"))

    @property
    def heads(self) -> int:
        return max(1, int(self.number("num_attention_heads")))

    @property
    def key_value_heads(self) -> int:
        return int(self.number("num_key_value_heads", self.heads))

    @property
    def head_size(self) -> int:
        size = int(self.number("head_dim", self.hidden_size // self.heads))
        if not 0 < size <= LARGEST_HEAD:
            raise FormatError(f"{self.folder}/config.json: heads of {size} cannot be right.")
        return size

    @property
    def experts(self) -> int:
        named = (key for key in EXPERT_COUNTS if self.raw.get(key) is not None)
        return int(self.number(next(named, EXPERT_COUNTS[0]), 0))

    @cached_property
    def draft_layers(self) -> int:
        """Layers after the last that only draft tokens (MTP): as stored, or as the config says."""
        stored = [int(m[1]) + 1 for name in self.stored_names if (m := DRAFT_LAYER.search(name))]
        said = int(self.number("num_nextn_predict_layers", 0))
        return min(max(stored, default=said), MOST_DRAFT_LAYERS)

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.raw.get(key)
        return default if value is None else bool(value)

    def names(self, key: str) -> list[str]:
        """Return a list of names, as `layer_types`; empty where there is none."""
        value = self.raw.get(key) or []
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise FormatError(
                f"{self.folder}/config.json: {key} is no list of names. Download it again."
            )
        return value

    @property
    def rope(self) -> Mapping[str, Any]:
        return self.rope_of("")

    @property
    def rope_numbers(self) -> Config:
        """Rope parameters of all layers, to be asked for numbers."""
        return Config(self.folder, self.rope)

    def rope_of(self, layer_type: str) -> Mapping[str, Any]:
        """Return rope parameters of layers of a type, or of all.

        They are transformers 5's `rope_parameters`, or the older pair of keys.
        """
        found = self.raw.get("rope_parameters") or self.raw.get("rope_scaling") or {}
        if isinstance(found, Mapping) and isinstance(found.get(layer_type), Mapping):
            found = found[layer_type]
        if not isinstance(found, Mapping):
            raise FormatError(
                f"{self.folder}/config.json: rope parameters are no object. Download it again."
            )
        theta = found.get("rope_theta", self.raw.get("rope_theta", 10_000.0))
        kind = found.get("rope_type", found.get("type", "default"))
        return {**found, "rope_theta": theta, "rope_type": kind}
