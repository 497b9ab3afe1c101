"""Reads llama.cpp's log: what it allocated, and what it said last before it failed."""

from __future__ import annotations

import re
import threading
from collections import deque

from snugfit.units import MIB

# Buffer lines of the log, such as `llama_kv_cache:      CUDA0 KV buffer size =   448.00 MiB`.
BUFFER_LINE = re.compile(
    r"(?P<device>\S+)\s+(?P<kind>model|KV|RS|DSV4 \S+ state|compute|output) buffer size =\s*"
    r"(?P<mebibytes>[\d.]+) MiB"
)
PART_OF_KIND = {
    "model": "weights",
    "KV": "kv_cache",
    "RS": "recurrent_state",
    "compute": "compute",
    "output": "output",
}
# `0.00.005.180 E llama_model_load: error loading model: ...`
LOG_LINE = re.compile(r"\d+(?:\.\d+)+ (?P<level>[A-Z]) [^:]*: (?P<text>.*)")
# What the engine prints without its prefix as it dies.
DYING_WORDS = re.compile(r"GGML_ASSERT|GGML_ABORT|what\(\):|[Ee]rror|[Ff]atal")
# Errors that only repeat that something failed.
EMPTY_WORDS = re.compile(r"failed to (load model|create.context)|exiting due to")


class EngineLog:
    """Follows the engine's log: its last lines, and the buffers that it says it allocated."""

    def __init__(self) -> None:
        self._lines: deque[tuple[str, str]] = deque(maxlen=80)  # level, text
        self._buffers: dict[tuple[str, str], int] = {}  # device, part -> bytes
        self.has_chat_template = False
        self.loaded = threading.Event()  # the engine has said all that it says while loading

    def add(self, line: str) -> None:
        """Take in one line."""
        buffer = BUFFER_LINE.search(line)
        if buffer:
            self._add_buffer(buffer)
        elif "tokenizer.chat_template" in line:
            self.has_chat_template = True
        elif "model loaded" in line:
            self.loaded.set()
        match = LOG_LINE.match(line)
        if match:
            self._lines.append((match["level"], match["text"]))
        elif line.strip():
            self._lines.append(("E" if DYING_WORDS.search(line) else "I", line))

    def by_device(self) -> dict[str, dict[str, int]]:
        """Return device -> part -> bytes, with the engine's names of its devices."""
        devices: dict[str, dict[str, int]] = {}
        for (device, part), size_bytes in self._buffers.items():
            devices.setdefault(device, {})[part] = size_bytes
        return devices

    def last_error(self) -> str:
        """Return the last line that says what went wrong, empty when none does."""
        errors = [text for level, text in list(self._lines) if level == "E"]
        telling = [text for text in errors if not EMPTY_WORDS.search(text)] or errors
        return one_line(telling[-1]) if telling else ""

    def last_line(self) -> str:
        """Return the last line, empty when there was none."""
        return one_line(self._lines[-1][1]) if self._lines else ""

    def _add_buffer(self, match: re.Match[str]) -> None:
        part = PART_OF_KIND.get(match["kind"], "recurrent_state")
        key = match["device"], part
        size_bytes = round(float(match["mebibytes"]) * MIB)
        # A graph may be reserved again, replacing its buffer; weights and caches come in several.
        before = 0 if part in ("compute", "output") else self._buffers.get(key, 0)
        self._buffers[key] = before + size_bytes


def one_line(text: str) -> str:
    """Return printable text without line breaks, build paths or a great length."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    return re.sub(r"\S*/(?=[\w.-]+:\d+:)", "", " ".join(printable.split()))[:300]
