"""What every engine can do, and the registry of engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

from snugfit.errors import UsageError

if TYPE_CHECKING:  # keeps numpy out of the engine's child process
    from snugfit.core import Answer, Configuration

# name -> "module:class"; the module is imported when the engine is first asked for.
RUNTIMES = {
    "llama.cpp": "snugfit.runtimes.llama_cpp:LlamaCppRuntime",
    "fake": "snugfit.runtimes.fake:FakeRuntime",
}

# What memory is used for, as `allocated` counts it.
PARTS = ("weights", "kv_cache", "recurrent_state", "compute", "output")

Message: TypeAlias = Mapping[str, str]  # {"role": "user", "content": "Hello"}
Prompt: TypeAlias = str | Sequence[int]  # text, or token ids
OnText: TypeAlias = Callable[[str], None]  # receives each new piece of the answer


class Runtime(Protocol):
    """An engine with at most one model loaded. Leaving its `with` block ends the engine.

    Every method raises RuntimeFailure, one line, when the engine fails; it can be started again.
    """

    def start(self, path: Path | str, configuration: Configuration) -> Runtime:
        """Load the model file at `path`, ending what ran before. Returns itself, for `with`."""

    def generate(
        self,
        prompt: Prompt,
        max_tokens: int = 256,
        temperature: float = 0.8,
        seed: int | None = None,
        on_text: OnText | None = None,
    ) -> Answer:
        """Continue `prompt`. Temperature 0 is greedy; without a seed the choice is random."""

    def chat(
        self,
        messages: Sequence[Message],
        max_tokens: int = 256,
        temperature: float = 0.8,
        seed: int | None = None,
        on_text: OnText | None = None,
    ) -> Answer:
        """Answer a conversation, through the model's own chat template when it has one."""

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """Return the token ids of `text`; `special` also reads control tokens written out in it."""

    def allocated(self) -> dict[str, int]:
        """Return the bytes that the engine says it allocated, for each of PARTS."""

    def close(self) -> None:
        """End the engine and free its memory; harmless when it has ended already."""

    def __enter__(self) -> Runtime: ...

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


def create_runtime(name: str = "llama.cpp", **options: Any) -> Runtime:
    """Return a new engine of this name, not started. Raises UsageError for an unknown name."""
    if name not in RUNTIMES:
        raise UsageError(f"'{name}' is not a runtime. Choose one of {', '.join(RUNTIMES)}.")
    module, _, class_name = RUNTIMES[name].partition(":")
    return cast(Runtime, getattr(import_module(module), class_name)(**options))


def plain_prompt(messages: Sequence[Message]) -> str:
    """Write a conversation for a model without a chat template: a line a message, ours open.

    Raises UsageError for a message without a role or content.
    """
    if not all("role" in message and "content" in message for message in messages):
        raise UsageError("chat: a message lacks its role or content. Give both as text.")
    lines = [f"{message['role']}: {message['content']}\n" for message in messages]
    return "".join(lines) + "assistant:"
