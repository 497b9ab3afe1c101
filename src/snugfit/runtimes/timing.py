"""Times the embedded llama.cpp as a person runs it: its server, its sampler, any tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from snugfit.core import Configuration
from snugfit.errors import RuntimeFailure
from snugfit.runtimes.llama_cpp import LlamaCppRuntime

# The usual chain's costly part. Drawn tokens differ, so that experts differ from token to token:
# the same ones again would come out of the processor's cache.
SAMPLING: dict[str, Any] = {
    "samplers": ["top_k", "temperature"],
    "top_k": 40,
    "temperature": 1.0,
    "seed": 1,
    "ignore_eos": True,
}
HOST_DEVICES = ("CPU", "CUDA_Host", "Vulkan_Host", "ROCm_Host")


@dataclass(frozen=True)
class Timing:
    """What one request took."""

    prompt_tokens: int  # computed, not found in the cache
    prompt_seconds: float
    token_seconds: float  # of a decoded token


class TimedEngine:
    """An engine with one model, asked for random tokens. Leaving its `with` block ends it."""

    def __init__(self, threads: int | None = None) -> None:
        self._runtime = LlamaCppRuntime(threads=threads)
        self._random = np.random.default_rng(1)

    def __enter__(self) -> TimedEngine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._runtime.close()

    def start(self, path: Path, configuration: Configuration) -> None:
        """Load a model. Raises RuntimeFailure."""
        self._runtime.start(path, configuration)

    def uses_gpu(self) -> bool:
        """Whether the engine that was started has put anything on a GPU."""
        devices = self._runtime.allocated_by_device()
        return any(not name.startswith(HOST_DEVICES) for name in devices)

    def prompt(self, tokens: int, vocabulary: int) -> list[int]:
        """Return random ids of tokens, those of special ones, which are few, among them."""
        return [int(token) for token in self._random.integers(0, vocabulary, tokens)]

    def time(self, prompt: Sequence[int], tokens: int, *, anew: bool = False) -> Timing:
        """Continue `prompt` by `tokens`, at least 2; what is in the cache of it is not computed.

        The first token comes out of the prompt's pass, so that one fewer is timed. `anew` computes
        the whole prompt. Raises RuntimeFailure.
        """
        body = SAMPLING | {
            "prompt": list(prompt),
            "n_predict": tokens,
            "cache_prompt": not anew,
        }
        timings = self._runtime.request("/completion", body)["timings"]
        decoded = int(timings["predicted_n"]) - 1
        if decoded < 1:
            raise RuntimeFailure("llama.cpp: ended before it was timed. Choose another model.")
        return Timing(
            int(timings["prompt_n"]),
            float(timings["prompt_ms"]) / 1000,
            float(timings["predicted_ms"]) / 1000 / decoded,
        )
