"""How text is split before byte pairs merge: one row a behaviour, under llama.cpp's names.

`splits` is what llama.cpp does for `tokenizer.ggml.pre` (its llama-vocab.cpp); `written` is how a
tokenizer.json says the same, where the words differ. Steps are in the notation of
`conversion/tokenizers/pre_tokenizers.py`: an expression that isolates its matches, or a named step.
"""

from __future__ import annotations

from dataclasses import dataclass

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN2_SPLIT = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + SPACES
LLAMA3_SPLIT = QWEN2_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
QWEN35_SPLIT = (
    CONTRACTIONS
    + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|"
    + SPACES
)
UPPER, LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
START = r"[^\r\n\p{L}\p{N}]?"
GPT4O_SPLIT = (
    rf"{START}[{UPPER}]*[{LOWER}]+{CONTRACTIONS}?|{START}[{UPPER}]+[{LOWER}]*{CONTRACTIONS}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + SPACES
)
TEKKEN_SPLIT = (
    rf"{START}[{UPPER}]*[{LOWER}]+|{START}[{UPPER}]+[{LOWER}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + SPACES
)
# llama.cpp's own words for the two: to it every letter outside ASCII has both cases, and a mark is
# no letter.
LIKE_UPPER, LIKE_LOWER = r"(?:(?=\p{L})[^a-z])", r"(?:(?=\p{L})[^A-Z])"
GPT4O_ENGINE, TEKKEN_ENGINE = (
    split.replace(f"[{UPPER}]", LIKE_UPPER).replace(f"[{LOWER}]", LIKE_LOWER)
    for split in (GPT4O_SPLIT, TEKKEN_SPLIT)
)
JAIS2_SPACES = "".join(rf"|\s{{{size}}}(?!\S)" for size in (512, 256, 128, 64, 32, 16, 8, 4))
BAILING_SPLIT = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
CHINESE_JAPANESE = "[一-龥぀-ゟ゠-ヿ]+"
DEEPSEEK3_SPLIT = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|" + SPACES
)
DEEPSEEK_CHINESE = "[一-龥ࠀ-一가-퟿]+"
# Letters of the alphabets that have two cases.
DEEPSEEK_LETTERS = (
    r"\s?["
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-"
    "ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-"
    "ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
    "]+"
)
DEEPSEEK_MARKS = r"\s?[!-/:-~！-／：-～‘-‟　-。]+"
DEEPSEEK_LLM = (r"[\r\n]", DEEPSEEK_LETTERS, DEEPSEEK_MARKS, r"\s+$", DEEPSEEK_CHINESE)
DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", DEEPSEEK_CHINESE, r"\p{N}")
THREE_DIGITS = "[0-9][0-9][0-9]"


@dataclass(frozen=True)
class PreTokenizer:
    """How text is split before merges: each expression splits the pieces that the last one left."""

    splits: tuple[str, ...]
    ignore_merges: bool = False  # a piece that is a token is never split
    adds_bos: bool = False  # unless the metadata says otherwise
    written: tuple[tuple[str, ...], ...] = ()  # other ways to say it in a tokenizer.json


