"""One row a Hugging Face model class: its GGUF architecture, metadata and rearranged tensors."""

from __future__ import annotations

from collections.abc import Callable

from snugfit.archs.conversion import (
    cohere,
    dense,
    granite,
    lfm2,
    llama,
    llama4,
    minimax,
    olmo,
    phi,
    qwen,
    recurrent,
)
from snugfit.archs.conversion.config import Config
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
    return row if isinstance(row, ConversionRow) else row(config)
