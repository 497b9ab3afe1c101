"""What llama.cpp's own argument parser makes of a command line: the oracle for ours.

The embedded engine exports common_params_parse, which fills the structure that xllamacpp's
CommonParams holds. It is asked in a process of its own, one for all questions.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

from snugfit.core import Configuration
from snugfit.quants.types import TYPES

EXAMPLES = {"llama-server": 12, "llama-cli": 5}  # of enum llama_example in b11549

CHILD = r"""
import ctypes, json, os, struct, sys
import xllamacpp
import xllamacpp.xllamacpp as extension

OBJECT_HEAD = 16  # of a Python object; the structure follows it
NAMES = ("n_ctx n_batch n_ubatch n_parallel n_gpu_layers moe_cache_size kv_unified swa_full "
         "fit_params flash_attn_type cache_type_k cache_type_v tensor_split "
         "tensor_buft_overrides cache_ram_mib n_ctx_checkpoints").split()
PARSE = "_Z19common_params_parseiPPcR13common_params13llama_examplePFviS0_E"
parse = getattr(ctypes.CDLL(extension.__file__), PARSE)
parse.restype = ctypes.c_bool

def asked(example, words, environment):
    made = xllamacpp.CommonParams()
    made.n_predict, made.n_ctx = 11111, 22222
    start = ctypes.string_at(id(made) + OBJECT_HEAD, 8)
    assert struct.unpack("2i", start) == (11111, 22222), "the structure is elsewhere"
    made.n_predict, made.n_ctx = -1, 0
    os.environ.update(environment)
    arguments = (ctypes.c_char_p * (len(words) + 2))(*(w.encode() for w in ["llama", *words]), None)
    ok = parse(len(words) + 1, arguments, ctypes.c_void_p(id(made) + OBJECT_HEAD), example, None)
    for name in environment:
        del os.environ[name]
    if not ok:
        return None
    found = {name: getattr(made, name) for name in NAMES}
    found |= {"path": made.model.path, "repo": made.model.hf_repo, "file": made.model.hf_file}
    return {n: v if isinstance(v, (int, bool, list)) else str(v) for n, v in found.items()}

answers = [asked(*question) for question in json.load(sys.stdin)]
print("\nANSWERS " + json.dumps(answers))
"""


@dataclass(frozen=True)
class Question:
    """A command line: the program, its words, and the environment it reads."""

    program: str
    words: list[str]
    environment: dict[str, str] = field(default_factory=dict)


def parsed(questions: list[Question]) -> list[dict[str, Any] | None]:
    """Return the fields that llama.cpp sets for each question, None where it refuses."""
    asked = [[EXAMPLES[one.program], one.words, one.environment] for one in questions]
    ran = subprocess.run(
        [sys.executable, "-c", CHILD], input=json.dumps(asked), capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    (line,) = (line for line in ran.stdout.splitlines() if line.startswith("ANSWERS "))
    answers: list[dict[str, Any] | None] = json.loads(line.removeprefix("ANSWERS "))
    return answers


def configuration_of(answer: dict[str, Any]) -> Configuration:
    """Return what llama.cpp would run, as a configuration."""
    names = {row.id: row.name for row in TYPES.values()}
    keys, values = names[int(answer["cache_type_k"])], names[int(answer["cache_type_v"])]
    split = [int(part) for part in answer["tensor_split"]]
    while split and not split[-1]:
        split.pop()
    return Configuration(
        ctx=answer["n_ctx"],
        kv_type=keys,
        slots=answer["n_parallel"],
        ubatch=answer["n_ubatch"],
        flash_attention=int(answer["flash_attn_type"]) == 1,
        gpu_layers=answer["n_gpu_layers"],
        cpu_expert_layers=len(
            re.findall(r"blk\\\.\d+\\\.[^=,]*exps", answer["tensor_buft_overrides"])
        ),
        kv_unified=answer["kv_unified"],
        value_type="" if values == keys else values,
        swa_full=answer["swa_full"],
        gpu_split=tuple(split),
        expert_cache_bytes=answer["moe_cache_size"],
    )
