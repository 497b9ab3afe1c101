"""The general.* keys of a converted model: who made it of what, under which licence, its sampling.

They come from the model card's front matter, config.json, generation_config.json and the name. What
a name says of size, version and fine-tuning is read by gguf's own heuristics (`gguf.Metadata`),
which llama.cpp's converter uses, so that a file is called what others call it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from snugfit.core import TensorInfo

# generation_config.json's word -> GGUF's, and its type. The first word that is there counts.
SAMPLING: tuple[tuple[tuple[str, ...], str, type[np.generic]], ...] = (
    (("top_k",), "top_k", np.int32),
    (("top_p",), "top_p", np.float32),
    (("min_p",), "min_p", np.float32),
    (("xtc_probability",), "xtc_probability", np.float32),
    (("xtc_threshold",), "xtc_threshold", np.float32),
    (("temperature",), "temp", np.float32),
    (("penalty_last_n",), "penalty_last_n", np.int32),
    (("penalty_repeat", "repetition_penalty"), "penalty_repeat", np.float32),
    (("mirostat",), "mirostat", np.int32),
    (("mirostat_tau",), "mirostat_tau", np.float32),
    (("mirostat_eta",), "mirostat_eta", np.float32),
)
# Fields of gguf.Metadata that are one text -> GGUF's key.
KEYS_OF_TEXTS = {
    **{
        name: f"general.{name}"
        for name in ("name", "author", "version", "organization", "finetune", "basename")
    },
    "description": "general.description",
    "size_label": "general.size_label",
    "license_name": "general.license.name",
    "license_link": "general.license.link",
    **{f"source_{name}": f"general.source.{name}" for name in ("url", "doi", "uuid", "repo_url")},
}
RELATED = ("name", "author", "version", "organization", "description", "url", "doi", "uuid")
CARD_KEYS = {
    *("name", "author", "version", "organization", "description", "finetune", "basename"),
    *("size_label", "url", "doi", "uuid", "repo_url", "base_model", "base_models"),
    *("base_model_sources", "datasets", "dataset", "dataset_sources", "license", "license_name"),
    *("license_link", "tags", "pipeline_tag", "languages", "language", "model_name"),
    *("model_author", "model_version", "model_organization", "model_description"),
    *("model_finetune", "model_basename", "model_size_label", "model_url", "model_doi"),
    *("model_uuid", "model_repo_url", "model_creator", "model_type"),
}
LONGEST_CARD = 2**16  # characters of the keys above; cards have up to a few thousand
LONGEST_TEXT, MOST_ITEMS, MOST_BRACKETS = 2000, 200, 500
TOP_LEVEL = re.compile(r"([A-Za-z_][\w-]*)\s*:")


def general_metadata(
    name: str,
    *,
    card: str = "",
    config: Mapping[str, Any] | None = None,
    generation: Mapping[str, Any] | None = None,
    tensors: Iterable[TensorInfo] = (),
) -> dict[str, Any]:
    """Return the general.* keys but those of architecture, type and file type.

    `name` is that of the folder or repository, `card` the text of README.md. What is damaged in
    either is left out: a model works without.
    """
    from gguf import Metadata, size_label

    counts = parameter_counts(tensors)
    where: Any = PurePosixPath(name)
    named = _text((config or {}).get("_name_or_path"))
    found = Metadata.apply_metadata_heuristic(
        Metadata(),
        front_matter(card),
        {"_name_or_path": named} if named else {},
        where,
        counts[0],
    )
    found.name = found.name or name
    if found.size_label is None and counts[0] > 0:
        found.size_label = size_label(*counts)
    keys: dict[str, Any] = dict(sampling_metadata(generation or {}))
    for field, key in KEYS_OF_TEXTS.items():
        if (value := getattr(found, field)) is not None:
            keys[key] = _joined(value)
    if found.license is not None:
        keys["general.license"] = _joined(found.license)
    keys |= _related("base_model", found.base_models) | _related("dataset", found.datasets)
    for field in ("tags", "languages"):
        if values := getattr(found, field):
            keys[f"general.{field}"] = [str(value) for value in values]
    return keys


def sampling_metadata(generation: Mapping[str, Any]) -> dict[str, Any]:
    """Return general.sampling.* of a generation_config.json; what is no number is left out."""
    keys: dict[str, Any] = {}
    for words, key, kind in SAMPLING:
        value = next((generation[word] for word in words if word in generation), None)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if math.isfinite(value) and abs(value) < 2**31:
            keys[f"general.sampling.{key}"] = kind(value)
    return keys


def parameter_counts(tensors: Iterable[TensorInfo]) -> tuple[int, int, int, int]:
    """Return parameters in all, those every token sees, those of one expert, and experts.

    Experts are the tensors whose names say `_exps`; they may differ from layer to layer.
    """
    total = shared = of_one = experts = stacks = 0
    for tensor in tensors:
        size = math.prod(tensor.shape)
        total += size
        if "_exps." in tensor.name and len(tensor.shape) >= 3:
            count = tensor.shape[-2 if ".bias" in tensor.name else -3]
            of_one += size // max(1, count)
            experts += count
            stacks += 1
        else:
            shared += size
    return total, shared, of_one, experts // stacks if stacks else 0


def front_matter(card: str) -> dict[str, Any]:
    """Return the keys of a model card's YAML header that a GGUF file has a place for.

    Only their lines are parsed: cards hold thousands of lines of results, and a stranger's may hold
    anything. Aliases are refused, since a few lines of them can stand for gigabytes.
    """
    lines = card[: 2**24].splitlines()
    if not lines or lines[0] != "---":
        return {}
    kept: list[str] = []
    wanted = False
    for line in lines[1:]:
        if line == "---":
            break
        start = TOP_LEVEL.match(line)
        if start:
            wanted = start[1] in CARD_KEYS
        if wanted:
            # YAML 1.1 reads `no`, which is Norwegian, as false, and knows no tabs.
            kept.append('- "no"' if line.strip() == "- no" else line.replace("\t", "  "))
    return _sound(_parsed("\n".join(kept) + "\n"))


def _parsed(text: str) -> Any:
    import yaml

    # The parser takes seconds for thousands of brackets within each other.
    if len(text) > LONGEST_CARD or text.count("[") + text.count("{") > MOST_BRACKETS:
        return None
    try:
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            if isinstance(token, yaml.AliasToken | yaml.AnchorToken):
                return None
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None


def _sound(parsed: Any) -> dict[str, Any]:
    """Keep texts, and lists of texts or of objects of texts."""
    found: dict[str, Any] = {}
    for key, value in parsed.items() if isinstance(parsed, dict) else ():
        if isinstance(value, list):
            items = [_item(item) for item in value[:MOST_ITEMS]]
            found[key] = [item for item in items if item]
        elif text := _text(value):
            found[key] = text
    return found


def _item(value: Any) -> str | dict[str, str] | None:
    if isinstance(value, dict):
        return {str(key): text for key, item in value.items() if (text := _text(item))}
    return _text(value)


def _text(value: Any) -> str | None:
    """Return a text that a file can hold, or None."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    text = str(value)[:LONGEST_TEXT].encode(errors="replace").decode()
    return text or None


def _joined(value: Any) -> str:
    values = value if isinstance(value, list) else [value]
    return ",".join(item for item in values if isinstance(item, str))


def _related(kind: str, entries: Any) -> dict[str, Any]:
    """Return what a model came from, or was trained on: a count, and texts by number."""
    if not entries:
        return {}
    keys: dict[str, Any] = {f"general.{kind}.count": np.uint32(len(entries))}
    for number, entry in enumerate(entries):
        for field in (*RELATED, "repo_url"):
            if field in entry:
                keys[f"general.{kind}.{number}.{field}"] = str(entry[field])
    return keys
