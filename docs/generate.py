"""Writes the pages of PAGES from the program itself; `--check` only compares.

python docs/generate.py [--check]
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from conversion_page import conversion_page
from typer.testing import CliRunner

from snugfit.archs.catalogue import CATALOGUE
from snugfit.cli.main import COMMANDS, app_of, overview
from snugfit.cli.tables_text import CSV_COLUMNS, markdown
from snugfit.core import Device, Machine
from snugfit.hardware import profiles
from snugfit.headers import open_headers
from snugfit.quants.assignment import FALLBACKS, WITHOUT_IMPORTANCE
from snugfit.quants.codecs import READABLE, WRITABLE, WRITABLE_BETTER
from snugfit.quants.recipes import ANY_ROLE, RECIPES, Recipe, Rule
from snugfit.quants.types import TYPES
from snugfit.runtimes.commands import options, served
from snugfit.runtimes.commands.base import EXPORTERS
from snugfit.tables import cards_sold, tables_of
from snugfit.units import GIB, format_size

HERE = Path(__file__).parent
NOTICE = "<!-- Written by docs/generate.py; change the program, then run: make docs -->\n\n"


SAME_BYTES = """
`--best` (`quality="best"` in Python) spends about the time that llama.cpp spends, on a search
of scales that loses less; elsewhere it changes nothing.

# The same bytes everywhere

One source is compiled for baseline x86-64, AVX2 and AVX-512 (on other processors, for what the
compiler takes for granted, NEON on arm64), and the best that the processor has is chosen when
the package is imported. All of them write the same bytes, for any number of threads: there is
no fast-math and no fused multiply-add, sums are taken in an order that the source fixes and no
vector's width changes, and rows are computed alone. Read weights are ggml's bit for bit.
`tests/quants/test_codecs.py` and `test_best.py` compare every build that the processor can run;
the AVX-512 one needs such a processor.

