"""The demo models: what they promise, and that torch and llama.cpp agree on what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from snugfit.core import Configuration
from snugfit.demo import DEMOS
from snugfit.evaluate import evaluate
from snugfit.mixes import types_of_mix
from snugfit.models import open_model
from snugfit.quantize import quantize
from snugfit.quants.assignment import fitting_type
from snugfit.quants.codecs import WRITABLE
from snugfit.quants.positions import is_kept_in_full
from snugfit.quants.types import TYPES
from snugfit.runtimes.llama_cpp import LlamaCppRuntime

PROMPTS = (
    "import os\nimport sys\n\n\ndef main(",
    "    def test_repr(self):\n        self.assertEqual(",
    "The standard library has a module that",
)
LARGEST_FOLDER_BYTES = 16 * 2**20


@pytest.fixture(scope="module")
def bf16_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bf16")
    files = {}
    for name in DEMOS:
        model = open_model(name)
        files[name] = folder / f"{name}.gguf"
        quantize(model, files[name], types_of_mix(model, "BF16"), mix="BF16")
    return files


def greedy_in_torch(folder: Path, prompt: str, count: int) -> list[int]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(folder)(prompt, return_tensors="pt")
    with torch.no_grad():
        out: Any = model.generate(
            **ids, max_new_tokens=count, do_sample=False, pad_token_id=0, eos_token_id=None
        )
    return list(out[0, ids["input_ids"].shape[1] :].tolist())


@pytest.mark.parametrize("name", DEMOS)
def test_greedy_tokens_are_the_same_in_torch_and_llama_cpp(
    bf16_files: dict[str, Path], name: str
) -> None:
    configuration = Configuration(ctx=512)
    with LlamaCppRuntime(threads=1).start(bf16_files[name], configuration) as runtime:
        for prompt in PROMPTS:
            answer = runtime.generate(prompt, 32, temperature=0)
            assert list(answer.tokens) == greedy_in_torch(DEMOS[name], prompt, 32), prompt


@pytest.mark.parametrize("name", DEMOS)
def test_folders_are_as_described(name: str) -> None:
    spec = open_model(name).spec()
    assert 5e6 <= spec.parameters <= 12e6
    assert spec.vocabulary == 4096
    assert all(t.columns % 256 == 0 for t in spec.tensors if len(t.shape) > 1)
    files = [path for path in DEMOS[name].iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= LARGEST_FOLDER_BYTES
    assert {"README.md", "tokenizer.json", "config.json"} <= {path.name for path in files}


def test_held_out_perplexity_of_the_dense_model() -> None:
    assert evaluate(open_model("demo"), sequences=64).perplexity <= 15


def test_experts_of_the_other() -> None:
    spec = open_model("demo-moe").spec()
    assert (spec.experts, spec.experts_used) == (8, 2)


@pytest.mark.parametrize("type_name", sorted(WRITABLE))
def test_a_file_of_every_type_runs_in_llama_cpp(tmp_path: Path, type_name: str) -> None:
    model = open_model("demo-moe")
    types = {
        name: "F32" if is_kept_in_full(name, shape) else fitting_type(type_name, shape[-1])
        for name, shape in model.shapes.items()
    }
    written = quantize(model, tmp_path / "m.gguf", types)
    with LlamaCppRuntime(threads=1).start(written.path, Configuration(ctx=256)) as runtime:
        answer = runtime.generate(PROMPTS[0], 8, temperature=0)
        weights_bytes = runtime.allocated()["weights"]
    assert answer.generated_tokens == 8
    expected = sum(TYPES[kind].tensor_bytes(model.shapes[name]) for name, kind in types.items())
    # llama.cpp maps whole pages, and prints MiB with two decimals.
    assert weights_bytes == pytest.approx(expected, abs=0.02 * 2**20)
