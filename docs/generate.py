"""Writes the pages of PAGES from the program itself; `--check` only compares.

python docs/generate.py [--check]
"""

from __future__ import annotations

import sys
from pathlib import Path

from typer.testing import CliRunner

from snugfit.archs.catalogue import CATALOGUE
from snugfit.cli.main import COMMANDS, app_of, overview
from snugfit.quants.codecs import can_dequantize, can_quantize
from snugfit.quants.recipes import FALLBACKS, RECIPES
from snugfit.quants.types import TYPES

HERE = Path(__file__).parent
NOTICE = "<!-- Written by docs/generate.py; change the program, then run: make docs -->\n\n"


def command_reference() -> str:
    parts = [NOTICE, "# Commands\n\n```\n", overview(), "```\n"]
    for name, (_, summary) in COMMANDS.items():
        shown = CliRunner().invoke(app_of(name), [name, "--help"], prog_name="snugfit")
        parts.append(f"\n## snugfit {name}\n\n{summary.capitalize()}.\n\n```\n")
        parts.append(shown.output.strip() + "\n```\n")
    return "".join(parts)


def type_reference() -> str:
    lines = [
        NOTICE + "# Tensor types\n",
        "| type | id | weights a block | bytes a block | bits a weight | read | written |",
        "|---|--:|--:|--:|--:|---|---|",
    ]
    for row in TYPES.values():
        read = "yes" if can_dequantize(row.name) else ""
        written = "yes" if can_quantize(row.name) else ""
        lines.append(
            f"| {row.name} | {row.id} | {row.block_weights} | {row.block_bytes} "
            f"| {row.bits_per_weight:.4g} | {read} | {written} |"
        )
    lines += [
        "\n# Mixes\n",
        "| mix | base | head | tensors with another type |",
        "|---|---|---|---|",
    ]
    for name, recipe in RECIPES.items():
        rules = ", ".join(
            f"{rule.role}: {rule.type_name} ({rule.where.__name__.replace('_', ' ')})"
            for rule in recipe.rules
        )
        lines.append(f"| {name} | {recipe.base} | {recipe.head} | {rules} |")
    lines.append("\nWhere a row is not filled by whole blocks, the next type is taken:")
    lines.append(
        ", ".join(f"{name} -> {other}" for name, other in FALLBACKS.items()) + ", then F16.\n"
    )
    return "\n".join(lines)


def model_reference() -> str:
    lines = [
        NOTICE + "# The catalogue\n",
        "Models that `inspect`, `memory` and `plan` know by name, without a file or a network.",
        "Sizes are those of the text model as llama.cpp loads it; the weights are where the last",
        "column says.\n",
        "| name | architecture | parameters | layers | context | published as | weights |",
        "|---|---|--:|--:|--:|---|---|",
    ]
    for name, model in CATALOGUE.items():
        count = sum(tensor.parameters for tensor in model.tensors.values())
        types = dict.fromkeys((model.matrix_type, model.expert_type))
        lines.append(
            f"| `{name}` | {model.architecture} | {count / 1e9:.3f} B | "
            f"{model.keys['block_count']} | {model.keys['context_length']:,} | "
            f"{', '.join(types)} | {model.weights} |"
        )
    return "\n".join(lines) + "\n"


PAGES = {
    "cli.md": command_reference,
    "models.md": model_reference,
    "quant-types.md": type_reference,
}


def main() -> int:
    stale = []
    for name, write in PAGES.items():
        path, text = HERE / name, write()
        if "--check" in sys.argv:
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                stale.append(name)
        else:
            path.write_text(text, encoding="utf-8")
    for name in stale:
        print(f"docs/{name} is not what the program says. Run: make docs", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
