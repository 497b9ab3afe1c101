"""One row a Hugging Face model class: its GGUF architecture, metadata and rearranged tensors."""

from __future__ import annotations

from snugfit.archs.conversion import gemma, gemma3n, gemma4, llama, qwen, recurrent
from snugfit.archs.conversion.config import Config
from snugfit.archs.conversion.rules import ConversionRow
from snugfit.errors import FormatError, UnsupportedError

CONVERSIONS: dict[str, ConversionRow] = {
    "LlamaForCausalLM": llama.LLAMA,
    "MistralForCausalLM": llama.LLAMA,
    "GemmaForCausalLM": gemma.GEMMA,
    "Gemma2ForCausalLM": gemma.GEMMA2,
    "Gemma3ForCausalLM": gemma.GEMMA3,
    "Gemma3ForConditionalGeneration": gemma.GEMMA3,
    "Gemma3nForCausalLM": gemma3n.GEMMA3N,
    "Gemma3nForConditionalGeneration": gemma3n.GEMMA3N,
    "Gemma4ForCausalLM": gemma4.GEMMA4,
    "Gemma4ForConditionalGeneration": gemma4.GEMMA4,
    "Gemma4UnifiedForCausalLM": gemma4.GEMMA4,
    "Gemma4UnifiedForConditionalGeneration": gemma4.GEMMA4,
    "Qwen2ForCausalLM": qwen.QWEN2,
    "Qwen3ForCausalLM": qwen.QWEN3,
    "Qwen3MoeForCausalLM": qwen.QWEN3_MOE,
    "Mamba2ForCausalLM": recurrent.MAMBA2,
    "FalconH1ForCausalLM": recurrent.FALCON_H1,
}


def row_of(config: Config) -> ConversionRow:
    """Return the row of the config's model class. Raises FormatError, UnsupportedError."""
    classes = config.outer.get("architectures")
    if not isinstance(classes, list) or not classes or not isinstance(classes[0], str):
        raise FormatError(
            f"{config.folder}/config.json: no 'architectures'; it is not a language model's config."
        )
    row = CONVERSIONS.get(classes[0])
    if row is None:
        raise UnsupportedError(
            f"{config.folder}: the architecture {classes[0]} is unknown. "
            f"Known: {', '.join(CONVERSIONS)}."
        )
    return row
