"""A Hugging Face directory seen as a GGUF file: headers, tokenizer and rows of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from snugfit.core import TensorInfo
from snugfit.errors import FormatError, UnsupportedError
from snugfit.units import MIB

if TYPE_CHECKING:
    from snugfit.archs.conversion.config import Config
    from snugfit.archs.conversion.tensors import ConvertedTensor, Stored
    from snugfit.archs.conversion.tokenizers.files import TokenizerFiles
    from snugfit.formats.packed import LogicalTensors
    from snugfit.formats.packed.source import ReadSmall
    from snugfit.formats.safetensors import Tensors

Blocks = np.ndarray[Any, np.dtype[np.uint8]]
# Name, first row, count of rows -> blocks of the tensor's type, uint8 [rows, row_bytes].
Read = Callable[[str, int, int], Blocks]
LARGEST_TOKENIZER_BYTES = 256 * MIB  # of one file; the largest published have 35
LARGEST_CARD_BYTES = 16 * MIB
# Of a model with towers, what its pictures are made ready with.
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True)
class Folder:
    """What a GGUF file of a folder would hold, and where it comes from."""

    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]
    file_bytes: int  # of the weights as they are stored
    read: Read = field(repr=False)
    files: tuple[Path, ...]
    file_of: dict[str, Path] = field(repr=False)  # by tensor


def open_folder(folder: Path, name: str, pre: str = "") -> Folder:
    """Open the language model of a directory. Raises FormatError, UnsupportedError.

    `pre` names llama.cpp's pre-tokenizer where the tokenizer's is not recognised, or wrongly.
    """
    from snugfit.archs.conversion.tokenizers.metadata import tokenizer_metadata
    from snugfit.formats.safetensors import read_folder

    config = _config(folder)
    files = read_folder(folder)
    stored = unpacked_folder(folder, config, files)
    tokenizer = tokenizer_files(folder)
    metadata, converted = converted_folder(
        config, stored, name, card=_model_card(folder), generation=tokenizer.generation
    )
    metadata |= tokenizer_metadata(tokenizer, config.vocabulary, pre=pre or None)
    if pre and metadata.get("tokenizer.ggml.pre") != pre:
        raise UnsupportedError(
            f"--pre {pre}: {folder} has a tokenizer of another kind, which has no pre-tokenizer to "
            "choose. Leave --pre out."
        )
    return _folder(metadata, converted, stored, files)


def open_projector_folder(folder: Path, name: str) -> Folder:
    """Open the towers of a directory's model. Raises FormatError, UnsupportedError."""
    from snugfit.archs.conversion.projectors import convert_projector
    from snugfit.formats.safetensors import read_folder, read_json

    processor: dict[str, Any] = {}
    for file_name in PROCESSOR_FILES:
        if (folder / file_name).is_file():
            found = read_json(folder / file_name)
            own = found.get("image_processor")
            processor |= found | (own if isinstance(own, dict) else {})
    config = _config(folder)
    config = replace(config, outer={**config.outer, "image_processor": processor})
    files = read_folder(folder)
    stored = unpacked_folder(folder, config, files)
    keys, converted = convert_projector(config, stored)
    metadata = {"general.architecture": "clip", "general.type": "mmproj", "general.name": name}
    return _folder(metadata | keys, converted, stored, files)


def _config(folder: Path) -> Config:
    from snugfit.archs.conversion.config import Config
    from snugfit.formats.safetensors import read_json

    path = folder / "config.json"
    if not path.is_file():
        raise FormatError(
            f"{folder}: no config.json. Name the folder that holds config.json and *.safetensors."
        )
    return Config(str(folder), read_json(path))


def _folder(
    metadata: dict[str, Any],
    converted: list[ConvertedTensor],
    stored: Mapping[str, Stored],
    files: Tensors,
) -> Folder:
    from snugfit.archs.conversion.reading import read_rows

    by_name = {tensor.info.name: tensor for tensor in converted}
    paths = tuple(sorted({tensor.path for tensor in files.values()}))
    return Folder(
        metadata,
        {name: tensor.info for name, tensor in by_name.items()},
        sum(path.stat().st_size for path in paths),
        lambda name, first, count: read_rows(by_name[name], stored, first, count),
        paths,
        {
            name: files[tensor.pieces[0].source].path
            for name, tensor in by_name.items()
            if tensor.pieces[0].source in files
        },
    )


def converted_folder(
    config: Config,
    stored: Mapping[str, Stored],
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
    from snugfit.archs.conversion.tensors import convert_tensors

    config = replace(config, stored_names=stored.keys())
    row = row_of(config)
    # What the config says is refused before tensors are looked for that it does without.
    keys = {f"{row.architecture}.{key}": value for key, value in row.metadata(config).items()}
    converted = convert_tensors(config, row, stored)
    metadata = {"general.architecture": row.architecture, "general.type": "model"}
    metadata |= general_metadata(
        name,
        card=card,
        config=config.raw,
        generation=generation,
        tensors=[tensor.info for tensor in converted],
    )
    return metadata | keys, converted


def unpacked_folder(folder: Path, config: Config, files: Tensors) -> LogicalTensors:
    from snugfit.formats.packed import MODELOPT_FILE
    from snugfit.formats.safetensors import read_json

    has_own = (folder / MODELOPT_FILE).is_file()
    return unpacked(config, files, (lambda name: read_json(folder / name)) if has_own else None)


def unpacked(
    config: Config,
    files: Tensors,
    modelopt: Callable[[str], Mapping[str, Any]] | None = None,
    read_small: ReadSmall | None = None,
) -> LogicalTensors:
    """Return stored tensors as what they stand for, where they are stored quantized.

    `modelopt` reads the JSON file of that name, where there is one. `read_small` reads a tensor of
    a few bytes where the files are not here. Raises FormatError, UnsupportedError.
    """
    from snugfit.formats.packed import (
        MODELOPT_FILE,
        logical_tensors,
        settings_of,
        settings_of_modelopt,
    )

    settings = settings_of(config.folder, config.outer)
    if settings is None and modelopt:
        settings = settings_of_modelopt(config.folder, modelopt(MODELOPT_FILE))
    return logical_tensors(config.folder, files, config.outer, settings, read_small)


def _model_card(folder: Path) -> str:
    path = folder / "README.md"
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return file.read(LARGEST_CARD_BYTES).decode("utf-8", "replace")


def tokenizer_files(folder: Path) -> TokenizerFiles:
    """Read the files that describe a tokenizer, as far as they are there. Raises FormatError."""
    from snugfit.archs.conversion.tokenizers.files import TokenizerFiles
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
