"""Towers for pictures and sound as a file of their own, which llama.cpp calls an mmproj."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from snugfit.archs.conversion.config import Config
from snugfit.archs.conversion.families import gemma_towers, qwen_towers
from snugfit.archs.conversion.rules import ConversionRow, ProjectorRow, Rule
from snugfit.archs.conversion.tensors import ConvertedTensor, Stored, renamed_tensors
from snugfit.core import TensorInfo
from snugfit.errors import FormatError, UnsupportedError
from snugfit.quants.assignment import fitting_type

ARCHITECTURE = "clip"
# Types of projectors: in full, or 16 bits that every backend multiplies. The first match decides.
# llama.cpp computes Gemma 3's projection wrongly in other types on some backends.
HALF = re.compile(r"mm\.input_projection\.weight")
IN_FULL = re.compile(
    r"v\.position_embd\.weight|a\.conv1d\..+|a\.input_projection\.weight"
    r"|a\.blk\.\d+\.conv_dw\.weight|(?!.*\.weight$).+"
)
PATCHES = re.compile(r"v\.patch_embd\.weight(\.1)?")


PROJECTORS: dict[str, ProjectorRow] = {
    "Gemma3ForConditionalGeneration": gemma_towers.GEMMA3,
    "Gemma4ForConditionalGeneration": gemma_towers.GEMMA4,
    "Gemma4UnifiedForConditionalGeneration": gemma_towers.GEMMA4_UNIFIED,
    "Qwen2VLForConditionalGeneration": qwen_towers.QWEN2_VISION,
    "Qwen2_5_VLForConditionalGeneration": qwen_towers.QWEN2_5_VISION,
    "Qwen3VLForConditionalGeneration": qwen_towers.QWEN3_VISION,
    "Qwen3VLMoeForConditionalGeneration": qwen_towers.QWEN3_VISION,
    "Qwen3_5ForConditionalGeneration": qwen_towers.QWEN3_VISION,
    "Qwen3_5MoeForConditionalGeneration": qwen_towers.QWEN3_VISION,
}


def projector_of(config: Config) -> ProjectorRow:
    """Return the row of the config's model class. Raises UnsupportedError."""
    classes = config.outer.get("architectures")
    name = classes[0] if isinstance(classes, list) and classes else None
    row = PROJECTORS.get(name) if isinstance(name, str) else None
    if row is None:
        raise UnsupportedError(
            f"{config.folder}: no projector of a {name} model can be converted yet. "
            f"Known: {', '.join(PROJECTORS)}."
        )
    return row


def convert_projector(
    config: Config, stored: Mapping[str, Stored]
) -> tuple[dict[str, Any], list[ConvertedTensor]]:
    """Return the metadata of a model's projector, and its tensors in file order.

    Raises FormatError where tensors are missing, UnsupportedError for a model without a projector,
    or one that llama.cpp would run wrongly.
    """
    row = projector_of(config)
    metadata = row.metadata(config)
    only_towers = (
        *row.rules,
        Rule(r"(?!(?:model\.)?(?:vis|audio|multi_modal|embed_vision|embed_audio)).+"),
    )
    conversion = ConversionRow(
        ARCHITECTURE, row.metadata, only_towers, stacks=(), rename=row.rename
    )
    found = renamed_tensors(config, conversion, stored, lambda _: None)
    _check_complete(config, row, found)
    return metadata, sorted(found.values(), key=lambda tensor: _file_order(tensor.info.name))


def projector_types(
    metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], type_name: str
) -> dict[str, str]:
    """Return the type of each tensor of a projector in F32, F16, BF16 or Q8_0.

    Vectors, positions and convolutions of sound stay in F32, those of pictures in F16 or F32.
    """
    found = {}
    for name, shape in shapes.items():
        if PATCHES.fullmatch(name):
            found[name] = "F16" if type_name == "F16" else "F32"
        elif len(shape) < 2 or IN_FULL.fullmatch(name):
            found[name] = "F32"
        elif HALF.fullmatch(name) and metadata.get("clip.projector_type") == "gemma3":
            found[name] = "F16"
        else:
            found[name] = fitting_type(type_name, shape[-1])
    return found


def stored_type(tensors: Iterable[TensorInfo]) -> str:
    """Return the type of 16 bits that a projector is stored in, or F16 where it is in none.

    The first matrix decides, as for llama.cpp's converter.
    """
    names = (tensor.type_name for tensor in tensors if len(tensor.shape) > 1)
    return next((name for name in names if name in ("BF16", "F16")), "F16")


def _check_complete(
    config: Config, row: ProjectorRow, found: Mapping[str, ConvertedTensor]
) -> None:
    if not found:
        raise FormatError(
            f"{config.folder}: holds the language model alone, without its towers. "
            "Use the original model's folder."
        )
    for name in row.needed:
        if name not in found:
            raise FormatError(f"{config.folder}: {name} is missing. Download every shard.")
    for prefix, numbers in row.layers(config).items():
        roles: dict[str, set[str]] = {}
        for name in found:
            if name.startswith(prefix):
                layer, role = name.removeprefix(prefix).split(".", 1)
                roles.setdefault(layer, set()).add(role)
        first = roles.get(str(numbers[0])) if numbers else None
        for layer in map(str, numbers):
            if first is None or roles.get(layer) != first:
                raise FormatError(
                    f"{config.folder}: tensors of {prefix}{layer} are missing. "
                    "Download every shard."
                )
        if len(roles) != len(numbers):
            raise FormatError(
                f"{config.folder}: {len(roles)} layers {prefix}* are stored, but config.json says "
                f"{len(numbers)}. Download the model again."
            )


def _file_order(name: str) -> tuple[str, int, str]:
    tower, _, rest = name.partition(".blk.")
    layer, _, role = rest.partition(".")
    return (tower, int(layer), role) if rest else (name.split(".", 1)[0], -1, name)
