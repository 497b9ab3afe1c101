"""Llama, Mistral and their like."""

from __future__ import annotations

from snugfit.archs.conversion.arrange import interleaved_keys, interleaved_queries
from snugfit.archs.conversion.metadata import attention_metadata, rope_divisors
from snugfit.archs.conversion.rules import ConversionRow, Part, Rule

# llama.cpp rotates neighbouring pairs of a llama head; Hugging Face rotates its two halves.
INTERLEAVED = (
    Rule(r".+\.q_proj\.(weight|bias)", (Part(arrange=interleaved_queries),)),
    Rule(r".+\.k_proj\.(weight|bias)", (Part(arrange=interleaved_keys),)),
)

LLAMA = ConversionRow("llama", attention_metadata, INTERLEAVED, rope_divisors)
