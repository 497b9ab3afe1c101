"""The process that asks llama.cpp for sizes: `python -m snugfit.runtimes.llama_cpp_probe_child`.

In: a JSON list of requests, as `llama_cpp.child_settings` makes them. Out: one JSON document a
line, {"buffers": {device: [weights, context, compute]}, "log": text}, or {"failed": reason} as
the last. Structures have the layout of the release that llama_cpp_probe.KNOWN_RELEASE names.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Numbers of ggml_type, by the name that a configuration has.
TYPE_NUMBERS = {
    "F32": 0,
    "F16": 1,
    "Q4_0": 2,
    "Q4_1": 3,
    "Q5_0": 6,
    "Q5_1": 7,
    "Q8_0": 8,
    "IQ4_NL": 20,
    "BF16": 30,
}
UINT, INT, FLOAT, POINTER, FLAG = (
    ctypes.c_uint32,
    ctypes.c_int32,
    ctypes.c_float,
    ctypes.c_void_p,
    ctypes.c_bool,
)
BREAKDOWN = "_Z26llama_get_memory_breakdownPK13llama_context"
LOGGER = ctypes.CFUNCTYPE(None, INT, ctypes.c_char_p, POINTER)
LEVELS = "NDIWEC"  # llama.cpp's levels of a log line by number; 5 continues the line before


class TensorPlace(ctypes.Structure):
    """Tensors whose names match `pattern` go to a buffer type."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buffer_type", POINTER))


class ModelParameters(ctypes.Structure):
    _fields_ = (
        ("devices", POINTER),
        ("tensor_places", ctypes.POINTER(TensorPlace)),
        ("gpu_layers", INT),
        ("split_mode", INT),
        ("load_mode", INT),
        ("lazy_mode", INT),
        ("main_gpu", INT),
        ("tensor_split", POINTER),
        ("progress", POINTER),
        ("progress_data", POINTER),
        ("overrides", POINTER),
        ("vocabulary_only", FLAG),
        ("check_tensors", FLAG),
        ("use_extra_buffers", FLAG),
        ("no_host", FLAG),
        ("no_alloc", FLAG),
        ("load_mtp", FLAG),
    )


class ContextParameters(ctypes.Structure):
    _fields_ = (
        ("ctx", UINT),
        ("batch", UINT),
        ("ubatch", UINT),
        ("slots", UINT),
        ("rollback", UINT),
        ("outputs", UINT),
        ("outputs_of_slot", UINT),
        ("threads", INT),
        ("threads_batch", INT),
        ("kind", INT),
        ("rope_scaling", INT),
        ("pooling", INT),
        ("attention", INT),
        ("flash_attention", INT),
        ("rope_floats", FLOAT * 6),
        ("yarn_context", UINT),
        ("defragment", FLOAT),
        ("evaluated", POINTER),
        ("evaluated_data", POINTER),
        ("key_type", INT),
        ("value_type", INT),
        ("callbacks", POINTER * 3),
        ("embeddings", FLAG),
        ("offload_cache", FLAG),
        ("no_timings", FLAG),
        ("offload_operations", FLAG),
        ("full_windows", FLAG),
        ("unified", FLAG),
        ("samplers", POINTER),
        ("sampler_count", ctypes.c_size_t),
        ("other", POINTER),
    )


class Tree(ctypes.Structure):
    """A std::map of libstdc++: the root of a red-black tree in its header."""

    _fields_ = (
        ("compare", POINTER),
        ("color", POINTER),
        ("root", POINTER),
        ("first", POINTER),
        ("last", POINTER),
        ("count", ctypes.c_size_t),
    )


class Node(ctypes.Structure):
    """A buffer type and its bytes: of weights, of the context, of computing."""

    _fields_ = (
        ("color", POINTER),
        ("parent", POINTER),
        ("left", POINTER),
        ("right", POINTER),
        ("buffer_type", POINTER),
        ("sizes", ctypes.c_size_t * 3),
    )