Weights beyond a type's largest scale take its largest value; no infinity or NaN is ever
written, and one in the input is refused with its tensor, row and column.
"""


def command_reference() -> str:
    parts = [NOTICE, "# Commands\n\n```\n", overview(), "```\n"]
    for name, (_, summary) in COMMANDS.items():
        shown = CliRunner().invoke(app_of(name), [name, "--help"], prog_name="snugfit")
        parts.append(f"\n## snugfit {name}\n\n{summary.capitalize()}.\n\n```\n")
        parts.append(shown.output.strip() + "\n```\n")
    return "".join(parts)


def _rule_text(rule: Rule, recipe: Recipe) -> str:
    where = rule.where.__name__.replace("_", " ")
    if rule.importance is not None:
        where += f", {'with' if rule.importance else 'without'} importance"
    role = "any" if rule.role == ANY_ROLE else rule.role
    return f"{role}: {rule.type_name or recipe.base} ({where})"


def type_reference() -> str:
    lines = [
        NOTICE + "# Tensor types\n",
        "| type | id | weights a block | bytes a block | bits a weight | read | written | --best |",
        "|---|--:|--:|--:|--:|---|---|---|",
    ]
    for row in TYPES.values():
        kernels = [
            "yes" if row.name in had else "" for had in (READABLE, WRITABLE, WRITABLE_BETTER)
        ]
        lines.append(
            f"| {row.name} | {row.id} | {row.block_weights} | {row.block_bytes} "
            f"| {row.bits_per_weight:.4g} | {' | '.join(kernels)} |"
        )
    lines += [
        SAME_BYTES,
        "\n# Mixes\n",
        "The first rule that holds decides. `attn_v` is also joined queries, keys and values;",
        "heads are the first layer's. [quantize.md](quantize.md) says what options change.\n",
        "| mix | base | head | tensors with another type |",
        "|---|---|---|---|",
    ]
    for name, recipe in RECIPES.items():
        rules = ", ".join(_rule_text(rule, recipe) for rule in recipe.rules)
        if recipe.embedding:
            rules = ", ".join(filter(None, (f"token_embd: {recipe.embedding}", rules)))
        lines.append(f"| {name} | {recipe.base} | {recipe.head} | {rules} |")
    lines.append("\nWhere a row is not filled by whole blocks, the next type is taken:")
    lines.append(
        ", ".join(f"{name} -> {other}" for name, other in FALLBACKS.items()) + ", then F16.\n"
    )
    lines.append("Where a tensor has no importance, and its type needs it:")
    others = (f"{name} -> {other}" for name, other in WITHOUT_IMPORTANCE.items())
    lines.append(", ".join(others) + ".")
    lines.append("Q2_K needs it in Q2_K_S alone, and becomes Q3_K.\n")
    return "\n".join(lines)


# Field of `snugfit machine --json` -> what it holds. Fields are added, never renamed.
MACHINE_FIELDS = {
    "name": "of the computer, the profile or the file",
    "processor": "its name as its maker writes it",
    "cores": "that may be used, hyper-threads not counted; 0 if not known",
    "devices": "memories, GPUs first and RAM last",
}
DEVICE_FIELDS = {
    "name": "GPUs of one name are numbered",
    "kind": "`gpu` or `ram`; one device is `ram`",
    "total_bytes": "within control groups, or what a shared memory's GPU may hold",
    "free_bytes": "what planning may fill; memory that is shared counts once, as the GPU's",
    "note": "what limits it, or what holds the rest",
    "read_bytes_per_s": "how fast its own processors read it, all together; null if not known",
    "read_basis": "`measured` here, `profile`: as its maker specifies, or `unknown`",
    "link": "to the host, as `PCIe 4.0 x16`",
    "link_bytes_per_s": "of that link, one way, before packet headers; null if not known",
    "shares_ram": "whether its memory is part of RAM",
    "holders": "processes on a GPU: `name`, and `used_bytes` or null where the driver is silent",
}


def machine_reference() -> str:
    lines = [NOTICE + "# Machines\n"]
    for title, of_class, fields in (
        ("`snugfit machine --json`, and files for `--machine`", Machine, MACHINE_FIELDS),
        ("Each of `devices`", Device, DEVICE_FIELDS),
    ):
        assert list(fields) == [field.name for field in dataclasses.fields(of_class)]
        lines += [f"## {title}\n", "| field | holds |", "|---|---|"]
        lines += [f"| `{name}` | {text} |" for name, text in fields.items()] + [""]
    lines += [
        "A file needs `devices`, each with `kind` and `total_bytes`; JSON or TOML, sizes in bytes",
        'or as text with a unit, such as `"24GiB"`. Fields that are not known are passed over.\n',
        "## Names for `--machine`\n",
        "Vendors' words and case do not matter. A name that was sold with several memories needs",
        "its size, as `RTX 5060 Ti 16GB`. GPUs can be put together: `2x RTX 3090`, or",
        "`RTX 5080 + RTX 3060 12GB`; they take the place of this computer's, whose RAM stays.\n",
        "| name | kind | GiB | RAM | 10^9 bytes/s | source |",
        "|---|---|--:|--:|--:|---|",
    ]
    for row in profiles.rows():
        sizes = " or ".join(str(size // GIB) for size in row.memory_bytes)
        gpus = f"{row.gpus} x " if row.gpus > 1 else ""
        ram = str(row.ram_bytes // GIB) if row.ram_bytes else ""
        rate = f"{row.read_bytes_per_s / 1e9:g}"
        lines.append(f"| {row.name} | {row.kind} | {gpus}{sizes} | {ram} | {rate} | {row.source} |")
    return "\n".join(lines) + "\n"


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


# Field of a line of `snugfit tables --format csv` -> what it holds.
TABLE_FIELDS = {
    "model": "its name; text that a spreadsheet would take for a formula has a ' before it",
    "quantization": "the mix, or the file of a repository",
    "bits_per_weight": "of all weights",
    "file_bytes": "of the file, with header and padding",
    "kv_type": "of the cache",
    "experts": "`gpu` or `ram`; empty for a model without experts",
    "ctx": "tokens of context",
    "gpu_weights_bytes": "all weights on the GPU",
    "gpu_cache_bytes": "KV cache and recurrent states",
    "gpu_compute_bytes": "the buffer of one pass, estimated",
    "gpu_overhead_bytes": "the driver's context and libraries, estimated",
    "gpu_bytes": "the sum of the four",
    "gpu_safer_bytes": "with a desktop, and the upper end of the estimate",
    "minimum_gpus": "1, or those of a server; empty if nothing that is sold or rented holds it",
    "minimum_gpu_bytes": "memory of each",
    "safer_gpus": "the same for the safer sum",
    "safer_gpu_bytes": "memory of each",
    "ram_bytes": "of host memory",
    "ram_size_bytes": "the smallest usual memory that holds that and a system",
}
TABLES_TEXT = """
Published tables say "minimum 20 GB, safer 24 GB" and do not say of what. Here both are computed,
from the same bytes that `snugfit memory` and `snugfit plan` count, and rounded up to memories
that can be bought.

