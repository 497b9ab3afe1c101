"""A runtime that answers from a script, so that tests need neither an engine nor a model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from snugfit.core import Answer, Configuration
from snugfit.errors import RuntimeFailure
from snugfit.runtimes.base import PARTS, Message, OnText, Prompt, plain_prompt


class FakeRuntime:
    """Gives the scripted answers in turn, the last one for ever. A token is one character.

    An exception in the script is raised instead of an answer. `prompts` records what was asked.
    """

    def __init__(
        self,
        script: Iterable[str | Exception] = ("A scripted answer.",),
        allocated: Mapping[str, int] | None = None,
    ) -> None:
        self._script = list(script) or [""]
        self._allocated = dict.fromkeys(PARTS, 0) | dict(allocated or {})
        self._next = 0
        self.path: Path | None = None
        self.configuration: Configuration | None = None
        self.prompts: list[str] = []

    def start(self, path: Path | str, configuration: Configuration) -> FakeRuntime:
        """Take note of the model; the file need not exist."""
        self.path, self.configuration = Path(path), configuration
        return self

    def generate(
        self,
        prompt: Prompt,
        max_tokens: int = 256,
        temperature: float = 0.8,
        seed: int | None = None,
        on_text: OnText | None = None,
    ) -> Answer:
        """Give the next scripted answer, word by word, at most `max_tokens` characters of it."""
        self._check_started()
        asked = prompt if isinstance(prompt, str) else "".join(map(chr, prompt))
        self.prompts.append(asked)
        text = self._next_answer()[:max_tokens]
        if on_text:
            for word in re.findall(r"\s*\S+|\s+", text):
                on_text(word)
        return Answer(
            text=text,
            prompt_tokens=len(asked),
            generated_tokens=len(text),
            prompt_seconds=0.0,
            generated_seconds=0.0,
            allocated=self.allocated(),
            tokens=tuple(map(ord, text)),
        )

    def chat(
        self,
        messages: Sequence[Message],
        max_tokens: int = 256,
        temperature: float = 0.8,
        seed: int | None = None,
        on_text: OnText | None = None,
    ) -> Answer:
        """Give the next scripted answer to the conversation, written a line a message."""
        return self.generate(plain_prompt(messages), max_tokens, temperature, seed, on_text)

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """Return the code points of `text`."""
        self._check_started()
        return list(map(ord, text))

    def allocated(self) -> dict[str, int]:
        """Return the bytes that the test said, zero for every other part."""
        self._check_started()
        return dict(self._allocated)

    def close(self) -> None:
        """Forget the model."""
        self.path = self.configuration = None

    def __enter__(self) -> FakeRuntime:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _next_answer(self) -> str:
        answer = self._script[min(self._next, len(self._script) - 1)]
        self._next += 1
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _check_started(self) -> None:
        if self.path is None:
            raise RuntimeFailure("fake: no model is loaded. Call start first.")
