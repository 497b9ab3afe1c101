"""Sources that are stored quantized, seen as the weights that they stand for.

A method of packing is a file here and a row of METHODS. It finds the tensors that make up each
packed weight and replaces them by one, under the weight's own name; values are made when they are
asked for. To conversion, such a model looks like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from snugfit.errors import FormatError, UnsupportedError
from snugfit.formats.packed.awq import awq_weights
from snugfit.formats.packed.bitsandbytes import bitsandbytes_weights
from snugfit.formats.packed.compressed import compressed_weights
from snugfit.formats.packed.floats import float_weights
from snugfit.formats.packed.gptq import gptq_weights
from snugfit.formats.packed.mxfp4 import mxfp4_weights
from snugfit.formats.packed.source import ReadSmall, Source
from snugfit.formats.packed.weights import DOWNLOAD, Weight
from snugfit.formats.safetensors import StoredTensor

# quant_method of config.json -> what finds its weights.
METHODS: dict[str, Callable[[Source], None]] = {
    "fp8": float_weights,
    "fbgemm_fp8": float_weights,
    "modelopt": float_weights,
    "mxfp4": mxfp4_weights,
    "gptq": gptq_weights,
    "awq": awq_weights,
    "compressed-tensors": compressed_weights,
    "bitsandbytes": bitsandbytes_weights,
}
# What a model computes in -> the type that its dequantized values are handed on in: that is how its
# own programs use them, and what they count as being stored in. Of both names transformers has had.
COMPUTED_IN = ("dtype", "torch_dtype")
HANDED_ON = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
# Where a config keeps the settings; of a model with towers, the language model may have its own.
SETTINGS = ("quantization_config", "compression_config")
MODELOPT_FILE = "hf_quant_config.json"

LogicalTensors = dict[str, StoredTensor | Weight]


def settings_of(folder: str, config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return what config.json says of how weights are packed, or None. Raises FormatError."""
    inner = (config.get(key) for key in ("text_config", "llm_config", "language_config"))
    for holder in (config, *inner):
        for key in SETTINGS:
            found = holder.get(key) if isinstance(holder, Mapping) else None
            if found is not None and not isinstance(found, Mapping):
                raise FormatError(f"{folder}/config.json: {key} is no object. {DOWNLOAD}")
            if found:
                return found
    return None


def settings_of_modelopt(folder: str, described: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return settings out of modelopt's own file, where config.json has none."""
    found = described.get("quantization")
    if not isinstance(found, Mapping):
        raise FormatError(f"{folder}/{MODELOPT_FILE}: has no quantization. {DOWNLOAD}")
    return {"quant_method": "modelopt", **found}


def logical_tensors(
    folder: str,
    stored: Mapping[str, StoredTensor],
    config: Mapping[str, Any],
    settings: Mapping[str, Any] | None,
    read_small: ReadSmall | None = None,
) -> LogicalTensors:
    """Return the tensors of a model by name, each packed weight as one; nothing large is read.

    `config` is config.json, `settings` what it says of packing; without any, tensors are as they
    are. `read_small` reads a tensor of a few bytes, where the files are not here.
    Raises FormatError where parts are missing or do not fit, UnsupportedError for other methods.
    """
    if not settings:
        return dict(stored)
    method = method_of(folder, settings)
    source = Source(folder, stored, settings, _handed_on(config), read_small or _read)
    METHODS[method](source)
    others = {name: tensor for name, tensor in stored.items() if name not in source.used}
    return others | source.weights


def method_of(folder: str, settings: Mapping[str, Any]) -> str:
    """Return the key of METHODS. Raises UnsupportedError for a method that is not there."""
    named = settings.get("quant_method")
    if named is None and (settings.get("load_in_4bit") or settings.get("load_in_8bit")):
        named = "bitsandbytes"
    if named is None and "config_groups" in settings:
        named = "compressed-tensors"
    if named == "auto-round":  # Intel's, which writes the others' formats
        packing = str(settings.get("packing_format", ""))
        named = next((known for known in ("gptq", "awq") if known in packing), named)
    if isinstance(named, str) and named.lower().startswith("modelopt"):
        named = "modelopt"
    if not isinstance(named, str) or named not in METHODS:
        raise UnsupportedError(
            f"{folder}: packed by the method {named!r}; {', '.join(METHODS)} can be read. "
            "Use the model's 16-bit files."
        )
    return named


def _handed_on(config: Mapping[str, Any]) -> str:
    inner = config.get("text_config")
    for holder in (config, inner if isinstance(inner, Mapping) else {}):
        for key in COMPUTED_IN:
            if isinstance(holder.get(key), str):
                return HANDED_ON.get(holder[key].removeprefix("torch."), "BF16")
    return "BF16"


def _read(tensor: StoredTensor) -> np.ndarray[Any, Any]:
    return tensor.read()