| | minimum | safer |
|---|---|---|
| weights, KV cache, states | exact | the same |
| compute buffer | as estimated | at the upper end of its band |
| driver's context, libraries | 330 MiB; without a desktop 140 to 370 were measured | the same |
| desktop and other programs | none | 3.53 GiB, or `--desktop SIZE` |
| kept by the driver | 512 MiB of every card | the same |
| requests at a time | one | one |

**The desktop.** Of three cards with one it held 0.5 GiB (RTX 3060), 1.8 GiB (RTX 5090) and 3.5
GiB (RTX 4090); the table takes the most. What yours holds is what `nvidia-smi` shows as used
before a model is loaded: give that as `--desktop`, or `--desktop 0B` if screens hang on another
GPU.

**The driver.** Of an RTX 4090's 24564 MiB llama.cpp is offered 24077. `--machine "RTX 3090"`
takes off the same 512 MiB, so that `plan` and these tables agree. Cards with error correction
(T4, A10, L4, L40S) show up to 2 GiB less than they are sold with: compare the exact number with
what `snugfit machine` shows.

**Memories.** In GiB, of GPUs and then of servers that clouds rent: {sizes}.
A model that no single GPU holds is split by layers over a server's GPUs, each with its own
buffers.

**Mixture of experts.** The second table leaves all experts in RAM (`-ncmoe`, all layers). Between
the two lie as many ways as there are layers: `snugfit plan` finds the one for a machine.

Markdown, CSV, HTML and JSON hold the same numbers: `-o FILE` by its ending, or `--format`. The
HTML is one file that loads nothing. JSON has the fields of the CSV, nested by file and context.

| field of the CSV | holds |
|---|---|
"""
TABLES_EXAMPLE = ("qwen3.6-35b-a3b", ("Q8_0", "Q6_K", "Q4_K_M", "IQ3_M", "IQ2_M"))


def tables_reference() -> str:
    assert tuple(TABLE_FIELDS) == CSV_COLUMNS
    name, mixes = TABLES_EXAMPLE
    headers = open_headers(name)
    tables = tables_of(name, {"": headers.model.spec()}, mixes=mixes, note=headers.note)
    return "".join(
        (
            NOTICE + "# Minimum and safer memory\n",
            TABLES_TEXT.format(sizes=", ".join(cards.label for cards in cards_sold())),
            *(f"| `{name}` | {text} |\n" for name, text in TABLE_FIELDS.items()),
            f"\n`snugfit tables {name} --like {','.join(mixes)} --format markdown` writes:",
            "\n\n---\n\n",
            markdown(tables),
        )
    )


# What a plan sets -> how people call it, for the options that a program may have.
SETTINGS = {
    "ctx": "context",
    "slots": "requests at a time",
    "kv_unified": "one cache for all of them",
    "kv_type": "cache of keys",
    "value_type": "cache of values",
    "flash_attention": "flash attention",
    "ubatch": "tokens of one pass",
    "gpu_layers": "layers on GPUs",
    "cpu_expert_layers": "layers whose experts are in RAM",
    "expert_cache": "copies of experts on the GPU",
    "gpu_split": "layers of each GPU",
    "swa_full": "windows of full length",
    "prompt_cache": "past prompts kept in RAM",
    "checkpoints": "snapshots of windows and states",
    "fit": "placement by the program itself",
}
SERVED_SETTINGS = {
    "ctx": "context of one request",
    "slots": "requests at a time",
    "kv_type": "cache",
    "quantization": "weights as FP8",
    "tensor_parallel": "GPUs that share a matrix",
    "pipeline_parallel": "machines that share the layers",
    "share": "part of a GPU's memory",
    "offload": "weights in RAM",
    "gpu_experts": "experts on the GPU",
}
ASSUMED = format_size(served.OVERHEAD_BYTES)
ABOUT_PROGRAMS = f"""
llama.cpp, Ollama and LM Studio run the chosen GGUF file in the chosen places. Every place is
given, so their own placement is switched off: the two are never mixed. The server's caches of past
prompts, which no plan counts, are limited to the RAM that is left.