# Where several rows split alike, the first is the one for a model of no family in CLASS_NAMES.
BEHAVIOURS: dict[str, PreTokenizer] = {
    "llama-bpe": PreTokenizer((LLAMA3_SPLIT,), ignore_merges=True, adds_bos=True),
    "glm4": PreTokenizer((LLAMA3_SPLIT,), ignore_merges=True),
    "dbrx": PreTokenizer((LLAMA3_SPLIT,)),
    "jais-2": PreTokenizer(
        (LLAMA3_SPLIT.replace(r"|\s+(?!\S)|\s+", JAIS2_SPACES + r"|\s{1,2}(?!\S)|\s{1}"),)
    ),
    "qwen2": PreTokenizer((QWEN2_SPLIT,)),
    "qwen35": PreTokenizer((QWEN35_SPLIT,)),
    "seed-coder": PreTokenizer(
        (
            QWEN2_SPLIT.replace(r"\p{N}|", r"\p{N}{1}|", 1).replace(
                r"[^\s\p{L}\p{N}]+[\r\n]*", r"[^\s\p{L}\p{N}\r\n]+"
            ),
        )
    ),
    "bailingmoe": PreTokenizer((QWEN2_SPLIT,), written=((BAILING_SPLIT,),)),
    "minicpm5": PreTokenizer(
        (r"\p{N}{1,3}", LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}+")), ignore_merges=True
    ),
    "gpt-4o": PreTokenizer((GPT4O_ENGINE,), written=((GPT4O_SPLIT,),)),
    "tekken": PreTokenizer(
        (TEKKEN_ENGINE,), ignore_merges=True, adds_bos=True, written=((TEKKEN_SPLIT,),)
    ),
    "deepseek-llm": PreTokenizer((*DEEPSEEK_LLM, r"\p{N}+"), written=((*DEEPSEEK_LLM, r"\p{N}"),)),
    "deepseek-coder": PreTokenizer(DEEPSEEK_CODER),
    "deepseek-v3": PreTokenizer((r"\p{N}{1,3}", CHINESE_JAPANESE, DEEPSEEK3_SPLIT)),
    "falcon": PreTokenizer(
        (r"[\p{P}\$\+<=>\^~\|`]+", GPT2_SPLIT, THREE_DIGITS),
        written=(("Punctuation Contiguous", GPT2_SPLIT, r"\p{N}+", THREE_DIGITS),),
    ),
    "starcoder": PreTokenizer((r"\p{N}", GPT2_SPLIT)),
    "gpt-2": PreTokenizer((GPT2_SPLIT,)),
    "superbpe": PreTokenizer((r"\p{N}+", r"(?=(\d{3})+(?!\d))")),
    "default": PreTokenizer(
        (r"[\p{P}\$\+<=>\^~\|]+", GPT2_SPLIT, r"\p{N}+", THREE_DIGITS),
        written=(),
    ),
}
# Other names of the same behaviour: families have their own.
SAME_AS: dict[str, str] = {
    **dict.fromkeys(
        ("llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"), "llama-bpe"
    ),
    "jina-v5-nano": "llama-bpe",
    **dict.fromkeys(("smaug-bpe", "chatglm-bpe"), "dbrx"),
    "glm5": "glm4",
    **dict.fromkeys(("deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2"), "qwen2"),
    **dict.fromkeys(("hunyuan", "grok-2", "solar-open"), "qwen2"),
    **dict.fromkeys(("bailingmoe2", "llada-moe"), "bailingmoe"),
    **dict.fromkeys(("llama4", "kanana2", "talkie", "minimax-m2"), "gpt-4o"),
    **dict.fromkeys(("hunyuan-dense", "joyai-llm", "hy_v4"), "deepseek-v3"),
    **dict.fromkeys(("refact", "command-r", "smollm", "codeshell", "exaone"), "starcoder"),
    **dict.fromkeys(("minerva-7b", "mellum2"), "starcoder"),
    **dict.fromkeys(("phi-2", "olmo", "mpt", "jais", "trillion", "granite-docling"), "gpt-2"),
    **dict.fromkeys(("exaone4", "gigachat", "mellum", "a.x-4.0", "modern-bert"), "gpt-2"),
}
PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    **BEHAVIOURS,
    **{name: BEHAVIOURS[behaviour] for name, behaviour in SAME_AS.items()},
}
# A Hugging Face model class -> the names that llama.cpp gives its family's tokenizers, of which the
# one counts that behaves as the tokenizer.json says.
GLM = ("glm4", "chatglm-bpe")
CLASS_NAMES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("ChatGLMModel", "GlmForCausalLM", "Glm4ForCausalLM"), GLM),
    **dict.fromkeys(("Glm4MoeForCausalLM", "Glm4MoeLiteForCausalLM", "GlmMoeDsaForCausalLM"), GLM),
    **dict.fromkeys(("Glm4vForConditionalGeneration", "Glm4vMoeForConditionalGeneration"), GLM),
    "FalconH1ForCausalLM": ("falcon-h1",),
    **dict.fromkeys(("Lfm2ForCausalLM", "Lfm2MoeForCausalLM"), ("lfm2",)),
    **dict.fromkeys(
        ("LlamaForCausalLM", "MistralForCausalLM", "SmolLM3ForCausalLM"), ("smaug-bpe", "smollm")
    ),
    **dict.fromkeys(("Mistral3ForConditionalGeneration", "Ministral3ForCausalLM"), ("pixtral",)),
    **dict.fromkeys(("Llama4ForCausalLM", "Llama4ForConditionalGeneration"), ("llama4",)),
    "MiniMaxM2ForCausalLM": ("minimax-m2",),
    **dict.fromkeys(("GraniteForCausalLM", "GraniteMoeForCausalLM"), ("refact",)),
    **dict.fromkeys(("GraniteMoeHybridForCausalLM", "GraniteMoeSharedForCausalLM"), ("refact",)),
    **dict.fromkeys(("CohereForCausalLM", "Cohere2ForCausalLM"), ("command-r",)),
    **dict.fromkeys(("OlmoForCausalLM", "OlmoeForCausalLM", "GPTNeoXForCausalLM"), ("olmo",)),
    **dict.fromkeys(("MambaForCausalLM", "Mamba2ForCausalLM"), ("olmo",)),
    "MptForCausalLM": ("mpt",),
    "PhiForCausalLM": ("phi-2",),
    "HunYuanDenseV1ForCausalLM": ("hunyuan-dense",),
    "HunYuanMoEV1ForCausalLM": ("hunyuan",),
}
