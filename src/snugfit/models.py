"""Opens what a user calls MODEL: a Hugging Face directory, a GGUF file, a Hub name, or a demo.

Every model is seen the same way, under GGUF names: a directory through its conversion row, a file
as it is. Only headers are read until weights are asked for, and then one slab at a time.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from snugfit.archs.table import spec_of
from snugfit.core import ModelSpec, TensorInfo
from snugfit.demo import DEMOS
from snugfit.errors import FormatError, UsageError
from snugfit.folders import Blocks as Blocks
from snugfit.folders import Folder
from snugfit.folders import Read as Read
from snugfit.formats.gguf import GgufFile, padded, read_gguf
from snugfit.formats.gguf_writer import header_size
from snugfit.units import MIB, format_size

Floats = np.ndarray[Any, np.dtype[np.float32]]
# Weights are handed on in runs of rows of about this size, as float32.
SLAB_BYTES = 64 * MIB
HUB_NAME = re.compile(
    r"(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>\w[\w./+-]*))?(:(?P<file>[\w./-]+))?"
)
QUANTIZATION_VERSION = 2  # ggml's, stored in every file
PROJECTOR = "clip"  # the architecture of files with towers for pictures and sound


class HubName(NamedTuple):
    """What owner/name@revision:file says; a revision is a branch, a tag or a commit."""

    repository: str
    revision: str | None
    file: str | None


@dataclass(frozen=True)
class Model:
    """A model whose headers were read. `metadata` and `tensors` are those of a GGUF file of it."""

    name: str
    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]
    file_bytes: int  # of the model as it is stored
    read: Read = field(repr=False)  # any run of rows of a tensor, as it is stored
    absent_bytes: int = 0  # of a header that has more than `metadata`: a tokenizer that is not here
    files: tuple[Path, ...] = ()  # that weights are read from; splits and shards in their order
    file_of: dict[str, Path] = field(default_factory=dict, repr=False)  # by tensor
    is_original: bool = False  # safetensors, here or on the Hub

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    @property
    def is_gguf(self) -> bool:
        return self.path.is_file()

    def load(self, name: str) -> Floats:
        """Return a whole tensor as float32, in its shape."""
        from snugfit.quants.codecs import dequantize_rows

        tensor = self.tensors[name]
        values = np.empty((tensor.rows, tensor.columns), np.float32)
        step = max(1, SLAB_BYTES // (4 * tensor.columns))
        for first in range(0, tensor.rows, step):
            blocks = self.read(name, first, min(step, tensor.rows - first))
            values[first : first + len(blocks)] = dequantize_rows(blocks, tensor.type_name)
        return values.reshape(tensor.shape)

    def spec(self) -> ModelSpec:
        """Return the shapes that planning works on. Raises FormatError on absurd metadata."""
        spec = spec_of(
            self.name,
            self.metadata,
            tuple(self.tensors.values()),
            file_bytes=self.file_bytes,
            header_bytes=header_size(
                self.cut_metadata(0), list(self.tensors.values()), self.absent_bytes
            ),
        )
        return replace(spec, is_original=self.is_original)

    def cut_metadata(self, file_type: int) -> dict[str, Any]:
        """Return the metadata of a file cut from this model; its size is the same for every cut."""
        return self.metadata | {
            "general.file_type": np.uint32(file_type),
            "general.quantization_version": np.uint32(QUANTIZATION_VERSION),
        }


def open_model(name: str, *, pre: str = "") -> Model:
    """Open a demo, a path or a Hub name, which is downloaded.

    `pre` names llama.cpp's pre-tokenizer where that of a directory is not recognised, or wrongly.
    Raises FormatError, UnsupportedError, NetworkError: one line each.
    """
    local = open_local(name, pre=pre)
    if local is not None:
        return local
    from snugfit.archs.catalogue import CATALOGUE

    if name.lower() in CATALOGUE:
        raise FormatError(
            f"{name}: the catalogue has its shapes, not its weights. "
            f"Name them: {CATALOGUE[name.lower()].weights}"
        )
    hub = hub_name(name)
    if hub is None:
        raise unknown_name(name)
    return _open_hub(hub, pre)


def open_local(name: str, *, skim: bool = False, pre: str = "") -> Model | None:
    """Open a demo or what is on disk under this name, or return None.

    With `skim`, a GGUF file's tokenizer is left out; `pre` is as in `open_model`.
    """
    if name in DEMOS:
        return _open_folder(DEMOS[name], name, pre)
    path = Path(name).expanduser()
    if path.is_dir():
        return _open_folder(path, path.resolve().name, pre)
    return _open_gguf(path, pre, skim=skim) if path.exists() else None


def hub_name(name: str) -> HubName | None:
    """Return the parts of a Hub name, or None where it is none."""
    match = HUB_NAME.fullmatch(name)
    if match is None or Path(match["repository"]).suffix in {".gguf", ".safetensors"}:
        return None
    return HubName(match["repository"], match["revision"], match["file"])


def unknown_name(name: str) -> FormatError:
    from snugfit.archs.catalogue import CATALOGUE

    near = difflib.get_close_matches(name.lower(), CATALOGUE, 1)
    meant = f"Did you mean {near[0]}? " if near else ""
    return FormatError(
        f"{name}: no such file or directory. {meant}Name a Hugging Face directory, a GGUF file, "
        f"a Hub name (owner/name[@revision][:file]), {' or '.join(DEMOS)}, or a model of the "
        "catalogue, as qwen3.6-35b-a3b."
    )


def _open_hub(hub: HubName, pre: str) -> Model:
    from snugfit.formats.hub import download

    path = download(hub.repository, hub.file, hub.revision)
    if path.is_file():
        return _open_gguf(path, pre)
    return _open_folder(path, hub.repository.split("/")[1], pre)


def _open_gguf(path: Path, pre: str, *, skim: bool = False) -> Model:
    if pre:
        raise UsageError(
            f"--pre {pre}: {path} has a tokenizer in GGUF already. "
            f"Use: --override-kv tokenizer.ggml.pre=str:{pre}"
        )
    return open_gguf(path, skim=skim)


def open_gguf(path: Path, *, skim: bool = False) -> Model:
    file = read_gguf(path, skim=skim)
    size = file.file_bytes
    if not file.has_data:  # a header alone stands for the file that it heads
        size = file.header_bytes + sum(padded(t.size_bytes) for t in file.tensors.values())
    return Model(
        path.stem,
        path,
        model_metadata(file),
        file.tensors,
        size,
        file.read,
        file.absent_bytes,
        file.paths,
        {name: place.path for name, place in file.places.items()},
    )


def model_metadata(file: GgufFile) -> dict[str, Any]:
    """Return a file's metadata. Raises FormatError if it is a projector or an adapter."""
    if file.metadata.get("general.architecture") == PROJECTOR:
        size = sum(tensor.size_bytes for tensor in file.tensors.values())
        raise FormatError(
            f"{file.path}: is a projector of pictures or sound with {format_size(size)} of "
            "weights, not a language model. Name the model's own file, and this one beside it: "
            f"snugfit memory MODEL --mmproj {file.path}"
        )
    if file.metadata.get("general.type") not in (None, "model"):
        raise FormatError(
            f"{file.path}: holds {file.metadata['general.type']!r}, not a language model. "
            "Name the model's own GGUF file."
        )
    return {
        key: value
        for key, value in file.metadata.items()
        if key != "general.alignment" and not key.startswith("split.")
    }


