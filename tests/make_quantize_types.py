"""Records what llama-quantize gives every tensor: data/llama_quantize_headers.json.gz and _made.

    python tests/make_quantize_types.py LLAMA_QUANTIZE "llama.cpp VERSION (COMMIT)" [NAME ...]

A minute for the headers, six for what is made up, or less for a few by name.

Its --dry-run reads no weights, but wants a file of the full size: the headers of data/headers are
put at the front of files without blocks. With importance means a matrix with one entry, which is
all that its mixes ask for. Types are written as one letter a tensor, in the order of the header.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from shapes import COMMON, SHAPES, architecture_of, metadata_of, stored, tensors_of

from snugfit.core import TensorInfo
from snugfit.formats.gguf import GgufFile

DATA = Path(__file__).parent / "data"
RECORD = DATA / "llama_quantize_headers.json.gz"
MADE_RECORD = DATA / "llama_quantize_made.json.gz"
FILES_RECORD = DATA / "llama_quantize_files.json"
LINE = re.compile(
    r"\[ *\d+/ *\d+\] (\S+) +- \[.*\], type = +(\w+), size = +[\d.]+ MiB(?: -> .* \((\w+)\))?"
)
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Options of llama-quantize -> how the record calls a run with them; {imatrix} is a file.
RUNS = {
    "plain": (),
    "importance": ("--imatrix", "{imatrix}"),
    "pure": ("--pure",),
}
# Mixes and options, tried on every header; a tensor's type may depend on the order of patterns.
OVERRIDES = {
    "head and embedding": (
        "Q4_K_M",
        ("--output-tensor-type", "q8_0", "--token-embedding-type", "F16"),
    ),
    "head alone": ("IQ3_XXS", ("--output-tensor-type", "bf16")),
    "pure head": ("Q4_0", ("--pure", "--output-tensor-type", "q8_0")),
    "left head": ("Q5_K_M", ("--leave-output-tensor",)),
    "left head beside its type": (
        "Q5_K_M",
        ("--leave-output-tensor", "--output-tensor-type", "q4_0"),
    ),
    "first pattern wins": (
        "Q4_K_M",
        ("--tensor-type", r"blk\.[0-9]\.ffn_down=Q5_K", "--tensor-type", "FFN_(down|up)=iq4_xs"),
    ),
    "patterns are not counted": (
        "Q4_K_M",
        ("--tensor-type", r"\.(1|3|5)\.attn_(v|qkv)=q3_k", "--tensor-type", "2.ffn_down=q2_k"),
    ),
    "patterns of what is left": ("Q6_K", ("--tensor-type", "norm|gate_inp|weight$=q4_1")),
    "patterns of embeddings": (
        "IQ4_XS",
        ("--token-embedding-type", "q6_k", "--tensor-type", "token_embd=q4_0"),
    ),
    "patterns beside pure": ("Q8_0", ("--pure", "--tensor-type", "attn_[qk]\\.=f16")),
    "patterns of 16 bits": (
        "F16",
        ("--tensor-type", "attn=q8_0", "--token-embedding-type", "Q8_0"),
    ),
    "blocks that do not fill": ("Q8_0", ("--tensor-type", "ffn=q4_k")),
    "eight experts": (
        "Q4_K_M",
        (
            *("--override-kv", "{architecture}.expert_count=int:8"),
            *("--override-kv", "{architecture}.expert_used_count=int:2"),
        ),
    ),
    "without layers": ("Q4_K_M", ("--prune-layers", "5,1,2")),
    "without the first": ("Q3_K_M", ("--prune-layers", "0")),
}


# Model of shapes.py, type and options, of files that llama-quantize really writes.
FILES = {
    "whole": ("llama", "Q4_0", ()),
    "copied": ("qwen35moe:drafting", "COPY", ("--pure",)),
    "without two layers": ("llama", "Q8_0", ("--prune-layers", "3,1")),
    "without the last": ("qwen2", "F16", ("--prune-layers", "3")),
    "without the first, copied": ("gpt-oss", "COPY", ("--prune-layers", "0,0")),
    "other metadata": (
        "llama",
        "Q4_1",
        (
            *("--override-kv", "general.name=str:another name, with = and :"),
            *("--override-kv", "llama.context_length=int:128"),
            *("--override-kv", "llama.attention.layer_norm_rms_epsilon=float:0.25"),
            *("--override-kv", "tokenizer.ggml.add_bos_token=bool:true"),
            *("--override-kv", "general.file_type=int:15"),
        ),
    ),
    "with importance": ("llama", "Q4_0", ("--imatrix", "{imatrix}")),
}
# Architecture of shapes.py -> layers that it is given here, so that an eighth of them is something,
# and further keys. What llama-quantize counts as 70 billion parameters is among them.
MADE: dict[str, tuple[int, dict[str, int]]] = {
    "llama": (80, {}),
    "llama:eight-experts": (16, {"expert_count": 8, "expert_used_count": 2}),
    "llama:as-many-heads": (80, {"attention.head_count_kv": 4}),
    "qwen2": (80, {}),
    "deci": (80, {}),
    "olmo": (80, {}),
    "jais2": (68, {}),
    "falcon": (32, {}),
    "falcon:eight-experts": (16, {"expert_count": 8, "expert_used_count": 2}),
    "bailingmoe3": (16, {}),
    "qwen35moe:drafting": (16, {}),
    "qwen3:odd-heads": (80, {}),
}
# Names that llama-quantize looks for, and some beside them, as layers of one made-up model have.
SPECIAL = [
    "attn_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_inp_shexp.weight",
    "ffn_gate_tid2eid.weight",
    "altup_proj.weight",
    "laurel_l.weight",
    "per_layer_model_proj.weight",
    "ssm_conv1d.weight",
    "ssm_conv1d_q.weight",
    "shortconv.conv.weight",
    "shortconv.in_proj.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    "indexer.proj.weight",
    "indexer.attn_k.weight",
    "indexer.attn_q_b.weight",
    "indexer_compressor_gate.weight",
    "indexer_compressor_ape.weight",
    "attn_compressor_ape.weight",
    "hc_attn_fn.weight",
    "hc_ffn_scale.weight",
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_g0.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    "time_mix_key.weight",
    "attn_rel_b.weight",
    "attn_sinks",
    "ssm_a",
    "attn_q.bias",
    "ssm_f_a.weight",
    "ssm_f_b.weight",
    "ssm_g_a.weight",
    "ssm_g_b.weight",
    "ssm_beta.weight",
    "attn_kv_a_mqa.weight",
    "attn_k_b.weight",
    "attn_v_b.weight",
    "attn_q_a.weight",
    "attn_q_b.weight",
    "nextn.eh_proj.weight",
    "nextn.embed_tokens.weight",
    "nextn.shared_head_head.weight",
    "attn_kv_b.weight",
    "attn_qkv.weight",
    "attn_q.weight",
    "attn_k.weight",
    "attn_v.weight",
    "attn_output.weight",
    "cross_attn_v.weight",
    "attn_v_proj.weight",
    "ffn_down_shexp.weight",
    "ffn_down_exps.weight",
    "ffn_up.weight",
    "ffn_gate_up_exps.weight",
    "ffn_gate_exps.weight",
    "x.position_embd.weight",
    "a.patch_embd.weight",
    "a.patch_merger.weight",
    "b.rel_pos.weight",
    "sam.neck.0.weight",
    "sam.net_2.weight",
    "sam.pos_embd.weight",
    "a.rvq.codebook.weight",
    "mm.a.code_embd.weight",
    "inp_gate.weight",
]
ELSEWHERE = [
    "token_embd.weight",
    "per_layer_token_embd.weight",
    "output.weight",
    "output_norm.weight",
    "position_embd.weight",
    "token_types.weight",
    "token_embd_norm.weight",
    "cls.output.weight",
    "per_layer_model_proj.weight",
    "rope_freqs.weight",
]
GLM5_NEXT = {
    "attention.layer_norm_rms_epsilon": 1e-6,
    "attention.key_length_mla": 64,
    "attention.value_length_mla": 64,
    "attention.q_lora_rank": 64,
    "attention.kv_lora_rank": 64,
    "ssm.conv_kernel": 4,
    "kda.head_dim": 32,
    "expert_feed_forward_length": 64,
    "expert_shared_count": 1,
    "expert_count": 16,
    "expert_used_count": 2,
    "attention.indexer.head_count": 4,
    "attention.indexer.key_length": 32,
    "attention.indexer.top_k": 16,
    "attention.indexer.kpool": 4,
    "hyper_connection.count": 4,
    "hyper_connection.sinkhorn_iterations": 2,
    "hyper_connection.epsilon": 1e-6,
}


def made_models() -> dict[str, tuple[dict[str, Any], tuple[TensorInfo, ...]]]:
    """Return metadata and tensors of models that show what the ten headers do not."""
    found = {name: (metadata_of(name), tensors_of(name)) for name in SHAPES}
    for label, (layers, keys) in MADE.items():
        name = label if label in SHAPES else label.partition(":")[0]
        made = {
            key: np.resize(value, layers) if isinstance(value, np.ndarray) else value
            for key, value in metadata_of(name).items()
        }
        made |= _keys(name, {"block_count": layers} | keys)
        found[f"{label} x{layers}"] = made, _deepened(tensors_of(name), layers)
    keys = {"block_count": 16, "expert_count": 4, "expert_used_count": 2}
    found["llama, special names"] = metadata_of("llama") | _keys("llama", keys), _special()
    metadata = {"general.architecture": "glm5-next", "tokenizer.ggml.model": "no_vocab"}
    metadata |= _keys("glm5-next", COMMON | GLM5_NEXT | {"block_count": 16})
    found["glm5-next, special names"] = metadata, _special()
    return found


def _keys(name: str, keys: dict[str, Any]) -> dict[str, Any]:
    return {f"{architecture_of(name)}.{key}": stored(value) for key, value in keys.items()}


def _deepened(tensors: tuple[TensorInfo, ...], layers: int) -> tuple[TensorInfo, ...]:
    """Return a model whose layers repeat those of `tensors`, twice as wide so that blocks fit."""
    own = max(int(t.name.split(".")[1]) for t in tensors if t.name.startswith("blk.")) + 1
    wider = {t.name: replace(t, shape=(*t.shape[:-1], 2 * t.shape[-1])) for t in tensors}
    found = [tensor for name, tensor in wider.items() if not name.startswith("blk.")]
    for layer in range(layers):
        prefix = f"blk.{layer % own}."
        found += [
            replace(tensor, name=f"blk.{layer}.{name.removeprefix(prefix)}")
            for name, tensor in wider.items()
            if name.startswith(prefix)
        ]
    return tuple(found)


def _special() -> tuple[TensorInfo, ...]:
    """Return 16 layers of special names, stored as nothing that a mix would choose."""
    names = [f"blk.{layer}.{name}" for layer in range(16) for name in SPECIAL] + ELSEWHERE
    shape = {"ffn_down_exps.weight": (4, 2, 256), "attn_k_b.weight": (4, 2, 256)}
    shape |= {"ffn_gate_inp_shexp.weight": (1, 256), "ffn_gate_exps.weight": (4, 1, 256)}
    return tuple(
        TensorInfo(name, shape.get(name.split(".", 2)[-1], (2, 256)), "BF16") for name in names
    )


@contextlib.contextmanager
def full_size(path: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield a file as long as the header says, and the names of its tensors."""
    from snugfit.formats.gguf import padded, read_gguf

    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / path.name.removesuffix(".gz")
        whole.write_bytes(gzip.decompress(path.read_bytes()))
        file = read_gguf(whole)
        size = file.header_bytes + sum(padded(t.size_bytes) for t in file.tensors.values())
        with whole.open("r+b") as opened:
            opened.truncate(size)
        yield whole, list(file.tensors)