vLLM, SGLang and KTransformers serve the model as published, so a plan gives them its context and
slots, and each answers with its own memory or says what is missing. Each GPU holds its share of
weights and cache, and {ASSUMED} are assumed for the rest. vLLM's pages have one size: every
layer counts as wide as the widest, windows or not, which is 73,728 bytes a token for gpt-oss-120b,
where llama.cpp needs half of that. 16-bit weights that do not fit are cut to FP8 as they are
loaded. MLX gets the largest of its own types within the plan's bits a weight.

# Several machines

`--nodes 'a=24GiB; 10.0.0.2:50053=2x RTX 3090'` plans over the GPUs of other machines before this
one's: the order in which llama.cpp lists them. Each node is `host[:port]=` and sizes, or a name
from [machines.md](machines.md); one without a GPU gives the RAM it lends. The plan writes out the
layers of each GPU. Experts stay with their layers. What the network costs is said as a bound, round
trips and hidden states, beside what has been reported; it adds room, not speed. Ray and vLLM need
as many GPUs on every machine, and share the layers evenly.
"""


def program_reference() -> str:
    lines = [
        NOTICE + "# Commands for other programs\n",
        "`snugfit plan MODEL --for PROGRAM[,PROGRAM..]` prints what to run, ready to be copied;",
        "`-o DIR` writes the files, `--json` has all of it under `commands`.\n",
        "| `--for` | loads | machines |",
        "|---|---|---|",
    ]
    for name, one in EXPORTERS.items():
        loads = "a GGUF file" if one.loads == "gguf" else "the model as published"
        lines.append(f"| `{name}` | {loads} | {'several' if one.over_nodes else 'one'} |")
    versions = ", ".join(f"{name} {version}" for name, version in options.CHECKED.items())
    lines.append(f"\nOptions are those of {versions}. What a plan sets, and where:\n")
    lines += ["| | llama.cpp | Ollama | LM Studio |", "|---|---|---|---|"]
    for name, told in SETTINGS.items():
        ours = options.LLAMA_CPP[name]
        flag = f"`{ours.flag}`" + (f" `{ours.off}`" if ours.off else "")
        ollama = options.OLLAMA_PARAMETERS | options.OLLAMA_ENVIRONMENT
        studio = options.LM_STUDIO_KEYS.get(name)
        shown = f"`{studio}`" if studio else ""
        lines.append(f"| {told} | {flag} | `{ollama.get(name, ours.env)}` | {shown} |")
    tables = {"vLLM, Ray": options.VLLM, "SGLang": options.SGLANG}
    tables["KTransformers"] = options.KTRANSFORMERS
    lines += ["", f"| | {' | '.join(tables)} |", "|---" * (1 + len(tables)) + "|"]
    for name, told in SERVED_SETTINGS.items():
        cells = [f"`{table[name]}`" if name in table else "" for table in tables.values()]
        lines.append(f"| {told} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n" + ABOUT_PROGRAMS


PAGES = {
    "cli.md": command_reference,
    "conversion.md": lambda: NOTICE + conversion_page(),
    "machines.md": machine_reference,
    "models.md": model_reference,
    "programs.md": program_reference,
    "quant-types.md": type_reference,
    "tables.md": tables_reference,
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