def _open_folder(folder: Path, name: str, pre: str) -> Model:
    from snugfit.folders import open_folder

    return _model_of(folder, name, open_folder(folder, name, pre))


def open_projector(name: str) -> Model:
    """Open the towers for pictures and sound of a Hugging Face directory, or of a Hub name.

    It is a model like others, of the kind that llama.cpp calls an mmproj, but has no `spec`.
    `projector_types` of archs/conversion/projectors.py says which types its tensors may have.
    Raises FormatError, UnsupportedError, NetworkError.
    """
    from snugfit.folders import open_projector_folder

    path, hub = DEMOS.get(name, Path(name).expanduser()), hub_name(name)
    if not path.is_dir() and hub is not None:
        from snugfit.formats.hub import download

        path = download(hub.repository, hub.file, hub.revision)
    if not path.is_dir():
        what = "is a file" if path.is_file() else "no such directory"
        raise FormatError(f"{name}: {what}. Towers are in the folder of the original model.")
    own_name = hub.repository.split("/")[1] if hub else path.resolve().name
    return _model_of(path, own_name, open_projector_folder(path, own_name))


def _model_of(path: Path, name: str, folder: Folder) -> Model:
    return Model(
        name,
        path,
        folder.metadata,
        folder.tensors,
        folder.file_bytes,
        folder.read,
        files=folder.files,
        file_of=folder.file_of,
        is_original=True,
    )
