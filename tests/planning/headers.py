"""Specs of real shapes, read off recorded headers."""

from dataclasses import replace
from pathlib import Path

from snugfit.archs.table import spec_of
from snugfit.core import ModelSpec
from snugfit.formats.gguf import read_gguf

DATA = Path(__file__).parents[1] / "data"


def spec_from_header(name: str) -> ModelSpec:
    file = read_gguf(DATA / f"headers/{name}.gguf")
    return spec_of(
        name,
        file.metadata,
        tuple(file.tensors.values()),
        file_bytes=file.file_bytes,
        header_bytes=file.header_bytes,
    )


def original_of(spec: ModelSpec) -> ModelSpec:
    """Return the model before it was quantized: BF16 where the header has Q8_0."""
    tensors = tuple(
        replace(tensor, type_name="BF16") if tensor.type.is_quantized else tensor
        for tensor in spec.tensors
    )
    size = spec.header_bytes + sum(tensor.size_bytes for tensor in tensors)
    return replace(spec, tensors=tensors, file_bytes=size)
