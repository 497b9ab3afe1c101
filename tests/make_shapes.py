"""Records data/shapes.json: python tests/make_shapes.py [NAME ...], minutes for all.

llama.cpp itself says which tensors a model of some metadata has: it refuses a file for the first
that is missing or has another shape, so each is added until it accepts the file.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from itertools import groupby
from pathlib import Path

from shapes import COMMON, RECORDED, SHAPES, VOCABULARY, architecture_of, metadata_of, type_of

from snugfit.core import TensorInfo
from snugfit.runtimes.llama_cpp_probe import write_sparse
from snugfit.runtimes.llama_cpp_probe_child import Engine

MISSING = re.compile(r"(?:missing tensor|tensor) '([^']+)'(?: not found|$)", re.MULTILINE)
SHAPE = re.compile(r"tensor '([^']+)' has wrong shape; expected ([\d, ]+), got")
SETTINGS = {"gpu_layers": 0, "cpu_expert_layers": 0}
MOST_LOADS = 3000

# Tensors that the engine can do without while it loads, but not while it computes: architecture ->
# those that a layer with the first one needs.
NEEDED = {
    "qwen3next": ("ssm_conv1d.weight", "attn_qkv.weight", "attn_gate.weight"),
    "qwen35": ("ssm_conv1d.weight", "attn_qkv.weight", "attn_gate.weight"),
    "qwen35moe": ("ssm_conv1d.weight", "attn_qkv.weight", "attn_gate.weight"),
    "phi3": ("attn_norm.weight", "attn_qkv.weight"),
    "granitehybrid": ("ssm_conv1d.weight", "ssm_conv1d.bias"),
    "nemotron_h": ("ssm_conv1d.weight", "ssm_conv1d.bias"),
    "nemotron_h_moe": ("ssm_conv1d.weight", "ssm_conv1d.bias"),
    "falcon-h1": ("ssm_conv1d.weight", "ssm_conv1d.bias"),
    "glm-dsa": (
        "attn_norm.weight",
        "indexer.k_norm.weight",
        "indexer.k_norm.bias",
        "indexer.proj.weight",
        "indexer.attn_k.weight",
        "indexer.attn_q_b.weight",
    ),
}

Shapes = dict[str, tuple[int, ...]]


def discover(name: str) -> Shapes:
    engine = Engine()
    metadata = metadata_of(name)
    hidden = int(metadata[f"{metadata['general.architecture']}.embedding_length"])
    found: Shapes = {"token_embd.weight": (VOCABULARY, hidden)}
    if "nextn_predict_layers" in SHAPES[name]:
        # Without it the engine takes a model that drafts for its drafting layers alone.
        found["blk.0.attn_norm.weight"] = (hidden,)
        last = SHAPES[name]["block_count"] - 1
        found[f"blk.{last}.nextn.eh_proj.weight"] = (hidden, 2 * hidden)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shape.gguf"
        for _ in range(MOST_LOADS):
            tensors = [TensorInfo(n, shape, type_of(n, shape)) for n, shape in found.items()]
            write_sparse(path, metadata, tensors)
            engine.lines.clear()
            try:
                engine.load(SETTINGS | {"model": str(path)})
                if not add_needed(found, architecture_of(name)):
                    return found
                continue
            except RuntimeError:
                said = "".join(engine.lines)
            if match := SHAPE.search(said):
                sizes = [int(size) for size in match[2].split(",")]
                while len(sizes) > 1 and sizes[-1] == 1:
                    sizes.pop()
                shape = tuple(reversed(sizes))
                if "attn_output_a" in match[1]:  # wanted by group, stored as one matrix
                    shape = (shape[0] * shape[1], shape[2])
                found[match[1]] = shape
            elif match := MISSING.search(said):
                found[match[1]] = guess(match[1], found)
            else:
                raise RuntimeError(said[-600:])
    raise RuntimeError("too many tensors")


def add_needed(found: Shapes, architecture: str) -> bool:
    """Add what a layer of this architecture needs; whether anything was missing."""
    first, *others = NEEDED.get(architecture, ("",))
    layers = [name.removesuffix(first) for name in found if first and name.endswith(f".{first}")]
    missing = [layer + part for layer in layers for part in others if layer + part not in found]
    found.update(dict.fromkeys(missing, (32,)))
    return bool(missing)


def guess(name: str, found: Shapes) -> tuple[int, ...]:
    """Take the shape of the same tensor in the layer before; any other is corrected."""
    part = re.sub(r"blk\.\d+\.", "", name)
    same = [shape for other, shape in found.items() if re.sub(r"blk\.\d+\.", "", other) == part]
    if part == "attn_gate.weight":
        return (COMMON["attention.head_count"], COMMON["embedding_length"])  # Laguna insists
    return same[-1] if same else (32,)


def recorded_form(found: Shapes) -> dict[str, tuple[int, ...]]:
    """Return "layers part" -> shape: tensors that are alike in several layers once."""
    rows = []
    for name, shape in found.items():
        match = re.fullmatch(r"blk\.(\d+)\.(.+)", name)
        rows.append((match[2], shape, int(match[1])) if match else (name, shape, -1))
    form = {}
    for (part, shape), group in groupby(sorted(rows), key=lambda row: row[:2]):
        layers = ",".join(str(layer) for *_, layer in group if layer >= 0)
        form[f"{layers} {part}".strip()] = shape
    return form


def main() -> None:
    os.environ["GGML_NO_BACKTRACE"] = "1"  # the engine would run a debugger on itself
    known = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    wanted = sys.argv[1:] or [name for name in SHAPES if name not in known]
    for name in wanted:
        reader, writer = os.pipe()
        if not os.fork():  # an assertion of the engine ends the process that met it
            try:
                answer = {"tensors": recorded_form(discover(name))}
            except Exception as error:
                answer = {"failed": str(error)}
            os.write(writer, json.dumps(answer).encode())
            os._exit(0)
        os.close(writer)
        os.wait()
        with os.fdopen(reader) as pipe:
            answer = json.loads(pipe.read() or '{"failed": "the engine died"}')
        if "failed" in answer:
            print(f"{name}: {answer['failed']}", file=sys.stderr)
        else:
            known[name] = answer["tensors"]
    ordered = {name: known[name] for name in SHAPES if name in known}
    lines = [f" {json.dumps(name)}: {json.dumps(shape)}" for name, shape in ordered.items()]
    RECORDED.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
