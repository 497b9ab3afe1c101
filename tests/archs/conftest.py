"""Fixtures of the architecture tests."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_tokenize import Engine, Opaque, write_smallest_model


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """Tokenizes with llama.cpp itself, through the symbols that the pinned wheel exports."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip("parameters by value are known for this platform's calls only")
    import xllamacpp.xllamacpp as built

    library = ctypes.CDLL(built.__file__)
    quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
    library.llama_log_set(quiet, None)
    library.llama_model_default_params.restype = Opaque
    library.llama_model_load_from_file.argtypes = [ctypes.c_char_p, Opaque]
    library.llama_model_load_from_file.restype = ctypes.c_void_p
    library.llama_model_get_vocab.argtypes = [ctypes.c_void_p]
    library.llama_model_get_vocab.restype = ctypes.c_void_p
    library.llama_model_free.argtypes = [ctypes.c_void_p]
    library.llama_tokenize.argtypes = [
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_int32,
        ctypes.c_void_p,
        ctypes.c_int32,
        ctypes.c_bool,
        ctypes.c_bool,
    ]

    def tokenize(keys: dict[str, Any], texts: list[str], special: bool) -> list[list[int]]:
        path = tmp_path / "vocabulary.gguf"
        write_smallest_model(path, keys)
        model = library.llama_model_load_from_file(
            str(path).encode(), library.llama_model_default_params()
        )
        assert model
        vocabulary = library.llama_model_get_vocab(model)
        found = []
        for text in texts:
            encoded, room = text.encode(), (ctypes.c_int32 * 1000)()
            count = library.llama_tokenize(
                vocabulary, encoded, len(encoded), room, 1000, False, special
            )
            found.append(list(room[:count]))
        library.llama_model_free(model)
        return found

    yield tokenize
    library.llama_log_set(None, None)
