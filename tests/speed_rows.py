"""Public measurements of speed, as configurations that can be predicted, and why others cannot.

No rule looks at a predicted speed, but some were set after the rows had been seen: docs/speed.md
says which, and what they change. A row that breaks several rules has the first reason.
"""

from __future__ import annotations

import csv
import functools
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from snugfit.archs.catalogue import CATALOGUE
from snugfit.archs.table import spec_of
from snugfit.core import Band, Configuration, Device, Machine, ModelSpec, Speed
from snugfit.errors import UnsupportedError
from snugfit.hardware import profiles
from snugfit.hardware.detect import machine_of
from snugfit.hardware.named import machine_named
from snugfit.planning.memory import (
    Footprint,
    cut_footprint,
    footprint_of,
    placement,
    tensor_sizes,
    use_of,
)
from snugfit.planning.pace import Pace, paces_of
from snugfit.planning.speed import Reads, cache_reads, reads_of, speed_of
from snugfit.quants.assignment import assign_types
from snugfit.quants.recipes import RECIPES
from snugfit.units import GIB, MIB

TABLE = Path(__file__).parent / "data" / "measured_toks.csv"
REASONS = {
    "engine": "not llama.cpp, nor Ollama or LM Studio, which run it, but another or a fork",
    "speculative": "drafts tokens (draft, MTP, spec in model, engine or flags)",
    "hardware": "no profile: a processor without the rate of its RAM, or a GPU nobody specifies",
    "shape": "a model whose shape is not in the catalogue",
    "quantization": "not said, or a vendor's own mix, whose bytes the name does not tell",
    "placement": "does not leave the margin of llama.cpp's --fit on the GPU by our own memory "
    "model, so that layers may have been in RAM, which is not said",
    "impossible": "more bytes a second than the memory can deliver: drafted, batched or wrong",
}
# llama.cpp leaves layers in RAM unless so much of a GPU stays free, by default.
MARGIN_BYTES = 1024 * MIB
# What is assumed where a row says nothing: llmfit's community runs are short chats.
ASSUMED_CONTEXT, ASSUMED_PROMPT = 2048, 64

BYTES_A_PARAMETER = {"Q8_0": 1.05, "Q6_K": 0.80, "Q3_K_M": 0.48, "Q2_K": 0.37, "BF16": 2.0}

ENGINES = re.compile(r"llama\.?cpp|ollama|lmstudio")
FORKS = re.compile(r"turbo|bee|buun|lucebox|hipfire|ik_|-mlx|mlx-")
DRAFTS = re.compile(r"draft|mtp|spec|dflash|eagle")
VENDOR_MIX = re.compile(r"\bud[-_]|_xl\b|_p\b|_l\b|apex|nvfp4|qat", re.IGNORECASE)
MIX = re.compile(
    r"(?<![a-z0-9])(i?q\d_k_[sml]|q\d_k|q\d_[01]|i?q\d_[a-z]{1,3}|bf16|f16|mxfp4)(?![a-z0-9])"
)

