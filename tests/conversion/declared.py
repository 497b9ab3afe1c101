"""Models of real size without weights: what transformers declares on its meta device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from snugfit.archs.conversion.config import Config
from snugfit.archs.conversion.rows import row_of
from snugfit.archs.conversion.tensors import ConvertedTensor, convert_tensors


@dataclass(frozen=True)
class Declared:
    """A stored tensor that cannot be read, or that was given its values."""

    shape: tuple[int, ...]
    dtype: str = "BF16"
    values: Any = None

    def opened(self, index: int | None = None) -> Any:
        assert self.values is not None, "only headers are read"
        return (self.values if index is None else self.values[index]), lambda view: view


def declared(model_type: str, config: Mapping[str, Any]) -> dict[str, Declared]:
    """Return the tensors that transformers makes of a config, by its own names."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **config))
    return {
        name: Declared(tuple(tensor.shape), "I64" if tensor.dtype == torch.int64 else "BF16")
        for name, tensor in model.state_dict().items()
    }


def converted(
    model_class: str, config: Mapping[str, Any], stored: Mapping[str, Declared]
) -> tuple[dict[str, Any], dict[str, ConvertedTensor]]:
    """Return keys, architecture's prefix left out, and tensors of a model."""
    read = Config("folder", {"architectures": [model_class], **config})
    row = row_of(read)
    tensors = convert_tensors(read, row, stored)
    return row.metadata(read), {tensor.info.name: tensor for tensor in tensors}


def alike(found: Any, expected: Any) -> bool:
    return (
        found == expected if isinstance(expected, str) else np.allclose(found, expected, rtol=1e-6)
    )


def check_header(
    keys: Mapping[str, Any],
    tensors: Mapping[str, ConvertedTensor],
    header: Any,
    *,
    beyond: tuple[str, ...] = (),
    differing: tuple[str, ...] = (),
) -> None:
    """Compare with a header of a published file: every tensor, and the keys that both have.

    The header has keys `beyond` those of llama.cpp's converter, and others in another form.
    """
    assert {n: t.info.shape for n, t in tensors.items()} == {
        name: tensor.shape for name, tensor in header.tensors.items()
    }
    prefix = header.metadata["general.architecture"] + "."
    expected = {k.removeprefix(prefix): v for k, v in header.metadata.items() if prefix in k}
    assert expected.keys() - keys.keys() == set(beyond)
    for key in expected.keys() & keys.keys() - set(differing):
        assert alike(keys[key], expected[key]), key
