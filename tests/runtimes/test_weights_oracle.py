"""Bytes of weights against what the embedded llama.cpp would allocate, and does, on the CPU."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from shapes import SHAPES, metadata_of, spec_of_shape, tensors_of
from tiny_gguf import byte_alphabet

from snugfit.archs.table import spec_of
from snugfit.core import Configuration
from snugfit.hardware.detect import machine_of
from snugfit.planning.memory import REPACKED_TYPES, predict
from snugfit.runtimes.llama_cpp import LlamaCppRuntime
from snugfit.runtimes.llama_cpp_probe import probe_all, write_sparse
from snugfit.units import GIB, MIB

RAM_ONLY = machine_of([], 1024 * GIB)
# Of these the engine makes the output before the embedding: without a memory map it has both.
MADE_TWICE = ("gemma3n", "gemma4", "gemma4:shared-layers")
ALIGNMENT = 64  # each tensor of odd size is filled up by less than this

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="see refuse_other_releases")


def stored_as(name, type_name):
    """Return a shape's tensors with every matrix in `type_name`, where its rows allow it."""
    return tuple(
        replace(tensor, type_name=type_name)
        if tensor.type_name == "F16" and tensor.columns % 32 == 0
        else tensor
        for tensor in tensors_of(name)
    )


def weights_of(name, tensors):
    spec = spec_of(name, metadata_of(name), tensors, file_bytes=0, header_bytes=0)
    return predict(spec, Configuration(512), RAM_ONLY).weights_bytes


@pytest.mark.parametrize("name", SHAPES)
def test_weights_are_what_the_engine_would_allocate(name, tmp_path):
    spec = spec_of_shape(name)
    write_sparse(tmp_path / "header.gguf", metadata_of(name), spec.tensors)
    (measured,) = probe_all(tmp_path / "header.gguf", [Configuration(512)])
    embedding = sum(t.size_bytes for t in spec.tensors if t.name == "token_embd.weight")
    ours = predict(spec, Configuration(512), RAM_ONLY).weights_bytes
    ours += embedding if name in MADE_TWICE else 0
    assert 0 <= sum(measured.weights.values()) - ours < ALIGNMENT * len(spec.tensors)


def test_layers_that_draft_are_counted_for_drafting():
    spec = spec_of_shape("qwen35moe:drafting")
    alone, drafting = (
        predict(spec, Configuration(512, rollback=ahead), RAM_ONLY).weights_bytes
        for ahead in (0, 3)
    )
    assert drafting - alone == sum(
        tensor.size_bytes for tensor in spec.tensors if tensor.name.startswith("blk.4.")
    )
    assert drafting == spec.weights_bytes


@pytest.mark.parametrize("type_name", ["F16", "Q8_0", "Q5_0", "Q6_K", *REPACKED_TYPES])
def test_a_tied_embedding_is_kept_twice_where_it_is_rearranged(type_name, tmp_path):
    name = "gemma3:27b"  # its rows fill blocks of 256
    tensors = stored_as(name, type_name)
    write_sparse(tmp_path / "header.gguf", metadata_of(name), tensors)
    (measured,) = probe_all(tmp_path / "header.gguf", [Configuration(512)])
    if type_name in REPACKED_TYPES and "CPU_REPACK" not in measured.weights:
        pytest.skip("this processor takes them as they are")
    assert sum(measured.weights.values()) == weights_of(name, tensors)


@pytest.mark.parametrize("name", ["gemma3", "gemma3n", "gemma4"])
def test_with_a_memory_map_no_embedding_is_there_twice(name, tmp_path):
    tensors = stored_as(name, "F16")
    write_sparse(tmp_path / "model.gguf", metadata_of(name) | vocabulary(), tensors)
    with LlamaCppRuntime(threads=1).start(tmp_path / "model.gguf", Configuration(512)) as engine:
        mapped = engine.allocated()["weights"]
    assert mapped == pytest.approx(weights_of(name, tensors), abs=0.01 * MIB)


def vocabulary():
    """Return a byte-level tokenizer of as many tokens as the shapes have."""
    tokens = byte_alphabet()
    tokens += [f"<unused{number}>" for number in range(512 - len(tokens))]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.ones(512, np.int32),
        "tokenizer.ggml.merges": ["t h", "i n"],
        "tokenizer.ggml.eos_token_id": np.uint32(511),
    }