def one_entry(path: Path, columns: int = 256) -> Path:
    from snugfit.formats.imatrix import ColumnSums, Importance, write_imatrix

    sums = ColumnSums(np.ones((1, columns), np.float32), np.ones(1, np.float32))
    write_imatrix(path, Importance({"blk.0.attn_v.weight": sums}, ("none",), 1, 512))
    return path


def types_by(tool: str, model: Path, mix: str, options: list[str]) -> dict[str, str] | None:
    """Return the type of every tensor by name, or None where llama-quantize gives up."""
    command = [tool, "--dry-run", "--allow-requantize", *options, str(model), mix]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(*done.stderr.splitlines()[-3:], sep="\n")
        return None
    found = LINE.findall(done.stdout + done.stderr)
    return {name: (after or before).upper() for name, before, after in found}


class Letters:
    """One letter a type, given out as types are met."""

    def __init__(self) -> None:
        self.of: dict[str, str] = {}

    def written(self, types: dict[str, str] | None, names: list[str]) -> str | None:
        if types is None:
            return None
        assert set(types) == set(names), set(types) ^ set(names)
        return "".join(self.of.setdefault(types[n], LETTERS[len(self.of)]) for n in names)


def recorded(
    tool: str, model: Path, names: list[str], overrides: Mapping[str, Any], letters: Letters
) -> dict[str, Any]:
    from snugfit.formats.gguf import read_gguf
    from snugfit.quants.recipes import RECIPES

    imatrix = one_entry(model.with_name("imatrix.gguf"))
    words = {
        "{imatrix}": str(imatrix),
        "{architecture}": read_gguf(model).metadata["general.architecture"],
    }
    found: dict[str, Any] = {}
    for run, options in RUNS.items():
        found[run] = {
            mix: letters.written(types_by(tool, model, mix, filled(options, words)), names)
            for mix in RECIPES
        }
    plain = found["plain"]
    found["importance"] = {m: t for m, t in found["importance"].items() if t != plain[m]}
    for name, (mix, options) in overrides.items():
        types = types_by(tool, model, mix, filled(options, words))
        kept = list(types or {}) if "--prune-layers" in options else names
        letter = letters.written(types, kept)
        found.setdefault("overrides", {})[name] = [kept, letter] if kept is not names else letter
    return found


