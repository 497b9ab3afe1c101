"""One row a Hugging Face model class: its GGUF architecture, metadata and rearranged tensors."""

from __future__ import annotations

from snugfit.archs.conversion import deepseek, deepseek4, glm, gpt_oss, llama, mixtures, qwen
from snugfit.archs.conversion.config import Config
from snugfit.archs.conversion.rules import ConversionRow
from snugfit.errors import FormatError, UnsupportedError

CONVERSIONS: dict[str, ConversionRow] = {
    "LlamaForCausalLM": llama.LLAMA,
    "MistralForCausalLM": llama.LLAMA,
    "Qwen2ForCausalLM": qwen.QWEN2,
    "Qwen3ForCausalLM": qwen.QWEN3,
    "Qwen3MoeForCausalLM": qwen.QWEN3_MOE,
    "GptOssForCausalLM": gpt_oss.GPT_OSS,
    "Glm4ForCausalLM": glm.GLM4,
    "Glm4MoeForCausalLM": glm.GLM4_MOE,
    "Glm4MoeLiteForCausalLM": glm.GLM4_MOE_LITE,
    "DeepseekV2ForCausalLM": deepseek.DEEPSEEK_V2,
    "DeepseekV3ForCausalLM": deepseek.DEEPSEEK_V3,
    "DeepseekV4ForCausalLM": deepseek4.DEEPSEEK_V4,
    "Dots1ForCausalLM": mixtures.DOTS1,
    "Ernie4_5_MoeForCausalLM": mixtures.ERNIE_MOE,
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
