"""Train the two demo models from scratch on this machine's own text.

    python -m snugfit.demo.train dense --out build/demo/dense
    python -m snugfit.demo.train moe   --out build/demo/moe

Takes as long as `--minutes` says: the learning rate follows the clock, so that a slower machine
sees fewer tokens but still ends at a low rate. Muon carries the matrices, AdamW the rest.
The split by file is `corpus.py`'s: held-out text was never trained on.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3MoeConfig,
)

from snugfit.demo import corpus

VOCABULARY = 4096
SEQUENCE = 512
SEQUENCES_A_STEP = 10
END_OF_TEXT = "<|endoftext|>"
LARGEST_MANUAL_BYTES = 6_000_000
# Qwen2's split expression, which llama.cpp knows as the pre-tokenizer "qwen2".
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 1024,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "attention_dropout": 0.0,
}
CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---

# Snugfit's demo model, {kind}

A small language model trained from scratch, to try Snugfit on something real. It continues Python
code and its documentation; it knows nothing else and follows no instructions.

| | |
|---|---|
| architecture | {architectures[0]}, {num_hidden_layers} layers, hidden size {hidden_size} |
| parameters | {parameters:,} |
| tokens seen | {tokens_seen:,}, in windows of 512 |
| held-out perplexity | {held_out_perplexity} (64 windows, all positions scored) |

Text: the Python standard library (sources, tests, documentation topics) and English manual pages of
the machine that trained it, split by file. Calibration and held-out files were not trained on; they
ship beside this folder and are the standard library's alone (PSF licence).

Made by `python -m snugfit.demo.train {kind} --out DIR`.
"""
CONFIGS: dict[str, Any] = {
    "dense": lambda: Qwen3Config(**COMMON, num_hidden_layers=6, intermediate_size=768),
    "moe": lambda: Qwen3MoeConfig(
        **COMMON,
        num_hidden_layers=4,
        intermediate_size=512,
        moe_intermediate_size=256,
        num_experts=8,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        decoder_sparse_step=1,
        output_router_logits=True,
        router_aux_loss_coef=0.01,
    ),
}


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Byte-level BPE with Qwen2's pre-tokenizer; id 0 is the end of a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    return tokenizer


def gather_texts(seed: int = 0) -> dict[str, list[str]]:
    """Shuffle the documents of each split; manual pages stop at a cap, code is the larger part."""
    split: dict[str, list[tuple[str, str]]] = {"train": [], "calibration": [], "held_out": []}
    for kind, name, text in corpus.documents():
        split[kind].append((name, text))
    order = np.random.default_rng(seed).permutation(len(split["train"]))
    kept, manual_bytes = [], 0
    for index in order:
        name, text = split["train"][index]
        if name.endswith(".gz"):
            manual_bytes += len(text)
            if manual_bytes > LARGEST_MANUAL_BYTES:
                continue
        kept.append(text)
    return {"train": kept} | {
        kind: [text for _, text in split[kind]] for kind in ("calibration", "held_out")
    }


