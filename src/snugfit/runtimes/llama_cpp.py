"""llama.cpp, embedded, in a child process: a native abort ends the child and becomes an error here.

The child is `llama_cpp_child`; its docstring has the messages. What the engine allocates is read
off its log, which prints MiB with two decimals: precision 0.01 MiB a buffer.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from snugfit.core import Answer, Configuration
from snugfit.errors import RuntimeFailure, UsageError
from snugfit.runtimes.base import PARTS, Message, OnText, Prompt, plain_prompt
from snugfit.runtimes.llama_cpp_log import one_line
from snugfit.runtimes.llama_cpp_process import ENDING_SECONDS, STARTING, Child

# What the engine's own words call for; the first that fits.
REMEDIES = (
    (r"flash_attn", "Use --flash-attention on, or --kv f16."),
    (r"cache type", "Choose another --kv."),
    (r"magic|corrupt|incomplete|bounds", "Download or convert the file again."),
    (r"unknown model architecture", "Choose a model that this llama.cpp knows."),
    (r"alloc|memory", "Lower --ctx or --gpu-layers, or choose a smaller file."),
    (r"", "Check the file with snugfit inspect, or lower --ctx and --gpu-layers."),
)
HOST_WEIGHTS = ("CPU_Mapped", "CPU_REPACK")  # the engine's names of two places in RAM
KV_TYPES = ("F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL")


class LlamaCppRuntime:
    """A GGUF file on embedded llama.cpp. Threads may ask at the same time; `slots` run at once.

    `threads` are the processor threads of the engine (None: as many as it likes). It counts as hung
    after `timeout_seconds` without a sign of life, and is then killed.
    """

    def __init__(self, *, threads: int | None = None, timeout_seconds: float = 900.0) -> None:
        self._threads = threads
        self._timeout_seconds = timeout_seconds
        self._child: Child | None = None
        self._path = ""
        self._ids = itertools.count(STARTING + 1)

    def start(self, path: Path | str, configuration: Configuration) -> LlamaCppRuntime:
        """Load a GGUF file, or the first of a split one.

        Raises RuntimeFailure when there is no such file, or the engine cannot load it this way.
        """
        self.close()
        self._path = str(path)
        if not Path(path).is_file():
            raise RuntimeFailure(f"{path}: no such file. Check the path of the model.")
        self._child = Child(child_settings(Path(path), configuration, self._threads))
        try:
            first = self._wait(self._child, STARTING, "loading the model")
        except BaseException:
            self.close()
            raise
        if "failed" in first:
            raise self._failure(self._child, "loading the model", first["failed"])
        # The log has a pipe of its own: the last buffer lines may come after the message.
        self._child.log.loaded.wait(ENDING_SECONDS)
        return self

    def generate(
        self,
        prompt: Prompt,
        max_tokens: int = 256,
        temperature: float = 0.8,
        seed: int | None = None,
        on_text: OnText | None = None,
    ) -> Answer:
        """Continue `prompt`; control tokens written out in a text are read as such.

        `Answer.tokens` is complete without `on_text`. With it, the engine leaves out tokens that
        end in the middle of a character; where it did, `tokens` is empty.
        """
        # Without reuse of the last prompt's cache, the same question is computed the same way.
        body = sampling(max_tokens, temperature, seed) | {"cache_prompt": False}
        return self._complete(prompt, body, on_text)

    def chat(
        self,
        messages: Sequence[Message],
        max_tokens: int = 256,
        temperature: float = 0.8,
        seed: int | None = None,
        on_text: OnText | None = None,
    ) -> Answer:
        """Answer a conversation; a model without a chat template gets a line a message.

        The text is all that the model writes, a reasoning part and its marks included. The cache of
        the turns before is used again.
        """
        if self._running().log.has_chat_template:
            asked = {"messages": [dict(message) for message in messages]}
            prompt = self.request("/apply-template", asked)["prompt"]
        else:
            prompt = plain_prompt(messages)
        body = sampling(max_tokens, temperature, seed) | {"cache_prompt": True}
        return self._complete(prompt, body, on_text)

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """Return the token ids of `text`, without a start token."""
        body = {"content": text, "add_special": False, "parse_special": special}
        tokens: list[int] = self.request("/tokenize", body)["tokens"]
        return tokens

    def allocated(self) -> dict[str, int]:
        """Return the bytes of each part, summed over devices; 0.01 MiB precise for each buffer.

        Weights that the engine rearranges for the processor (CPU_REPACK) are counted once: the
        mapping of the file spans their first place too, but those pages are not needed again.
        """
        devices = self.allocated_by_device()
        sums = dict.fromkeys(PARTS, 0)
        for parts in devices.values():
            for part, size_bytes in parts.items():
                sums[part] += size_bytes
        mapped, repacked = (devices.get(name, {}).get("weights", 0) for name in HOST_WEIGHTS)
        sums["weights"] -= min(mapped, repacked)
        return sums

    def allocated_by_device(self) -> dict[str, dict[str, int]]:
        """Return device -> part -> bytes, devices under llama.cpp's names (CPU_Mapped, CUDA0)."""
        return self._running().log.by_device()

    @property
    def process_id(self) -> int:
        """The system's number of the engine's process."""
        return self._running().process.pid

    def request(
        self,
        path: str,
        body: dict[str, Any] | None,
        on_event: Callable[[Any], None] | None = None,
    ) -> Any:
        """Ask llama.cpp's own HTTP API (POST, or GET without a body) and return its last document.

        `on_event` receives every document of a streamed answer. Raises RuntimeFailure when the
        engine refuses or fails; an exception from `on_event` cancels the request and passes on.
        """
        child, request_id = self._running(), next(self._ids)
        child.open_mailbox(request_id)
        try:
            child.send({"id": request_id, "path": path, "body": body})
            return self._receive(child, request_id, on_event)
        except BaseException:
            child.send({"cancel": request_id})
            raise
        finally:
            child.close_mailbox(request_id)

    def close(self) -> None:
        """End the child; the memory is free when this returns."""
        child, self._child = self._child, None
        if child is not None:
            child.end()

    def __enter__(self) -> LlamaCppRuntime:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _complete(self, prompt: Prompt, body: dict[str, Any], on_text: OnText | None) -> Answer:
        pieces: list[str] = []
        tokens: list[int] = []

        def collect(event: dict[str, Any]) -> None:
            pieces.append(event["content"])
            tokens.extend(event["tokens"])
            if on_text and event["content"]:
                on_text(event["content"])

        body["prompt"] = prompt if isinstance(prompt, str) else list(prompt)
        body["stream"] = on_text is not None
        last = self.request("/completion", body, collect)
        complete = len(tokens) == last["tokens_predicted"]
        return Answer(
            text="".join(pieces),
            prompt_tokens=last["tokens_evaluated"],
            generated_tokens=last["tokens_predicted"],
            prompt_seconds=last["timings"]["prompt_ms"] / 1000,
            generated_seconds=last["timings"]["predicted_ms"] / 1000,
            allocated=self.allocated(),
            tokens=tuple(tokens) if complete else (),
        )

    def _receive(
        self,
        child: Child,
        request_id: int,
        on_event: Callable[[Any], None] | None,
    ) -> Any:
        last: Any = None
        while True:
            message = self._wait(child, request_id, "answering")
            if "done" in message:
                return last
            last = message.get("event", message)
            if "error" in last:
                raise self._refusal(child, last["error"])
            if on_event:
                on_event(last)

    def _wait(self, child: Child, request_id: int, doing: str) -> dict[str, Any]:
        """Return the next message of a request; a child that ended or hangs is a failure."""
        mailbox = child.mailbox(request_id)
        patience = self._timeout_seconds
        began = time.monotonic()  # an engine that idled before was not asked for signs of life
        probed = False
        while True:
            silence = time.monotonic() - max(began, child.last_sign_of_life)
            if silence >= patience:
                raise self._failure(child, doing, f"no sign of life for {patience:g} seconds")
            if silence < patience / 2:
                probed = False
            elif not probed and request_id != STARTING:
                # Whole answers come without signs of progress; a healthy engine answers this.
                probed = True
                child.send({"id": -1, "path": "/slots", "body": None})
            with contextlib.suppress(queue.Empty):
                message = mailbox.get(timeout=min(patience / 4, 1.0))
                if message is None:
                    raise self._failure(child, doing)
                return message

    def _refusal(self, child: Child, error: Any) -> RuntimeFailure:
        """Describe an error that the engine answered with; it runs on, unless it has died."""
        text = one_line(str(error.get("message", error) if isinstance(error, dict) else error))
        if "connection broke" in text:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(ENDING_SECONDS)
                return self._failure(child, "answering")
        remedy = "Raise --ctx." if "context size" in text else "Change the request."
        return RuntimeFailure(f"{self._path}: llama.cpp refused: {text}. {remedy}")

    def _failure(self, child: Child, doing: str, reason: str = "") -> RuntimeFailure:
        """End the child and describe, in one line, how it ended: what, where, remedy."""
        hung = reason.startswith("no sign")
        status = child.end(patiently=not hung)
        if self._child is child:
            self._child = None
        said = child.log.last_error()
        if hung:
            how, remedy = f"hangs ({reason})", "Lower --ctx, or give it more time."
        elif status < 0:
            how = f"was ended by {signal_name(-status)}"
            remedy = "Lower --ctx or --gpu-layers, or choose a smaller file."
            if -status == getattr(signal, "SIGKILL", None):
                remedy = f"Memory may have run out. {remedy}"
        else:
            how, said = "failed", said or one_line(reason) or f"exit status {status}"
            remedy = next(remedy for words, remedy in REMEDIES if re.search(words, said))
        detail = f": {said.rstrip('.')}" if said else f" (last log line: {child.log.last_line()})"
        return RuntimeFailure(f"{self._path}: llama.cpp {how} while {doing}{detail}. {remedy}")

    def _running(self) -> Child:
        if self._child is None:
            raise RuntimeFailure("llama.cpp: no model is loaded. Call start first.")
        return self._child


