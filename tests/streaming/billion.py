"""A model of a billion random weights, for benchmarks: as safetensors and as GGUF."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from snugfit.formats.imatrix import ColumnSums, Importance, write_imatrix
from snugfit.mixes import types_of_mix
from snugfit.models import Model, open_model
from snugfit.quantize import quantize

HIDDEN, WIDE, VOCABULARY, HEADS, KEY_HEADS, HEAD = 2048, 8192, 32768, 32, 8, 64
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": HIDDEN,
    "intermediate_size": WIDE,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KEY_HEADS,
    "head_dim": HEAD,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}


def make_model(folder: Path, layers: int) -> None:
    """Write `model/`, `model.gguf` and `imatrix.gguf`, unless they are there."""
    marker = folder / f"made-{layers}"
    if marker.exists():
        return
    from folders import tiny_tokenizer
    from transformers import PreTrainedTokenizerFast

    source = folder / "model"
    source.mkdir(parents=True, exist_ok=True)
    (source / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": layers}))
    PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer(), eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    ).save_pretrained(source)
    write_safetensors(source / "model.safetensors", shapes(layers))
    model = open_model(str(source))
    quantize(model, folder / "model.gguf", types_of_mix(model, "BF16"), mix="BF16")
    write_imatrix(folder / "imatrix.gguf", made_importance(model))
    marker.touch()


def shapes(layers: int) -> dict[str, tuple[int, ...]]:
    query, key = HEADS * HEAD, KEY_HEADS * HEAD
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for layer in range(layers):
        for name, shape in {
            "input_layernorm": (HIDDEN,),
            "self_attn.q_proj": (query, HIDDEN),
            "self_attn.k_proj": (key, HIDDEN),
            "self_attn.v_proj": (key, HIDDEN),
            "self_attn.o_proj": (HIDDEN, query),
            "self_attn.q_norm": (HEAD,),
            "self_attn.k_norm": (HEAD,),
            "post_attention_layernorm": (HIDDEN,),
            "mlp.gate_proj": (WIDE, HIDDEN),
            "mlp.up_proj": (WIDE, HIDDEN),
            "mlp.down_proj": (HIDDEN, WIDE),
        }.items():
            found[f"model.layers.{layer}.{name}.weight"] = shape
    return found | {"model.norm.weight": (HIDDEN,)}


def write_safetensors(path: Path, tensors: dict[str, tuple[int, ...]]) -> None:
    """Write bfloat16 weights: normal, columns of unlike scales, now and then a large one."""
    header: dict[str, Any] = {}
    position = 0
    for name, shape in tensors.items():
        end = position + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    random = np.random.default_rng(1)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in tensors.values():
            rows = np.atleast_2d(np.ones(shape, np.float32))
            if len(shape) > 1:
                scales = 0.02 * random.lognormal(0, 0.5, shape[-1]).astype(np.float32)
                random.standard_normal(out=rows, dtype=np.float32)
                rows *= scales
                rows.reshape(-1)[random.integers(0, rows.size, rows.size // 10_000)] *= 8
            bits = rows.view(np.uint32)
            file.write(((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16).tobytes())


def made_importance(model: Model) -> Importance:
    random = np.random.default_rng(2)
    weights = {
        name: ColumnSums(
            random.lognormal(0, 1, (1, tensor.columns)).astype(np.float32),
            np.ones(1, np.float32),
        )
        for name, tensor in model.tensors.items()
        if len(tensor.shape) > 1
    }
    return Importance(weights, ("made up",), 1, 512)
