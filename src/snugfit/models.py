"""Opens what a user calls MODEL: a Hugging Face directory, a GGUF file, a Hub name, or a demo.

Every model is seen the same way, under GGUF names: a directory through its conversion row, a file
as it is. Only headers are read until weights are asked for, and then one slab at a time.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from snugfit.archs.table import spec_of
from snugfit.core import ModelSpec, TensorInfo
from snugfit.demo import DEMOS
from snugfit.errors import FormatError
from snugfit.formats.gguf import GgufFile, padded, read_gguf
from snugfit.formats.gguf_writer import header_size
from snugfit.units import MIB

if TYPE_CHECKING:
    from snugfit.archs.conversion.rows import Config
    from snugfit.archs.conversion.tensors import ConvertedTensor
    from snugfit.archs.conversion.tokenizer_files import TokenizerFiles
    from snugfit.formats.safetensors import StoredTensor

Floats = np.ndarray[Any, np.dtype[np.float32]]
Slabs = Callable[[str], Iterator[tuple[int, Floats]]]
# Weights are handed on in runs of rows of about this size, as float32.
SLAB_BYTES = 64 * MIB
HUB_NAME = re.compile(
    r"(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>\w[\w./+-]*))?(:(?P<file>[\w./-]+))?"
)
LARGEST_TOKENIZER_BYTES = 256 * MIB  # of one file; the largest published have 35
LARGEST_CARD_BYTES = 16 * MIB
QUANTIZATION_VERSION = 2  # ggml's, stored in every file


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
    slabs: Slabs = field(repr=False)  # name -> (first row, float32 rows [rows, columns]), in order
    absent_bytes: int = 0  # of a header that has more than `metadata`: a tokenizer that is not here

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    @property
    def is_gguf(self) -> bool:
        return self.path.is_file()

    def load(self, name: str) -> Floats:
        """Return a whole tensor as float32, in its shape."""
        tensor = self.tensors[name]
        values = np.empty((tensor.rows, tensor.columns), np.float32)
        for first_row, rows in self.slabs(name):
            values[first_row : first_row + len(rows)] = rows
        return values.reshape(tensor.shape)

    def spec(self) -> ModelSpec:
        """Return the shapes that planning works on. Raises FormatError on absurd metadata."""
        return spec_of(
            self.name,
            self.metadata,
            tuple(self.tensors.values()),
            file_bytes=self.file_bytes,
            header_bytes=header_size(
                self.cut_metadata(0), list(self.tensors.values()), self.absent_bytes
            ),
        )

    def cut_metadata(self, file_type: int) -> dict[str, Any]:
        """Return the metadata of a file cut from this model; its size is the same for every cut."""
        return self.metadata | {
            "general.file_type": np.uint32(file_type),
            "general.quantization_version": np.uint32(QUANTIZATION_VERSION),
        }


def open_model(name: str) -> Model:
    """Open a demo, a path or a Hub name, which is downloaded.

    Raises FormatError, UnsupportedError, NetworkError: one line each.
    """
    local = open_local(name)
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
    return _open_hub(hub)


def open_local(name: str, *, skim: bool = False) -> Model | None:
    """Open a demo or what is on disk under this name, or return None.

    With `skim`, a GGUF file's tokenizer is left out.
    """
    if name in DEMOS:
        return _open_folder(DEMOS[name], name)
    path = Path(name).expanduser()
    if path.is_dir():
        return _open_folder(path, path.resolve().name)
    return open_gguf(path, skim=skim) if path.exists() else None


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


def _open_hub(hub: HubName) -> Model:
    from snugfit.formats.hub import download

    path = download(hub.repository, hub.file, hub.revision)
    return open_gguf(path) if path.is_file() else _open_folder(path, hub.repository.split("/")[1])


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
        _gguf_slabs(file),
        file.absent_bytes,
    )


def model_metadata(file: GgufFile) -> dict[str, Any]:
    """Return a file's metadata. Raises FormatError if it is a projector or an adapter."""
    if file.metadata.get("general.type") not in (None, "model"):
        raise FormatError(
            f"{file.path}: holds {file.metadata['general.type']!r}, not a language model. "
            "Name the model's own GGUF file."
        )
    return {key: value for key, value in file.metadata.items() if key != "general.alignment"}