def filled(options: Sequence[str], words: Mapping[str, str]) -> list[str]:
    done = list(options)
    for word, value in words.items():
        done = [option.replace(word, value) for option in done]
    return done


def written_by(tool: str, case: str, folder: Path) -> dict[str, Any]:
    """Return what a file of llama-quantize holds."""
    from snugfit.formats.gguf import read_gguf
    from snugfit.runtimes.llama_cpp_probe import write_sparse

    name, mix, options = FILES[case]
    source, out = folder / "source.gguf", folder / "out.gguf"
    write_sparse(source, metadata_of(name), tensors_of(name))
    words = {"{imatrix}": one_entry(Path("imatrix.gguf"), 128).name}
    command = [tool, *filled(options, words), str(source), str(out), mix, "1"]
    subprocess.run(command, capture_output=True, check=True)
    return described(read_gguf(out))


def described(file: GgufFile) -> dict[str, Any]:
    """Return a file as JSON has it."""
    return {
        "file_bytes": file.file_bytes,
        "tensors": {t.name: [t.type_name, list(t.shape)] for t in file.tensors.values()},
        "metadata": {
            key: [str(np.asarray(value).dtype.kind), np.asarray(value).tolist()]
            for key, value in file.metadata.items()
        },
    }


def write_record(path: Path, provenance: str, letters: Letters, models: dict[str, Any]) -> None:
    record = {
        "provenance": provenance,
        "types": {letter: name for name, letter in letters.of.items()},
        "models": models,
    }
    text = json.dumps(record, separators=(",", ":"), sort_keys=True)
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(f"{path}: {path.stat().st_size} bytes")


