"""Qwen, dense and with experts."""

from __future__ import annotations

from snugfit.archs.conversion.arrange import first_half_of_rows, second_half_of_rows
from snugfit.archs.conversion.metadata import expert_metadata, full_attention_metadata
from snugfit.archs.conversion.rules import ConversionRow, Part, Rule

EXPERTS = r"(model\.layers\.\d+\.mlp\.experts)"
# transformers 5 stores experts in one tensor, [experts, 2 x rows, columns]: gate, then up.
FUSED_EXPERTS = (
    Rule(
        EXPERTS + r"\.gate_up_proj",
        (
            Part(r"\1.gate_proj.weight", first_half_of_rows),
            Part(r"\1.up_proj.weight", second_half_of_rows),
        ),
    ),
    Rule(EXPERTS + r"\.down_proj", (Part(r"\1.down_proj.weight"),)),
)

QWEN2 = ConversionRow("qwen2", full_attention_metadata)
QWEN3 = ConversionRow("qwen3", full_attention_metadata)
QWEN3_MOE = ConversionRow("qwen3moe", expert_metadata, FUSED_EXPERTS)
