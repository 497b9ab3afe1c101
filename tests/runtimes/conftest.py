"""A tiny model, and the real engine with it loaded once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_gguf import write_tiny_gguf

from snugfit.core import Configuration
from snugfit.runtimes.llama_cpp import LlamaCppRuntime


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture(scope="session")
def engine(tiny_model: Path) -> Iterator[LlamaCppRuntime]:
    """One engine for the tests that leave it running; two slots of 1024 tokens."""
    with LlamaCppRuntime(threads=1, timeout_seconds=30) as runtime:
        yield runtime.start(tiny_model, Configuration(ctx=2048, slots=2))