def known(path: Path) -> tuple[Letters, dict[str, Any]]:
    letters, record = Letters(), json.loads(gzip.decompress(path.read_bytes()))
    letters.of = {name: letter for letter, name in record["types"].items()}
    return letters, record["models"]


def main(tool: str, provenance: str, *names: str) -> None:
    from snugfit.runtimes.llama_cpp_probe import write_sparse

    letters, models = known(RECORD) if names else (Letters(), {})
    for header in sorted((DATA / "headers").glob("*.gguf.gz")):
        name = header.name.removesuffix(".gguf.gz")
        if not names or name in names:
            with full_size(header) as (model, tensors):
                models[name] = recorded(tool, model, tensors, OVERRIDES, letters)
            print(name)
    write_record(RECORD, provenance, letters, models)
    letters, models = known(MADE_RECORD) if names else (Letters(), {})
    for name, (metadata, infos) in made_models().items():
        if not names or name in names:
            with tempfile.TemporaryDirectory() as folder:
                model = Path(folder) / "made.gguf"
                write_sparse(model, metadata, infos)
                models[name] = recorded(tool, model, [t.name for t in infos], {}, letters)
            print(name)
    write_record(MADE_RECORD, provenance, letters, models)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        files = {case: written_by(tool, case, Path(folder)) for case in FILES}
    FILES_RECORD.write_text(json.dumps({"provenance": provenance, "files": files}, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