def child_settings(path: Path, configuration: Configuration, threads: int | None) -> dict[str, Any]:
    """Return the child's first message. `ctx` is shared by the slots, llama.cpp's way.

    Raises UsageError for a cache type that llama.cpp does not have.
    """
    value_type = configuration.value_type or configuration.kv_type
    for kv_type in (configuration.kv_type, value_type):
        if kv_type.upper() not in KV_TYPES:
            kv_types = ", ".join(KV_TYPES)
            raise UsageError(f"'{kv_type}' is not a cache type. Use one of {kv_types}.")
    return {
        "model": str(path.resolve()),
        "ctx": configuration.ctx,
        "kv_type": configuration.kv_type.upper(),
        "value_type": value_type.upper(),
        "kv_unified": configuration.kv_unified,
        "swa_full": configuration.swa_full,
        "rollback": configuration.rollback,
        "slots": configuration.slots,
        "ubatch": configuration.ubatch,
        "flash_attention": configuration.flash_attention,
        "gpu_layers": configuration.gpu_layers,
        "cpu_expert_layers": configuration.cpu_expert_layers,
        "gpu_split": list(configuration.gpu_split),
        "expert_cache_bytes": configuration.expert_cache_bytes,
        "threads": threads,
    }


def sampling(max_tokens: int, temperature: float, seed: int | None) -> dict[str, Any]:
    """Return the engine's options: the likeliest token at temperature 0, else its own chain."""
    options: dict[str, Any] = {
        "n_predict": max_tokens,
        "temperature": temperature,
        "seed": -1 if seed is None else seed,
        "return_tokens": True,
    }
    if temperature <= 0:
        options |= {"temperature": 0.0, "samplers": ["top_k"], "top_k": 1}
    return options


def signal_name(number: int) -> str:
    """Return `SIGABRT` and the like, or the number for a signal without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
