"""What `snugfit quantize` is asked for: llama-quantize's options, and its words in their order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from snugfit.errors import UsageError

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[OUT] [TYPE]... [THREADS]",
        help="As for llama-quantize: a file, its type, threads. Several types need {type} in OUT.",
        show_default=False,
    ),
]
Imatrix = Annotated[
    Path | None,
    typer.Option("--imatrix", metavar="FILE", help="Importance from a file, GGUF or .dat."),
]
IncludeWeights = Annotated[
    list[str] | None,
    typer.Option(
        "--include-weights", metavar="PART", help="Importance of tensors with this in their name."
    ),
]
ExcludeWeights = Annotated[
    list[str] | None,
    typer.Option("--exclude-weights", metavar="PART", help="No importance of such tensors."),
]
AllowRequantize = Annotated[
    bool, typer.Option("--allow-requantize", help="Quantize tensors that already are.")
]
LeaveOutputTensor = Annotated[
    bool, typer.Option("--leave-output-tensor", help="Keep output.weight as it is.")
]
Pure = Annotated[bool, typer.Option("--pure", help="One type for all tensors, no mix.")]
OutputTensorType = Annotated[
    str, typer.Option("--output-tensor-type", metavar="TYPE", help="Of output.weight.")
]
TokenEmbeddingType = Annotated[
    str, typer.Option("--token-embedding-type", metavar="TYPE", help="Of the token embedding.")
]
TensorTypes = Annotated[
    list[str] | None,
    typer.Option(
        "--tensor-type",
        metavar="REGEX=TYPE",
        help="Of tensors whose name matches; repeatable, the first that matches decides.",
    ),
]
TensorTypeFile = Annotated[
    Path | None,
    typer.Option("--tensor-type-file", metavar="FILE", help="The same, a list in a file."),
]
PruneLayers = Annotated[
    str, typer.Option("--prune-layers", metavar="L0,L1,..", help="Layers to leave out.")
]
KeepSplit = Annotated[
    bool, typer.Option("--keep-split", help="Write as many files as the model has.")
]
OverrideKv = Annotated[
    list[str] | None,
    typer.Option(
        "--override-kv",
        metavar="KEY=TYPE:VALUE",
        help="Metadata to change or add: int, float, bool or str; repeatable.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Say types and bytes of the file to the byte; write nothing."),
]
Cluster = Annotated[
    str,
    typer.Option(
        "--cluster",
        metavar="ADDRESS",
        help="Quantize on a Ray cluster: auto, ray://HOST:PORT, HOST:PORT, or local[:WORKERS].",
    ),
]
# Accepted: memory is bounded by less than what can be asked for.
MaxBufferSize = Annotated[int, typer.Option("--max-buffer-size", min=1, metavar="MIB", hidden=True)]
TYPE = "{type}"


@dataclass(frozen=True)
class Request:
    """Which files to write: mixes by their own names, none where a size chooses."""

    mixes: tuple[str, ...]
    out: str  # with {type} in it, or a path; empty for llama-quantize's own choice
    threads: int

    def path(self, mix: str, model: Path) -> Path:
        """Return the file of a mix: where it was asked for, or beside the model."""
        if self.out:
            return Path(self.out.replace(TYPE, mix))
        return (model.parent if model.is_file() else Path()) / f"ggml-model-{mix}.gguf"


def request_from(
    words: list[str], output: Path | None, like: str, sizes: int, threads: int
) -> Request:
    """Read the words after MODEL, beside `-o`, `--like` and how many sizes were given.

    A number after a type is that of threads, as for llama-quantize. Raises UsageError.
    """
    from snugfit.mixes import canonical
    from snugfit.quants.recipes import is_mix

    words = list(words)
    if len(words) > 1 and words[-1].isdecimal() and is_mix(words[-2]):
        threads = threads or int(words.pop()[:9])
    out = str(output) if output else ""
    if words and not is_mix(words[0]):
        is_file = "." in words[0] or "/" in words[0]
        if out or (len(words) == 1 and not is_file and not like and not sizes):
            canonical(words[0])  # which says what types there are
        out = words.pop(0)
    if bool(words) + bool(like) + sizes != 1:
        raise UsageError(
            "give one of TYPE, --like MIX, --size SIZE or --bpw X, as: "
            "snugfit quantize MODEL OUT.gguf Q4_K_M"
        )
    mixes = tuple(dict.fromkeys(canonical(word) for word in words or ([like] if like else [])))
    if len(mixes) > 1 and out and TYPE not in out:
        raise UsageError(f"{out}: several types need {TYPE} in its name, as out-{TYPE}.gguf.")
    return Request(mixes, out, threads)
