"""One row a Hugging Face model class: its GGUF architecture, metadata and rearranged tensors."""

from __future__ import annotations

from collections.abc import Callable

from snugfit.archs.conversion.config import Config
from snugfit.archs.conversion.families import (
    cohere,
    deepseek,
    deepseek4,
    delta_net,
    dense,
    gemma,
    gemma3n,
    gemma4,
    glm,
    gpt_oss,
    granite,
    lfm2,
    llama,
    llama4,
    minimax,
    mixtures,
    olmo,
    phi,
    qwen,
    recurrent,
)
from snugfit.archs.conversion.rules import ConversionRow
from snugfit.errors import FormatError, UnsupportedError

# A row, or what chooses one where the class alone does not say it.
CONVERSIONS: dict[str, ConversionRow | Callable[[Config], ConversionRow]] = {
    "LlamaForCausalLM": llama.LLAMA,
    "MistralForCausalLM": llama.MISTRAL,
    "MixtralForCausalLM": llama.MIXTRAL,
    "Mistral3ForConditionalGeneration": llama.MISTRAL3,
    "Ministral3ForCausalLM": llama.MISTRAL3,
    "Llama4ForCausalLM": llama4.LLAMA4,
    "Llama4ForConditionalGeneration": llama4.LLAMA4,
    "SmolLM3ForCausalLM": llama.SMOLLM3,
    "Phi3ForCausalLM": phi.PHI3,
    "GraniteForCausalLM": granite.GRANITE,
    "GraniteMoeForCausalLM": granite.GRANITE_MOE,
    "GraniteMoeSharedForCausalLM": granite.GRANITE_MOE,
    "GraniteMoeHybridForCausalLM": granite.granite_4,
    "Olmo2ForCausalLM": olmo.OLMO2,
    "Olmo3ForCausalLM": olmo.OLMO3,
    "CohereForCausalLM": cohere.COMMAND_R,
    "Cohere2ForCausalLM": cohere.COHERE2,
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
    "SeedOssForCausalLM": dense.SEED_OSS,
    "Ernie4_5ForCausalLM": dense.ERNIE4_5,
    "Ernie4_5_ForCausalLM": dense.ERNIE4_5,
    "Exaone4ForCausalLM": dense.EXAONE4,
    "HunYuanDenseV1ForCausalLM": dense.HUNYUAN,
    "ArceeForCausalLM": dense.ARCEE,
    "Starcoder2ForCausalLM": dense.STARCODER2,
    "NemotronForCausalLM": dense.NEMOTRON,
    "Lfm2ForCausalLM": lfm2.LFM2,
    "MiniMaxM2ForCausalLM": minimax.MINIMAX_M2,
    "Qwen2ForCausalLM": qwen.QWEN2,
    "Qwen2MoeForCausalLM": qwen.QWEN2_MOE,
    "Qwen2VLForConditionalGeneration": qwen.QWEN2_VL,
    "Qwen2_5_VLForConditionalGeneration": qwen.QWEN2_VL,
    "Qwen3ForCausalLM": qwen.QWEN3,
    "Qwen3MoeForCausalLM": qwen.QWEN3_MOE,
    "Qwen3VLForConditionalGeneration": qwen.QWEN3_VL,
    "Qwen3VLMoeForConditionalGeneration": qwen.QWEN3_VL_MOE,
    "Qwen3NextForCausalLM": delta_net.QWEN3_NEXT,
    "Qwen3_5ForCausalLM": delta_net.QWEN3_5,
    "Qwen3_5ForConditionalGeneration": delta_net.QWEN3_5,
    "Qwen3_5MoeForCausalLM": delta_net.QWEN3_5_MOE,
    "Qwen3_5MoeForConditionalGeneration": delta_net.QWEN3_5_MOE,
    "Mamba2ForCausalLM": recurrent.MAMBA2,
    "FalconH1ForCausalLM": recurrent.FALCON_H1,
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
    return row if isinstance(row, ConversionRow) else row(config)
