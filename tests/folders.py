"""Hugging Face directories of tiny models, written by transformers and tokenizers themselves."""

from __future__ import annotations

from pathlib import Path

from tiny import VOCABULARY, Tiny
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

# Qwen2's split expression, as its tokenizer.json has it.
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXT = "def main(argument):\n    return [index for index in range(10)]  # it's the 1st of 3\n"


def tiny_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 8,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([TEXT] * 4, trainer)
    return tokenizer


def write_folder(folder: Path, tiny: Tiny, *, shard_bytes: str = "5GB") -> Path:
    """Save a tiny model the way its publisher would, in bfloat16's big brother float32."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny.model.save_pretrained(folder, max_shard_size=shard_bytes)
    PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer(), eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    ).save_pretrained(folder)
    return folder
