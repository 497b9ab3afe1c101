"""What embedded llama.cpp sees: `python picture_embeddings.py MODEL MMPROJ PICTURE OUT`.

A process of its own, for the engine may abort. PICTURE is uint8 [height, width, 3] as .npy; OUT
gets float32 [tokens, width of the model].
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from snugfit.runtimes.llama_cpp_probe_child import FLAG, INT, LOGGER, POINTER, Engine, same_layout

PICTURE_CHUNK = 1


class Parameters(ctypes.Structure):
    _fields_ = (
        ("use_gpu", FLAG),
        ("device", POINTER),
        ("print_timings", FLAG),
        ("threads", INT),
        ("old_marker", ctypes.c_char_p),
        ("marker", ctypes.c_char_p),
        ("flash_attention", INT),
        ("warmup", FLAG),
        ("fewest_tokens", INT),
        ("most_tokens", INT),
        ("evaluated", POINTER),
        ("evaluated_data", POINTER),
        ("batch", INT),
        ("progress", POINTER),
        ("progress_data", POINTER),
    )


class Text(ctypes.Structure):
    _fields_ = (
        ("text", ctypes.c_char_p),
        ("length", ctypes.c_size_t),
        ("add_special", FLAG),
        ("parse_special", FLAG),
    )


FUNCTIONS = (
    ("mtmd_context_params_default", Parameters, ()),
    ("mtmd_init_from_file", POINTER, (ctypes.c_char_p, POINTER, Parameters)),
    ("mtmd_bitmap_init", POINTER, (ctypes.c_uint32, ctypes.c_uint32, ctypes.c_char_p)),
    ("mtmd_input_chunks_init", POINTER, ()),
    (
        "mtmd_tokenize",
        INT,
        (POINTER, POINTER, ctypes.POINTER(Text), ctypes.POINTER(POINTER), ctypes.c_size_t),
    ),
    ("mtmd_input_chunks_size", ctypes.c_size_t, (POINTER,)),
    ("mtmd_input_chunks_get", POINTER, (POINTER, ctypes.c_size_t)),
    ("mtmd_input_chunk_get_type", INT, (POINTER,)),
    ("mtmd_input_chunk_get_n_tokens", ctypes.c_size_t, (POINTER,)),
    ("mtmd_encode_chunk", INT, (POINTER, POINTER)),
    ("mtmd_get_output_embd", ctypes.POINTER(ctypes.c_float), (POINTER,)),
    ("mtmd_log_set", None, (LOGGER, POINTER)),
    ("llama_model_n_embd_inp", INT, (POINTER,)),
)


class PictureEngine(Engine):
    def embeddings(self, model: str, projector: str, picture: np.ndarray) -> np.ndarray:
        library = self.library
        for name, result, arguments in FUNCTIONS:
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        library.mtmd_log_set(self._logger, None)
        settings = library.llama_model_default_params()
        same_layout((-1, 1), (settings.gpu_layers, settings.split_mode))
        settings.gpu_layers = 0
        loaded = library.llama_model_load_from_file(model.encode(), settings)
        parameters = library.mtmd_context_params_default()
        found = (parameters.use_gpu, parameters.threads, parameters.warmup, parameters.batch)
        same_layout((True, 4, True, 1024), found)
        parameters.use_gpu, parameters.warmup, parameters.threads = False, False, 1
        parameters.flash_attention = 0
        context = library.mtmd_init_from_file(projector.encode(), loaded, parameters)
        if not loaded or not context:
            raise RuntimeError("the projector does not load")
        height, width, _ = picture.shape
        bitmap = POINTER(library.mtmd_bitmap_init(width, height, picture.tobytes()))
        chunks, marker = library.mtmd_input_chunks_init(), b"<__media__>"
        text = Text(marker, len(marker), False, True)
        if library.mtmd_tokenize(context, chunks, ctypes.byref(text), ctypes.byref(bitmap), 1):
            raise RuntimeError("the picture makes no tokens")
        rows = []
        for number in range(library.mtmd_input_chunks_size(chunks)):
            chunk = library.mtmd_input_chunks_get(chunks, number)
            if library.mtmd_input_chunk_get_type(chunk) != PICTURE_CHUNK:
                continue
            if library.mtmd_encode_chunk(context, chunk):
                raise RuntimeError("the picture cannot be encoded")
            shape = (
                library.mtmd_input_chunk_get_n_tokens(chunk),
                library.llama_model_n_embd_inp(loaded),
            )
            rows.append(np.ctypeslib.as_array(library.mtmd_get_output_embd(context), shape).copy())
        return np.concatenate(rows)


def picture_embeddings(model: Path, projector: Path, picture: np.ndarray) -> np.ndarray:
    """Return the tokens of a picture, or raise AssertionError with the engine's last words."""
    given, out = projector.with_suffix(".picture.npy"), projector.with_suffix(".tokens.npy")
    np.save(given, picture)
    run = subprocess.run(
        [sys.executable, __file__, str(model), str(projector), str(given), str(out)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0 and out.exists(), run.stderr[-3000:]
    return np.load(out)


def main() -> int:
    engine = PictureEngine()
    try:
        found = engine.embeddings(sys.argv[1], sys.argv[2], np.load(sys.argv[3]))
    except RuntimeError as error:
        sys.stderr.write("".join(engine.lines) + f"\n{error}\n")
        return 1
    np.save(sys.argv[4], found)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
