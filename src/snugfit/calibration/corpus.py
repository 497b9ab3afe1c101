"""Text as sequences of token ids, cut as llama-imatrix and llama-perplexity cut it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from snugfit.errors import FormatError, UsageError

LENGTH = 512  # tokens a sequence, llama.cpp's default for both tools

TokenIds = np.ndarray[Any, np.dtype[np.int64]]


class Encoder(Protocol):
    """What cutting needs of `archs.tokenizer.Tokenizer`."""

    @property
    def bos_id(self) -> int | None: ...

    def encode(self, text: str) -> list[int]: ...


def read_text(path: Path | str) -> str:
    """Return a UTF-8 text file. Raises FormatError if it cannot be read as one."""
    try:
        return Path(path).read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{path}: not UTF-8 text (byte {error.start}). Convert it, or choose another file."
        ) from None
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror}).") from None


def sequences_of(
    text: str, tokenizer: Encoder, *, length: int = LENGTH, most: int | None = None
) -> TokenIds:
    """Cut `text` into token ids int64 [sequences, length]; a short rest is dropped.

    At most `most` sequences are kept, evenly from the whole text. The text is tokenized as a whole,
    with BOS before it where the model wants one, and the first token of every sequence gives way to
    BOS, so that numbers compare to llama.cpp's. Raises UsageError if the text is shorter than one
    sequence.
    """
    bos = tokenizer.bos_id
    ids = [] if bos is None else [bos]
    ids += tokenizer.encode(text)
    count = len(ids) // length
    if count < 1:
        raise UsageError(
            f"the text: has {len(ids)} tokens, but one sequence takes {length}. Give a longer text."
        )
    sequences = np.array(ids[: count * length], np.int64).reshape(count, length)
    if bos is not None:
        sequences[:, 0] = bos
    kept = np.linspace(0, count - 1, min(count, most or count)).astype(np.int64)
    return sequences[kept]
