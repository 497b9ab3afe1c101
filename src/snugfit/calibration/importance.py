"""Importance as llama.cpp measures it: sums of the squared inputs of every matrix.

All sequences go through one layer before the next is read, so that memory holds one layer and the
hidden states, whatever the size of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from snugfit.archs.decoder import Decoder
from snugfit.errors import FormatError
from snugfit.formats.imatrix import ColumnSums, Importance

if TYPE_CHECKING:
    from torch import Tensor

Progress = Callable[[int, int], None]  # parts done, parts in all; a part is a layer or the head


def measure(
    decoder: Decoder,
    sequences: Tensor | np.ndarray[Any, Any],
    progress: Progress | None = None,
    *,
    datasets: tuple[str, ...] = (),
) -> Importance:
    """Return the importance of every matrix of the layers and of the head, under GGUF names.

    `sequences` are token ids [sequences, length]. For each matrix and input column: the sum over
    tokens of the squared input, accumulated in float64, and the number of tokens; experts have one
    row of sums and one count each, over the tokens routed to them. Norms and biases have none.

    Where this differs from llama-imatrix: that tool leaves `output.weight` out unless it is called
    with --process-output, and never measures a tied head, whose matrix it meets as
    `token_embd.weight`. Here both are measured, a tied head under `token_embd.weight`, a name that
    llama-quantize accepts; delete the entry to quantize as after llama-imatrix.

    Raises FormatError if a hidden state is not finite: then the weights are damaged.
    """
    import torch

    sequences = torch.as_tensor(sequences)
    sums = _Sums()
    groups = decoder.groups(sequences)
    done, total = 0, len(groups) * (decoder.layer_count + 1)
    for group in groups:
        hidden = decoder.embed(group)
        for index in range(decoder.layer_count):
            decoder.advance(index, hidden, sums.add)
            _check_finite(hidden, f"blk.{index}")
            done += 1
            if progress:
                progress(done, total)
        _measure_head(decoder, hidden, sums)
        done += 1
        if progress:
            progress(done, total)
    return Importance(
        {name: sums.columns(name, decoder.shapes[name]) for name in _matrix_names(decoder)},
        datasets,
        sequences.shape[0],
        sequences.shape[1],
    )


def _matrix_names(decoder: Decoder) -> list[str]:
    """Every matrix of the layers, reached by tokens or not, and the head."""
    layers = [
        name for name, shape in decoder.shapes.items() if name.startswith("blk.") and len(shape) > 1
    ]
    return [*layers, decoder.head_name]


def _measure_head(decoder: Decoder, hidden: Tensor, sums: _Sums) -> None:
    """The head's inputs are the normed hidden states; its logits are not wanted."""
    import torch

    with torch.no_grad(), decoder.head() as head:
        norm = head.module.get_submodule("0")
        for sequence in hidden:
            sums.add((decoder.head_name,), 0, norm(sequence))


def _check_finite(hidden: Tensor, where: str) -> None:
    if not bool(hidden.isfinite().all()):
        raise FormatError(
            f"{where}: its output is not finite; its weights are damaged. Download the model again."
        )


@dataclass
class _Sums:
    """Running sums by (matrix name, expert): squares float64 [columns], and tokens."""

    squares: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    counts: dict[tuple[str, int], int] = field(default_factory=dict)
    # Queries, keys and values have the same inputs, and so do gate and up: they are squared once.
    last: tuple[Tensor, Tensor] | None = None

    def add(self, names: tuple[str, ...], expert: int, inputs: Tensor) -> None:
        """Take in the inputs [..., columns] of the matrices `names`."""
        if self.last is None or self.last[0] is not inputs:
            squares = inputs.flatten(0, -2).double().square_().sum(0)
            self.last = inputs, squares
        tokens = inputs.shape[:-1].numel()
        for name in names:
            key = name, expert
            self.counts[key] = self.counts.get(key, 0) + tokens
            self.squares[key] = self.squares.get(key, 0) + self.last[1]

    def columns(self, name: str, shape: tuple[int, ...]) -> ColumnSums:
        """Return [matrices, columns] and [matrices]; zeros for an expert that no token reached."""
        experts = shape[0] if len(shape) == 3 else 1
        squares = np.zeros((experts, shape[-1]), np.float32)
        counts = np.zeros(experts, np.float32)
        for expert in range(experts):
            if (name, expert) in self.squares:
                squares[expert] = self.squares[name, expert].numpy()
                counts[expert] = self.counts[name, expert]
        return ColumnSums(squares, counts)
