"""What llama.cpp's own converter makes of a folder: `python record_converted.py TREE FOLDER`.

TREE is llama.cpp's source, as `vendor/llama.cpp` in the sdist of llama-cpp-python on PyPI. Prints
JSON: {"keys": {key: value}, "tensors": {name: [shape, type]}}, shapes as [..., rows, columns]; of
`tokenizer.*` and `general.*` only the architecture. `--mmproj` records the projector instead.
Needs numpy, torch, transformers and the packages that the converter asks for.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import runpy
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


def convert(tree: Path, folder: Path, out: Path, options: list[str]) -> None:
    sys.path[:0] = [str(tree), str(tree / "gguf-py")]
    import conversion
    from conversion.base import TextModel

    for module in pkgutil.iter_modules(conversion.__path__):
        importlib.import_module(f"conversion.{module.name}")
    # Tiny tokenizers are byte-level, whatever the model's are, and not in its table of hashes.
    TextModel.get_vocab_base_pre = lambda _self, _tokenizer: "qwen2"
    for model in subclasses(TextModel):
        model.set_vocab = TextModel._set_vocab_gpt2
    sys.argv = ["convert", str(folder), "--outfile", str(out), "--outtype", "bf16", *options]
    runpy.run_path(str(tree / "convert_hf_to_gguf.py"), run_name="__main__")


def subclasses(kind: type) -> Iterator[type]:
    for one in kind.__subclasses__():
        yield one
        yield from subclasses(one)


def plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | list):
        return [plain(one) for one in value]
    return value.item() if isinstance(value, np.generic) else value


def recorded(path: Path) -> dict[str, Any]:
    import gguf

    reader = gguf.GGUFReader(path)
    keys = {
        key: plain(field.contents())
        for key, field in reader.fields.items()
        if not key.startswith(("GGUF.", "tokenizer.", "general.")) or key == "general.architecture"
    }
    tensors = {
        tensor.name: [[int(n) for n in reversed(tensor.shape)], tensor.tensor_type.name]
        for tensor in reader.tensors
    }
    return {"keys": dict(sorted(keys.items())), "tensors": dict(sorted(tensors.items()))}


def main() -> None:
    tree, folder, *options = sys.argv[1:]
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "model.gguf"
        convert(Path(tree), Path(folder), out, options)
        found = recorded(out)
    print(json.dumps(found, sort_keys=True))


if __name__ == "__main__":
    main()
