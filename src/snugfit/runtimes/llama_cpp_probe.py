"""Asks the embedded llama.cpp what a configuration would allocate; no weights are read or stored.

The engine loads a model's header with allocation off and builds its graphs, in a child process:
an abort ends the child and becomes an error here. Its C functions are reached through ctypes, and
the layout of their structures is that of one release: any other is refused with `ProbeError`.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snugfit.core import Configuration, TensorInfo
from snugfit.errors import RuntimeFailure
from snugfit.formats.gguf import TOKENIZER, padded, read_gguf
from snugfit.formats.gguf_writer import encode_header
from snugfit.runtimes.llama_cpp import child_settings, signal_name
from snugfit.runtimes.llama_cpp_log import EngineLog
from snugfit.runtimes.llama_cpp_process import child_environment

KNOWN_RELEASE = "2026.10.11549"  # of xllamacpp; bumped with the tests that compare with the engine
CHILD_MODULE = "snugfit.runtimes.llama_cpp_probe_child"


class ProbeError(RuntimeFailure):
    """The engine could not be asked, or refused. One line: what, where, remedy."""


@dataclass(frozen=True)
class Measured:
    """Bytes that llama.cpp would allocate: device name -> bytes, devices as the engine names them.

    `context` is the KV cache and the recurrent state together, to the byte. The engine prints the
    two parts to 0.01 MiB a buffer; their sums over devices are `kv_cache_bytes` and the next.
    """

    weights: dict[str, int]
    context: dict[str, int]
    compute: dict[str, int]
    kv_cache_bytes: int
    recurrent_state_bytes: int

    @property
    def context_bytes(self) -> int:
        return sum(self.context.values())

    @property
    def compute_bytes(self) -> int:
        return sum(self.compute.values())


def probe(path: Path | str, configuration: Configuration) -> Measured:
    """Return what `configuration` of a GGUF file, or of its header alone, would allocate.

    Without GPU layers the GPUs stay untouched. Recurrent states are really allocated meanwhile.
    Raises ProbeError.
    """
    return probe_all(path, [configuration])[0]


def probe_all(
    path: Path | str, configurations: Sequence[Configuration], timeout_seconds: float = 60.0
) -> list[Measured]:
    """Return one answer a configuration; those that place weights alike share one loading.

    Raises ProbeError for an engine of another release, one that hangs, and whatever it refuses;
    FormatError for a file that is no GGUF.
    """
    file = read_gguf(path)
    if file.has_data:
        return _ask(str(path), Path(path), configurations, timeout_seconds)
    with _sparse_file(str(path), file.metadata, tuple(file.tensors.values())) as whole:
        return _ask(str(path), whole, configurations, timeout_seconds)


def probe_header(
    name: str,
    metadata: Mapping[str, Any],
    tensors: Sequence[TensorInfo],
    configuration: Configuration,
) -> Measured:
    """Return the same for a model that is no file: its GGUF metadata and tensors. `name` is for
    messages. Raises ProbeError.

    The metadata may lack the tokenizer: only how many tokens it has counts here.
    """
    kept = {key: value for key, value in metadata.items() if not key.startswith(TOKENIZER)}
    rows = {tensor.name: tensor.rows for tensor in tensors}
    if "token_embd.weight" in rows:
        kept[f"{metadata['general.architecture']}.vocab_size"] = rows["token_embd.weight"]
        kept[f"{TOKENIZER}ggml.model"] = "no_vocab"
    with _sparse_file(name, kept, tensors) as whole:
        return _ask(name, whole, [configuration], timeout_seconds=60.0)[0]


def write_sparse(path: Path, metadata: Mapping[str, Any], tensors: Sequence[TensorInfo]) -> None:
    """Write a GGUF file whose data takes no room on disk: the engine checks that it is long enough.

    `metadata` maps keys to Python or numpy values. Raises OSError.
    """
    header = encode_header(metadata, tensors)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + sum(padded(tensor.size_bytes) for tensor in tensors))


@contextlib.contextmanager
def _sparse_file(
    name: str, metadata: Mapping[str, Any], tensors: Sequence[TensorInfo]
) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="snugfit-") as folder:
        path = Path(folder) / "header.gguf"
        try:
            write_sparse(path, metadata, tensors)
        except OSError as error:
            raise ProbeError(f"{name}: no room for a sparse copy: {error}. Set TMPDIR.") from None
        yield path


def _ask(
    name: str, path: Path, configurations: Sequence[Configuration], timeout_seconds: float
) -> list[Measured]:
    refuse_other_releases()
    requests = [child_settings(path, configuration, None) for configuration in configurations]
    uses_gpus = any(configuration.gpu_layers for configuration in configurations)
    try:
        child = subprocess.run(
            [sys.executable, "-m", CHILD_MODULE],
            input=json.dumps(requests).encode(),
            capture_output=True,
            env=child_environment(uses_gpus=uses_gpus),
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ProbeError(
            f"{name}: llama.cpp did not say within {timeout_seconds:g} seconds what it would "
            "allocate. Lower the context or the slots."
        ) from None
    answers = [json.loads(line) for line in child.stdout.splitlines()]
    if len(answers) == len(requests) and all("log" in answer for answer in answers):
        return [_measured(answer) for answer in answers]
    raise ProbeError(_failure(name, answers, child.returncode, child.stderr))


def refuse_other_releases() -> None:
    """Raise ProbeError unless the release is the one whose structures are known, as Linux has them.

    Elsewhere the standard library of C++ lays out its maps in another way.
    """
    if sys.platform != "linux":
        raise ProbeError("llama.cpp can be asked on Linux only. Go without --measure.")
    try:
        found = importlib.metadata.version("xllamacpp")
    except importlib.metadata.PackageNotFoundError:
        raise ProbeError("xllamacpp is not installed. Install snugfit with it.") from None
    if found != KNOWN_RELEASE:
        raise ProbeError(
            f"xllamacpp is {found}; what it allocates can only be asked of {KNOWN_RELEASE}. "
            f"Install xllamacpp=={KNOWN_RELEASE}."
        )


def _measured(answer: dict[str, Any]) -> Measured:
    log = EngineLog()
    for line in answer["log"].splitlines():
        log.add(line)
    devices = log.by_device().values()
    state = sum(parts.get("recurrent_state", 0) for parts in devices)
    weights, context, compute = (
        {name: sizes[part] for name, sizes in answer["buffers"].items() if sizes[part]}
        for part in range(3)
    )
    return Measured(weights, context, compute, sum(context.values()) - state, state)


def _failure(name: str, answers: Sequence[dict[str, Any]], status: int, said: bytes) -> str:
    log = EngineLog()
    failed = answers[-1].get("failed", "") if answers else ""
    for line in [*said.decode("utf-8", "replace").splitlines(), *failed.splitlines()]:
        log.add(line)
    how = f"was ended by {signal_name(-status)}" if status < 0 else f"ended with status {status}"
    what = log.last_error() or (how if status else log.last_line())
    return f"{name}: llama.cpp refused: {what.rstrip('.')}. Check the file with snugfit inspect."