# The first pattern that a model's name has says its shape. A fine-tune counts where its name has
# family and size of what it was tuned from.
SHAPES: Sequence[tuple[str, str]] = (
    (r"r1-distill-qwen-(1\.5|7|14|32)b", r"qwen2.5-\1b"),
    (r"r1-distill-llama-8b|nemotron-nano-8b-v1", "llama-3.1-8b"),
    (r"r1-0528-qwen3-8b", "qwen3-8b"),
    (r"deepcoder-14b", "qwen2.5-14b"),
    (r"deepseek-coder-v2-lite", "deepseek-coder-v2-lite"),
    (r"qwen2\.5-(?:coder-)?(0\.5|1\.5|3|7|14|32|72)b", r"qwen2.5-\1b"),
    (r"qwen3-coder-next", "qwen3-coder-next"),
    (r"qwen3-(?:coder-)?30b-a3b", "qwen3-30b-a3b"),
    (r"qwen3[-:](0\.6|1\.7|4|8|14|32)b", r"qwen3-\1b"),
    (r"3\.[56]-35b-a3b", "qwen3.6-35b-a3b"),
    (r"3\.[56]-27b", "qwen3.6-27b"),
    (r"qwen3\.5-(122b-a10b|0\.8b|2b|4b|9b)", r"qwen3.5-\1"),
    (r"llama-3\.2-([13])b", r"llama-3.2-\1b"),
    (r"llama-3(?:\.1)?-8b", "llama-3.1-8b"),
    (r"phi-4-mini", "phi-4-mini"),
    (r"phi-4(?:-reasoning-plus)?(?=-q|$)", "phi-4"),
    (r"phi-3\.5-mini", "phi-3.5-mini"),
    (r"phi-3-medium-4k", "phi-3-medium"),
    (r"4-(e2b|e4b|26b-a4b|31b)", r"gemma-4-\1"),
    (r"gemma-3-(270m|1b|4b|12b|27b)", r"gemma-3-\1"),
    (r"functiongemma-270m", "gemma-3-270m"),
    (r"gemma-2-(2b|9b|27b)", r"gemma-2-\1"),
    (r"smollm2-(135m|360m|1\.7b)", r"smollm2-\1"),
    (r"smollm3-3b", "smollm3-3b"),
    (r"ministral-3-([38])b", r"ministral-3-\1b"),
    (r"ministral-8b", "ministral-8b"),
    (r"mistral-small-(?:3\.\d-)?24b|magistral-small", "mistral-small-24b"),
    (r"mistral-7b", "mistral-7b"),
    (r"codestral-22b", "codestral-22b"),
    (r"(yi-1\.5-(?:9|34)b|falcon3-(?:7|10)b|granite-3\.1-8b|granite-3\.3-2b)", r"\1"),
    (r"(exaone-3\.5-7\.8b|aya-expanse-8b|command-r7b|gpt-oss-(?:20|120)b|glm-4\.7-flash)", r"\1"),
    (r"(ernie-4\.5-(?:0\.3b|21b-a3b))", r"\1"),
    (r"olmo-2-(?:\d+)-(1|13)b", r"olmo-2-\1b"),
    (r"internlm2_5-20b", "internlm2.5-20b"),
    (r"(?<!\.5-)lfm2-(350m|700m|1\.2b|8b-a1b)", r"lfm2-\1"),
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One report that can be predicted."""

    line: int  # of the table, its head is 1
    model: str
    shape: str
    mix: str
    hardware: str
    configuration: Configuration
    machine: Machine
    prompt: int  # 0: not said
    filled: int
    decode: float  # tokens a second
    prefill: float | None

    @property
    def key(self) -> tuple[str, ...]:
        """What rows of one configuration share."""
        return self.shape, self.mix, self.machine.name, str(self.filled)

    @property
    def speed(self) -> Speed:
        return predicted(self, paces_of(self.machine.devices))


@dataclass(frozen=True)
class Excluded:
    line: int
    model: str
    hardware: str
    reason: str  # a key of REASONS


def speed_rows() -> tuple[list[Row], list[Excluded]]:
    """Return the rows of the table that have the needed fields, and the others."""
    found: list[Row] = []
    excluded: list[Excluded] = []
    table = list(csv.DictReader(TABLE.read_text(encoding="utf-8").splitlines()))
    series = _series(table)
    for line, fields in enumerate(table, 2):
        row = _row(line, fields, is_depth=_series_key(fields) in series)
        if isinstance(row, str):
            excluded.append(Excluded(line, fields["model"], fields["hardware"], row))
        else:
            found.append(row)
    return found, excluded


def grouped(rows: Sequence[Row]) -> Mapping[tuple[str, ...], list[Row]]:
    """Return the reports of each configuration."""
    found = defaultdict(list)
    for row in rows:
        found[row.key].append(row)
    return found


def _series_key(fields: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(fields[name] for name in ("engine", "model", "quant", "hardware", "cpu"))


def _series(table: Sequence[Mapping[str, str]]) -> set[tuple[str, ...]]:
    """Return what was run by llama-bench (512 tokens in, 128 out) at several contexts.

    There the context is how much of it was full: llama-bench's depth.
    """
    contexts = defaultdict(set)
    for fields in table:
        if (fields["prompt_tok"], fields["out_tok"]) == ("512", "128"):
            contexts[_series_key(fields)].add(fields["ctx"])
    return {key for key, seen in contexts.items() if len(seen) > 1}


def processor_rows(processor: str) -> dict[tuple[str, str], float]:
    """Return (model, mix) -> median tokens a second of llama.cpp on a processor alone.

    The rate of its RAM is in no row: one number fits all models of a processor, or none.
    """
    found = defaultdict(list)
    for fields in csv.DictReader(TABLE.read_text(encoding="utf-8").splitlines()):
        shape = _shape(fields["model"].lower())
        is_alone = fields["unified"] == "CPU_ONLY" and fields["engine"].startswith("llama.cpp")
        if shape and is_alone and processor in fields["cpu"] and fields["quant"] in RECIPES:
            found[shape, fields["quant"]].append(float(fields["tg_tok_s"]))
    return {key: median(rates) for key, rates in found.items()}


def _row(line: int, fields: Mapping[str, str], *, is_depth: bool) -> Row | str:
    """Return the row, or why there is none."""
    engine, model = fields["engine"].lower(), fields["model"].lower()
    text = " ".join((engine, model, fields["flags"].lower()))
    if not ENGINES.match(engine) or FORKS.search(f"{engine} {model}"):
        return "engine"
    if DRAFTS.search(text):
        return "speculative"
    machine = _machine(fields)
    if machine is None:
        return "hardware"
    shape = _shape(model)
    if shape is None:
        return "shape"
    mix = _mix(model, fields["quant"].lower(), shape)
    if mix is None:
        return "quantization"
    context, filled = _context(fields, is_depth=is_depth)
    configuration = Configuration(context, gpu_layers=CATALOGUE[shape].keys["block_count"] + 1)
    row = Row(
        line,
        fields["model"],
        shape,
        mix,
        fields["hardware"],
        configuration,
        machine,
        int(float(fields["prompt_tok"] or 0)),
        filled,
        float(fields["tg_tok_s"]),
        float(fields["pp_tok_s"]) if fields["pp_tok_s"] else None,
    )
    return _fault(row) or row


def _context(fields: Mapping[str, str], *, is_depth: bool) -> tuple[int, int]:
    """Return the context, and how much of it was full when half of the answer was out.

    llama-bench generates into an empty cache unless told otherwise; where the context is the
    prompt and the answer together, that was its run.
    """
    prompt, answer, said = (
        int(float(fields[name] or 0)) for name in ("prompt_tok", "out_tok", "ctx")
    )
    start = prompt or ASSUMED_PROMPT
    if is_depth and prompt == 512:
        start = said
    elif said and said == prompt + answer:
        start = 0
    context = max(said or ASSUMED_CONTEXT, start + answer)
    return context, min(start + answer // 2, context)


def _machine(fields: Mapping[str, str]) -> Machine | None:
    size = float(fields["vram_gb"] or 0)
    count = int(fields["gpu_count"] or 1)
    profile = profiles.lookup(fields["hardware"], size * GIB if size else None)
    if profile is None or profile.kind not in ("gpu", "unified"):
        return None
    memory = min(profile.memory_bytes, key=lambda one: abs(one / GIB - size))
    name = f"{count}x {profile.name}" if count > 1 else profile.name
    return machine_named(f"{name} {memory // GIB}GB", lambda: machine_of([], 64 * GIB))


def _shape(model: str) -> str | None:
    for pattern, name in SHAPES:
        match = re.search(pattern, model)
        if match:
            return match.expand(name)
    return None


def _mix(model: str, quant: str, shape: str) -> str | None:
    if shape.startswith("gpt-oss"):
        return "as published"  # every file of it keeps the 4-bit experts
    text = quant or model
    if VENDOR_MIX.search(text):
        return None
    found = MIX.search(text)
    mix = found[1].upper() if found else None
    return mix if mix in RECIPES else None


def _fault(row: Row) -> str | None:
    _, footprint, reads = model_of(row.shape, row.mix)
    try:
        use = use_of(footprint, row.configuration, row.machine.devices)
    except UnsupportedError:
        return "quantization"
    gpus = [device for device in use.devices if device.kind == "gpu"]
    if any(gpu.total_bytes + MARGIN_BYTES > gpu.free_bytes for gpu in gpus):
        return "placement"
    return "impossible" if row.decode > fastest(row, footprint, reads) else None


def fastest(row: Row, footprint: Footprint, reads: Reads) -> float:
    """Return the tokens a second that the read rates of the row's memories allow."""
    caches = cache_reads(footprint, row.configuration, row.filled)
    place = placement(footprint.layers, row.configuration, row.machine.devices[:-1])
    seconds = 0.0
    for layer, where in enumerate(place):
        rate = row.machine.devices[where].read_bytes_per_s
        assert rate
        size = sum(reads.dense[layer].values()) + sum(reads.experts[layer].values())
        seconds += (size + caches[layer]) / rate
    return 1 / seconds


@functools.cache
def model_of(shape: str, mix: str) -> tuple[ModelSpec, Footprint, Reads]:
    """Return a catalogue model cut to a mix, or as it is published."""
    entry = CATALOGUE[shape]
    spec = spec_of(
        shape, entry.metadata, tuple(entry.tensors.values()), file_bytes=0, header_bytes=0
    )
    types = {tensor.name: tensor.type_name for tensor in spec.tensors}
    if mix != "as published":
        types = assign_types(mix, spec.placed)
    sizes = tensor_sizes(spec.tensors, types)
    return spec, cut_footprint(footprint_of(spec), spec, sizes), reads_of(spec, types, sizes)


@dataclass(frozen=True)
class Compared:
    """One configuration: the median of its reports, our prediction, and one by a fixed part."""

    row: Row
    reports: int
    measured: float
    predicted: Band
    fixed_part: float


def compared() -> list[Compared]:
    """Return every configuration of the table that has the needed fields."""
    return [
        Compared(
            rows[0],
            len(rows),
            median(row.decode for row in rows),
            rows[0].speed.decode_tokens_per_s,
            by_fixed_part(rows[0]),
        )
        for rows in grouped(speed_rows()[0]).values()
    ]


def by_fixed_part(row: Row) -> float:
    """Return what planners with one constant say: 0.55 of the memory's rate over the active bytes,

    taken from the number of parameters (llmfit's constants of bytes a parameter).
    """
    spec, _, _ = model_of(row.shape, row.mix)
    active = sum(
        tensor.parameters * (spec.experts_used / spec.experts if "_exps." in tensor.name else 1)
        for tensor in spec.tensors
    )
    rate = row.machine.devices[0].read_bytes_per_s or 0
    return 0.55 * rate / (active * BYTES_A_PARAMETER.get(row.mix, 0.58))


def predicted(row: Row, paces: Sequence[Pace]) -> Speed:
    _, footprint, reads = model_of(row.shape, row.mix)
    devices: Sequence[Device] = row.machine.devices
    return speed_of(footprint, reads, row.configuration, devices, paces, row.filled)
