"""Specs of real shapes, read off recorded headers, and what llama.cpp allocates for them."""

import csv
import functools
import gzip
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from snugfit.archs.table import spec_of
from snugfit.core import Configuration, ModelSpec
from snugfit.formats.gguf import GgufFile, read_gguf

DATA = Path(__file__).parent / "data"
ROWS = list(csv.DictReader((DATA / "llama_cpp_cache_sizes.csv").read_text().splitlines()))
MODELS = tuple(dict.fromkeys(row["model"] for row in ROWS))


@contextmanager
def unpacked_header(name: str) -> Iterator[Path]:
    """Yield a header as a file, which ends where the data would begin."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.gguf"
        path.write_bytes(gzip.decompress((DATA / f"headers/{name}.gguf.gz").read_bytes()))
        yield path


def header(name: str) -> GgufFile:
    with unpacked_header(name) as path:
        return read_gguf(path)


@functools.cache
def spec_from_header(name: str) -> ModelSpec:
    file = header(name)
    return spec_of(
        name,
        file.metadata,
        tuple(file.tensors.values()),
        file_bytes=file.file_bytes,
        header_bytes=file.header_bytes,
    )


def configuration_of(row: dict[str, str]) -> Configuration:
    """Return the configuration that a recorded row was measured with."""
    return Configuration(
        ctx=int(row["n_ctx"]),
        kv_type=row["kv_type"].upper(),
        slots=int(row["n_seq"]),
        ubatch=int(row["n_ubatch"]),
        flash_attention=row["flash_attn"] == "on",
        kv_unified=True,
    )


def name_of(row: dict[str, str]) -> str:
    columns = ("model", "n_ctx", "kv_type", "n_seq", "n_ubatch", "flash_attn")
    return "-".join(row[column] for column in columns)


def original_of(spec: ModelSpec) -> ModelSpec:
    """Return the model before it was quantized: BF16 where the header has Q8_0."""
    tensors = tuple(
        replace(tensor, type_name="BF16") if tensor.type.is_quantized else tensor
        for tensor in spec.tensors
    )
    size = spec.header_bytes + sum(tensor.size_bytes for tensor in tensors)
    return replace(spec, tensors=tensors, file_bytes=size)
