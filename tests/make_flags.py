"""Writes data/flags.json: the options of other engines, read out of their packages' source.

Nothing of a package is run. Where their wheels lie: pip download --no-deps, then
python tests/make_flags.py FOLDER
"""

from __future__ import annotations

import ast
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

# Program -> (wheel's first words, files with its options, of which choices are kept).
PROGRAMS = {
    "vLLM": ("vllm-", ("vllm/engine/arg_utils.py",)),
    "SGLang": ("sglang-", ("sglang/srt/arg_groups/fields/",)),
    "KTransformers": ("sglang_kt-", ("sglang/srt/server_args.py",)),
    "mlx_lm.server": ("mlx_lm-", ("mlx_lm/server.py",)),
    "mlx_lm.convert": ("mlx_lm-", ("mlx_lm/convert.py",)),
    "Ray": ("ray-", ("ray/scripts/scripts.py",)),
}
# Program -> option -> (file, name of the list of its choices there).
CHOICES = {
    "vLLM": {
        "--quantization": (
            "vllm/model_executor/layers/quantization/__init__.py",
            "QuantizationMethods",
        ),
        "--kv-cache-dtype": ("vllm/config/cache.py", "CacheDType"),
    },
    "SGLang": {
        "--quantization": ("sglang/srt/arg_groups/choices.py", "QUANTIZATION_CHOICES"),
        "--kv-cache-dtype": ("sglang/srt/arg_groups/fields/model.py", "kv_cache_dtype"),
    },
}


def texts(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value


def options(tree: ast.Module) -> Iterator[str]:
    """Yield what add_argument, click.option or a field of an annotated dataclass declares."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            if called in ("add_argument", "option"):
                words = [a.value for a in node.args if isinstance(a, ast.Constant)]
                yield from (word for word in words if str(word).startswith("--"))
        if isinstance(node, ast.AnnAssign) and isinstance(node.annotation, ast.Subscript):
            is_option = getattr(node.annotation.value, "id", "") == "A"
            if is_option and isinstance(node.target, ast.Name):
                yield "--" + node.target.id.replace("_", "-")
                for word in ast.walk(node.annotation):
                    if isinstance(word, ast.keyword) and word.arg in ("aliases", "cli_name"):
                        yield from (text for text in texts(word.value) if text.startswith("--"))


def choices(tree: ast.Module, name: str) -> list[str]:
    """Return the texts of what is assigned to `name`, or of the choices of a field of that name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == name:
            return list(texts(node.value))
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == name:
            for word in ast.walk(node.annotation):
                if isinstance(word, ast.keyword) and word.arg == "choices":
                    return list(texts(word.value))
    raise LookupError(name)


def read(folder: Path, program: str) -> dict[str, object]:
    prefix, files = PROGRAMS[program]
    (wheel,) = folder.glob(f"{prefix}*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [n for n in archive.namelist() if n.endswith(".py") and n.startswith(files)]
        trees = [ast.parse(archive.read(name)) for name in names]
        kept = {
            option: choices(ast.parse(archive.read(file)), name)
            for option, (file, name) in CHOICES.get(program, {}).items()
        }
    found = sorted({option for tree in trees for option in options(tree)})
    return {"version": wheel.name.split("-")[1], "flags": found, "choices": kept}


if __name__ == "__main__":
    made = {program: read(Path(sys.argv[1]), program) for program in PROGRAMS}
    out = Path(__file__).parent / "data/flags.json"
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(row)}" for name, row in made.items())
    out.write_text(f"{{\n{lines}\n}}\n")