def _gguf_slabs(file: GgufFile) -> Slabs:
    def slabs(name: str) -> Iterator[tuple[int, Floats]]:
        from snugfit.quants.codecs import dequantize_rows

        tensor, blocks = file.tensors[name], file.rows(name)
        step = max(1, SLAB_BYTES // (4 * tensor.columns))
        for first in range(0, tensor.rows, step):
            yield first, dequantize_rows(blocks[first : first + step], tensor.type_name)

    return slabs


def _open_folder(folder: Path, name: str) -> Model:
    from snugfit.archs.conversion.rows import Config
    from snugfit.archs.conversion.tokenizer import tokenizer_metadata
    from snugfit.formats.safetensors import read_folder, read_json

    config_path = folder / "config.json"
    if not config_path.is_file():
        raise FormatError(
            f"{folder}: no config.json. Name the folder that holds config.json and *.safetensors."
        )
    stored = read_folder(folder)
    config = Config(str(folder), read_json(config_path))
    files = _tokenizer_files(folder)
    metadata, converted = converted_folder(
        config, stored, name, card=_model_card(folder), generation=files.generation
    )
    metadata |= tokenizer_metadata(files, config.vocabulary)
    tensors = {tensor.info.name: tensor.info for tensor in converted}
    size = sum(path.stat().st_size for path in {tensor.path for tensor in stored.values()})
    return Model(name, folder, metadata, tensors, size, _folder_slabs(converted, stored))


def converted_folder(
    config: Config,
    stored: Mapping[str, StoredTensor],
    name: str,
    *,
    card: str = "",
    generation: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], list[ConvertedTensor]]:
    """Return a Hugging Face model's metadata, but for its tokenizer, and its tensors in GGUF.

    `card` is README.md, `generation` generation_config.json. Raises FormatError, UnsupportedError.
    """
    from snugfit.archs.conversion.general import general_metadata
    from snugfit.archs.conversion.rows import row_of
    from snugfit.archs.conversion.tensors import Stored, convert_tensors

    row = row_of(config)
    described = {key: Stored(tensor.shape, tensor.dtype) for key, tensor in stored.items()}
    converted = convert_tensors(config.folder, config, row, described)
    metadata = {"general.architecture": row.architecture, "general.type": "model"}
    metadata |= general_metadata(
        name,
        card=card,
        config=config.raw,
        generation=generation,
        tensors=[tensor.info for tensor in converted],
    )
    metadata |= {f"{row.architecture}.{key}": value for key, value in row.metadata(config).items()}
    return metadata, converted


def _model_card(folder: Path) -> str:
    path = folder / "README.md"
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return file.read(LARGEST_CARD_BYTES).decode("utf-8", "replace")


def _tokenizer_files(folder: Path) -> TokenizerFiles:
    from snugfit.archs.conversion.tokenizer_files import TokenizerFiles
    from snugfit.formats.safetensors import json_object

    def content(name: str) -> bytes:
        path = folder / name
        if not path.is_file():
            return b""
        if path.stat().st_size > LARGEST_TOKENIZER_BYTES:
            raise FormatError(f"{path}: larger than any tokenizer. Download it again.")
        return path.read_bytes()

    def text(name: str) -> str:
        return content(name).decode("utf-8", "replace")

    def described(name: str) -> dict[str, Any]:
        stored = content(name)
        return json_object(folder / name, stored) if stored else {}

    template = text("chat_template.jinja") or described("chat_template.json").get("chat_template")
    more = sorted((folder / "additional_chat_templates").glob("*.jinja"))
    return TokenizerFiles(
        folder=str(folder),
        tokenizer=described("tokenizer.json"),
        config=described("tokenizer_config.json"),
        generation=described("generation_config.json"),
        chat_template=template if isinstance(template, str) else "",
        model=described("config.json"),
        added=described("added_tokens.json"),
        tekken=described("tekken.json"),
        sentencepiece=content("tokenizer.model"),
        named_templates={path.stem: text(str(path.relative_to(folder))) for path in more[:100]},
    )


def _folder_slabs(converted: list[ConvertedTensor], stored: dict[str, StoredTensor]) -> Slabs:
    pieces_of = {tensor.info.name: tensor for tensor in converted}

    def slabs(name: str) -> Iterator[tuple[int, Floats]]:
        tensor, first = pieces_of[name], 0
        columns = tensor.info.columns
        step = max(1, SLAB_BYTES // (4 * columns))
        for piece in tensor.pieces:
            source = stored[piece.source].map() if piece.source else np.empty(0)
            is_bfloat16 = bool(piece.source) and stored[piece.source].dtype == "BF16"
            rows = piece.arrange(source).reshape(-1, columns)
            for start in range(0, len(rows), step):
                slab = rows[start : start + step]
                yield first + start, _widened(slab, is_bfloat16)
            first += len(rows)

    return slabs


def _widened(values: np.ndarray[Any, Any], is_bfloat16: bool) -> Floats:
    """Return float32; bfloat16 bits are the upper half of float32's."""
    if is_bfloat16:
        assert values.dtype == np.uint16
        return (values.astype(np.uint32) << 16).view(np.float32)
    return np.ascontiguousarray(values, np.float32)