def tokens_of(tokenizer: Tokenizer, texts: list[str]) -> torch.Tensor:
    encoded = tokenizer.encode_batch(texts)
    ids = np.concatenate([np.array([0, *one.ids], dtype=np.int32) for one in encoded])
    return torch.from_numpy(ids)


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by Newton-Schulz (Jordan 2024), for matrices and stacks of them.

    `torch.optim.Muon` iterates in bfloat16, which processors without native bfloat16 emulate at a
    hundredth of the speed, and refuses stacked experts; this one iterates in float32.
    """

    def __init__(self, parameters: list[torch.nn.Parameter], lr: float) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": 0.95, "weight_decay": 0.05})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                momentum = self.state[parameter].setdefault("m", torch.zeros_like(parameter))
                momentum.lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonalized(parameter.grad.lerp(momentum, group["momentum"]))
                # 0.2 sqrt(larger side) gives the update AdamW's usual size (Liu 2025).
                scale = 0.2 * math.sqrt(max(parameter.shape[-2:]))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * scale)


def orthogonalized(gradient: torch.Tensor) -> torch.Tensor:
    """Move every singular value of [..., rows, columns] close to one by five quintic steps."""
    wide: torch.Tensor = gradient if gradient.shape[-2] <= gradient.shape[-1] else gradient.mT
    wide = wide / (wide.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = wide @ wide.mT
        wide = 3.4445 * wide + (-4.7750 * gram + 2.0315 * gram @ gram) @ wide
    return wide if gradient.shape[-2] <= gradient.shape[-1] else wide.mT


def optimizers_of(model: torch.nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    matrices: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim >= 2 and "embed" not in name and "gate.weight" not in name
        (matrices if is_matrix else rest).append(parameter)
    return [
        Muon(matrices, lr=rate),
        torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.95), weight_decay=0.01),
    ]


def learning_rate_at(progress: float) -> float:
    """Fraction of the peak rate: hold, then fall linearly over the last half."""
    return max(0.02, min(1.0, (1 - progress) / 0.5))


@torch.no_grad()
def perplexity_of(model: torch.nn.Module, ids: torch.Tensor, sequences: int = 64) -> float:
    model.eval()
    total, count = 0.0, 0
    stride = max(1, (len(ids) - SEQUENCE - 1) // sequences)
    for start in range(0, len(ids) - SEQUENCE - 1, stride):
        block = ids[start : start + SEQUENCE + 1].long()[None]
        logits = model(input_ids=block[:, :-1]).logits.float()
        total += torch.nn.functional.cross_entropy(logits[0], block[0, 1:], reduction="sum").item()
        count += SEQUENCE
    model.train()
    return math.exp(total / count)


def train(
    kind: str, out: Path, tokens_to_see: int, minutes: float, rate: float, resume_step: int
) -> None:
    torch.manual_seed(1)
    texts = gather_texts()
    tokenizer = train_tokenizer(texts["train"])
    ids = tokens_of(tokenizer, texts["train"])
    held_out = tokens_of(tokenizer, texts["held_out"])
    model = AutoModelForCausalLM.from_config(CONFIGS[kind]())
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{kind}: {parameters:,} parameters, {len(ids):,} tokens of training text", flush=True)

    starts = torch.arange(0, len(ids) - SEQUENCE - 1, SEQUENCE)
    tokens_a_step = SEQUENCES_A_STEP * SEQUENCE
    epochs = tokens_to_see // len(ids) + 1
    order = torch.cat([starts[torch.randperm(len(starts))] for _ in range(epochs)])
    if resume_step:
        weights = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).state_dict()
        model.load_state_dict(weights)
    optimizers = optimizers_of(model, rate)
    compiled = torch.compile(model)
    began, step, smoothed = time.monotonic(), resume_step, 0.0
    while True:
        seconds = time.monotonic() - began
        progress = max(step * tokens_a_step / tokens_to_see, seconds / 60 / minutes)
        if progress >= 1:
            break
        picked = order[step * SEQUENCES_A_STEP : (step + 1) * SEQUENCES_A_STEP]
        block = torch.stack([ids[start : start + SEQUENCE + 1] for start in picked]).long()
        warmed = min(1.0, (step - resume_step + 1) / 20)  # fresh moments, also after a resume
        rate_now = rate * learning_rate_at(progress) * warmed
        loss = train_on(block, compiled, model, optimizers, rate_now)
        smoothed = loss if not smoothed else 0.95 * smoothed + 0.05 * loss
        step += 1
        if step % 20 == 0:
            print(
                f"step {step:5d}  {progress:4.0%}  perplexity {math.exp(smoothed):7.2f}"
                f"  {(step - resume_step) * tokens_a_step / seconds:6.0f} tokens/s",
                flush=True,
            )
        if step % 200 == 0:
            print(f"held-out perplexity {perplexity_of(model, held_out, 16):.2f}", flush=True)
            save(model, tokenizer, out)
    perplexity = perplexity_of(model, held_out)
    print(f"held-out perplexity {perplexity:.2f}", flush=True)
    save(model, tokenizer, out)
    record = {
        "kind": kind,
        "parameters": parameters,
        "tokens_seen": step * tokens_a_step,
        "held_out_perplexity": round(perplexity, 3),
        "torch": torch.__version__,
    }
    (out / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    write_card(out)


def train_on(
    block: torch.Tensor,
    compiled: Any,
    model: torch.nn.Module,
    optimizers: list[torch.optim.Optimizer],
    rate: float,
) -> float:
    """Take one step on token ids [sequences, SEQUENCE + 1]; return its mean loss in nats."""
    output = compiled(input_ids=block[:, :-1])
    loss = torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), block[:, 1:].flatten())
    balance = getattr(output, "aux_loss", None)
    (loss if balance is None else loss + 0.01 * balance).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss.item()


def save(model: Any, tokenizer: Tokenizer, out: Path) -> None:
    """Write a Hugging Face directory: config, bf16 safetensors, tokenizer."""
    out.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(out)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=COMMON["max_position_embeddings"],
    ).save_pretrained(out)


def write_card(out: Path) -> None:
    """Write the model card of a finished training from its own record."""
    record = json.loads((out / "training.json").read_text())
    config = json.loads((out / "config.json").read_text())
    (out / "README.md").write_text(CARD.format(**config, **record))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=sorted(CONFIGS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=9_000_000)
    parser.add_argument("--rate", type=float, default=4e-3)
    parser.add_argument(
        "--minutes", type=float, default=90, help="end by then, whatever the tokens"
    )
    parser.add_argument("--resume-step", type=int, default=0, help="go on from --out, at this step")
    arguments = parser.parse_args()
    train(
        arguments.kind,
        arguments.out,
        arguments.tokens,
        arguments.minutes,
        arguments.rate,
        arguments.resume_step,
    )


if __name__ == "__main__":
    main()