class Engine:
    """The C functions of llama.cpp in xllamacpp's shared object, and its log as text."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(str(shared_object()))
        self.lines: list[str] = []
        self._logger = LOGGER(self._log)  # kept: the engine has only its address
        library = self.library
        library.llama_log_set(self._logger, None)
        for name, result, arguments in (
            ("llama_model_default_params", ModelParameters, ()),
            ("llama_context_default_params", ContextParameters, ()),
            ("llama_model_load_from_file", POINTER, (ctypes.c_char_p, ModelParameters)),
            ("llama_init_from_model", POINTER, (POINTER, ContextParameters)),
            ("llama_model_free", None, (POINTER,)),
            ("llama_free", None, (POINTER,)),
            ("ggml_backend_cpu_buffer_type", POINTER, ()),
            ("ggml_backend_buft_name", ctypes.c_char_p, (POINTER,)),
            (BREAKDOWN, Tree, (POINTER,)),
        ):
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        library.llama_backend_init()

    def load(self, settings: dict[str, Any]) -> int:
        """Return a model without data; `no_alloc` needs plain loading, without a memory map."""
        parameters = self.library.llama_model_default_params()
        expected = (-1, 1, -1, 1, 0, True, False, False)
        found = (
            parameters.gpu_layers,
            parameters.split_mode,
            parameters.load_mode,
            parameters.lazy_mode,
            parameters.main_gpu,
            parameters.use_extra_buffers,
            parameters.no_alloc,
            parameters.load_mtp,
        )
        same_layout(expected, found)
        parameters.no_alloc, parameters.load_mode = True, 0
        parameters.gpu_layers = settings["gpu_layers"]
        experts = settings["cpu_expert_layers"]
        if experts:
            in_ram = self.library.ggml_backend_cpu_buffer_type()
            patterns = [
                TensorPlace(rf"blk\.{layer}\.ffn_(up|down|gate|gate_up)_(ch|)exps".encode(), in_ram)
                for layer in range(experts)
            ]
            parameters.tensor_places = (TensorPlace * (experts + 1))(*patterns)  # ends with nulls
        model = self.library.llama_model_load_from_file(settings["model"].encode(), parameters)
        if not model:
            raise RuntimeError("failed to load model")
        return int(model)

    def measure(self, model: int, settings: dict[str, Any]) -> dict[str, list[int]]:
        """Return buffer name -> bytes of weights, context and computing."""
        parameters = self.library.llama_context_default_params()
        found = (
            parameters.ctx,
            parameters.batch,
            parameters.ubatch,
            parameters.slots,
            parameters.flash_attention,
            parameters.key_type,
            parameters.value_type,
            parameters.offload_cache,
            parameters.unified,
        )
        same_layout((512, 2048, 512, 1, -1, 1, 1, True, False), found)
        parameters.ctx, parameters.ubatch = settings["ctx"], settings["ubatch"]
        parameters.batch = max(2048, settings["ubatch"])
        parameters.slots = parameters.outputs = settings["slots"]
        parameters.rollback = settings["rollback"]
        parameters.flash_attention = int(settings["flash_attention"])
        parameters.key_type = TYPE_NUMBERS[settings["kv_type"]]
        parameters.value_type = TYPE_NUMBERS[settings["value_type"]]
        parameters.full_windows, parameters.unified = settings["swa_full"], settings["kv_unified"]
        context = self.library.llama_init_from_model(model, parameters)
        if not context:
            raise RuntimeError("failed to create context")
        buffers: dict[str, list[int]] = {}
        tree = getattr(self.library, BREAKDOWN)(context)
        for node in nodes(tree.root):
            name = self.library.ggml_backend_buft_name(node.buffer_type).decode()
            sizes = buffers.setdefault(name, [0, 0, 0])
            buffers[name] = [have + more for have, more in zip(sizes, node.sizes, strict=True)]
        self.library.llama_free(context)
        return buffers

    def _log(self, level: int, text: bytes, _: object) -> None:
        line = text.decode("utf-8", "replace")
        if 0 < level < len(LEVELS) - 1:
            line = f"0.0 {LEVELS[level]} {line}"
        self.lines.append(line)


def nodes(address: int | None) -> Iterator[Node]:
    if address:
        node = Node.from_address(address)
        yield from nodes(node.left)
        yield node
        yield from nodes(node.right)


def same_layout(expected: tuple[object, ...], found: tuple[object, ...]) -> None:
    """Raise RuntimeError where the engine's defaults are not where this release has them."""
    if expected != found:
        raise RuntimeError(f"its parameters have another layout: {found} for {expected}")


def shared_object() -> Path:
    """Return the library's path, found without importing it: that would start its server code."""
    specification = importlib.util.find_spec("xllamacpp")
    if specification is None or specification.origin is None:
        raise RuntimeError("xllamacpp is not installed")
    folder = Path(specification.origin).parent
    found = sorted(folder.glob("xllamacpp*.so")) or sorted(folder.glob("xllamacpp*.pyd"))
    if not found:
        raise RuntimeError(f"{folder} has no shared object")
    return found[0]


def main() -> int:
    """Answer every request; models are loaded again only where their place differs."""
    requests = json.loads(sys.stdin.buffer.readline())
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the engine prints goes to stderr
    engine: Engine | None = None
    loaded, model = None, 0
    try:
        engine = Engine()
        for settings in requests:
            place = settings["model"], settings["gpu_layers"], settings["cpu_expert_layers"]
            if place != loaded:
                if model:
                    engine.library.llama_model_free(model)
                loaded, model = place, engine.load(settings)
            engine.lines.clear()
            buffers = engine.measure(model, settings)
            log = "".join(engine.lines)
            answers.write(json.dumps({"buffers": buffers, "log": log}) + "\n")
            answers.flush()
    except Exception as error:  # whatever it is, the parent reports it
        log = "".join(engine.lines) if engine else ""
        answers.write(json.dumps({"failed": f"{log}\n0.0 E probe: {error}"}) + "\n")
        answers.flush()
    os._exit(0)  # no clean-up that could hang; the system frees everything


if __name__ == "__main__":
    sys.exit(main())
