"""Logits of embedded llama.cpp: `python llama_logits.py MODEL.gguf IDS.npy OUT.npy`.

A process of its own, for the engine may abort. IDS holds the ids of one text; OUT gets float32
[positions, vocabulary].
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from snugfit.runtimes.llama_cpp_probe_child import INT, POINTER, Engine, same_layout


class Batch(ctypes.Structure):
    _fields_ = (
        ("count", INT),
        ("tokens", ctypes.POINTER(INT)),
        ("embeddings", POINTER),
        ("positions", ctypes.POINTER(INT)),
        ("sequence_counts", ctypes.POINTER(INT)),
        ("sequences", ctypes.POINTER(ctypes.POINTER(INT))),
        ("wanted", ctypes.POINTER(ctypes.c_int8)),
    )


class LogitsEngine(Engine):
    def logits(self, path: str, ids: Sequence[int]) -> np.ndarray:
        library = self.library
        for name, result, arguments in (
            ("llama_batch_init", Batch, (INT, INT, INT)),
            ("llama_decode", INT, (POINTER, Batch)),
            ("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), (POINTER, INT)),
            ("llama_model_get_vocab", POINTER, (POINTER,)),
            ("llama_vocab_n_tokens", INT, (POINTER,)),
        ):
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        parameters = library.llama_model_default_params()
        same_layout((-1, 1), (parameters.gpu_layers, parameters.split_mode))
        parameters.gpu_layers = 0
        model = library.llama_model_load_from_file(path.encode(), parameters)
        if not model:
            raise RuntimeError("the model does not load")
        settings = library.llama_context_default_params()
        settings.ctx = settings.batch = settings.ubatch = settings.outputs = 512
        settings.outputs_of_slot = 512
        settings.threads = settings.threads_batch = 1
        settings.key_type = settings.value_type = 0  # F32
        settings.flash_attention = 0
        context = library.llama_init_from_model(model, settings)
        if not context:
            raise RuntimeError("no context")
        batch = library.llama_batch_init(len(ids), 0, 1)
        batch.count = len(ids)
        for position, number in enumerate(ids):
            batch.tokens[position], batch.positions[position] = int(number), position
            batch.sequence_counts[position], batch.wanted[position] = 1, 1
            batch.sequences[position][0] = 0
        if library.llama_decode(context, batch):
            raise RuntimeError("decoding failed")
        width = library.llama_vocab_n_tokens(library.llama_model_get_vocab(model))
        rows = [
            np.ctypeslib.as_array(library.llama_get_logits_ith(context, position), (width,)).copy()
            for position in range(len(ids))
        ]
        return np.stack(rows)


def llama_logits(path: Path, ids: Sequence[int]) -> np.ndarray:
    """Return the logits of every position, or raise AssertionError with the engine's last words."""
    given, out = path.with_suffix(".ids.npy"), path.with_suffix(".logits.npy")
    np.save(given, np.asarray(ids, np.int32))
    run = subprocess.run(
        [sys.executable, __file__, str(path), str(given), str(out)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0 and out.exists(), run.stderr[-3000:]
    return np.load(out)


def main() -> int:
    engine = LogitsEngine()
    try:
        found = engine.logits(sys.argv[1], np.load(sys.argv[2]).tolist())
    except RuntimeError as error:
        sys.stderr.write("".join(engine.lines) + f"\n{error}\n")
        return 1
    np.save(sys.argv[3], found)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
