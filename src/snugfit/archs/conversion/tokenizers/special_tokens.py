"""Which tokens begin, end and fill a text, whether they are added unasked, and chat templates.

The rules are those of llama.cpp's converter (gguf's SpecialVocab), so that a file says what others
expect of it: a role's token is looked up by its text among tokenizer.json's added tokens, then by
its id in config.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from string import ascii_letters, digits
from typing import Any

from snugfit.archs.conversion.tokenizers.files import TokenizerFiles, checked_text

KEYS = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "unk": "unknown_token_id",
    "sep": "seperator_token_id",  # GGUF's own spelling
    "pad": "padding_token_id",
    "mask": "mask_token_id",
    "eot": "eot_token_id",
    "eom": "eom_token_id",
}
ROLES = ("bos", "eos", "unk", "sep", "pad", "mask")
ADDED_UNASKED = ("bos", "eos", "sep")
GLM_ROLES = {"bos": "[gMASK]", "eot": "<|user|>", "unk": "<|endoftext|>", "eom": "<|observation|>"}
GLM4_ROLES = {"eos": "<|endoftext|>", "eot": "<|user|>", "unk": "<|endoftext|>"}
GLM4_BOS_ROLES = GLM4_ROLES | {"bos": "<|endoftext|>"}
# Roles that a family's files leave open: class -> role -> its token's text or its id.
CLASS_ROLES: dict[str, Mapping[str, str | int]] = {
    **dict.fromkeys(("Glm4MoeForCausalLM", "Glm4vMoeForConditionalGeneration"), GLM_ROLES),
    **dict.fromkeys(("Glm4MoeLiteForCausalLM", "GlmMoeDsaForCausalLM"), GLM_ROLES),
    **dict.fromkeys(("GlmForCausalLM", "ChatGLMModel"), GLM4_ROLES),
    **dict.fromkeys(("Glm4ForCausalLM", "Glm4vForConditionalGeneration"), GLM4_BOS_ROLES),
    "GemmaForCausalLM": {"eot": 107},
}
CODE_LLAMA_VOCABULARY, CODE_LLAMA_EOT = 32016, 32010
LARGEST_TEMPLATE = 4 * 2**20  # characters; the longest published are about 20 thousand


def special_keys(files: TokenizerFiles, tokens: list[str]) -> dict[str, Any]:
    """Return the ids of special tokens and whether they are added. Raises FormatError."""
    texts, adds = _roles(files)
    ids: dict[str, int] = {}
    known = _added_ids(files)
    for role, text in texts.items():
        _remember(ids, role, known.get(text) if text else None, len(tokens))
    for role in (*ROLES, *(role for role in ("eot", "eom") if role in texts)):
        _remember(ids, role, _configured(files, role), len(tokens))
    for role, named in _family_roles(files, len(tokens)).items():
        _remember(ids, role, known.get(named) if isinstance(named, str) else named, len(tokens))
    if "eos" not in ids:  # without one llama.cpp takes another token for it, and never ends
        _remember(ids, "eos", _last_resort(files, tokens), len(tokens))
    keys: dict[str, Any] = {f"tokenizer.ggml.{KEYS[role]}": number for role, number in ids.items()}
    return keys | {f"tokenizer.ggml.add_{role}_token": value for role, value in adds.items()}


def template_keys(files: TokenizerFiles) -> dict[str, Any]:
    """Return the chat templates: the one used unasked, and those with names. Raises FormatError."""
    named = dict(files.named_templates)
    stored = files.config.get("chat_template")
    default = stored if isinstance(stored, str) else None
    for entry in stored if isinstance(stored, list) else []:
        name, template = (
            (entry.get("name"), entry.get("template")) if isinstance(entry, Mapping) else ("", "")
        )
        if isinstance(name, str) and isinstance(template, str):
            named[name] = template
    # As in transformers, a template in a file of its own is newer than one in the configuration.
    default = files.chat_template or named.pop("default", None) or default
    # Names become parts of keys.
    named = {
        "".join(letter if letter in ascii_letters + digits else "_" for letter in name): template
        for name, template in named.items()
        if name and name != "default"
    }
    for template in (*named.values(), default or ""):
        if len(template) > LARGEST_TEMPLATE:
            raise files.damaged("chat_template", f"{len(template)} characters cannot be right")
        for start in range(0, len(template), 2**16):
            checked_text(files, "chat_template", template[start : start + 2**16])
    keys: dict[str, Any] = {f"tokenizer.chat_template.{name}": text for name, text in named.items()}
    if named:
        keys["tokenizer.chat_templates"] = list(named)
    return keys | ({"tokenizer.chat_template": default} if default else {})


def _remember(ids: dict[str, int], role: str, number: Any, count: int) -> None:
    sound = isinstance(number, int) and not isinstance(number, bool)
    if role not in ids and sound and 0 <= number < count:
        ids[role] = number


def _added_ids(files: TokenizerFiles) -> dict[str, Any]:
    entries = files.tokenizer.get("added_tokens") or []
    found: dict[str, Any] = {}
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, Mapping) and isinstance(entry.get("content"), str):
            found.setdefault(entry["content"], entry.get("id"))
    return found


def _configured(files: TokenizerFiles, role: str) -> Any:
    number = files.model.get(f"{role}_token_id")
    inner = files.model.get("text_config")
    if number is None and isinstance(inner, Mapping):
        number = inner.get(f"{role}_token_id")
    return number


def _family_roles(files: TokenizerFiles, count: int) -> Mapping[str, str | int]:
    if count == CODE_LLAMA_VOCABULARY and files.model_class == "LlamaForCausalLM":
        return {"eot": CODE_LLAMA_EOT}
    return CLASS_ROLES.get(files.model_class, {})


def _last_resort(files: TokenizerFiles, tokens: list[str]) -> Any:
    text = token_text(files.config.get("eos_token"))
    if text is not None and text in tokens:
        return tokens.index(text)
    number = files.generation.get("eos_token_id", files.model.get("eos_token_id"))
    return number[0] if isinstance(number, list) and number else number


def token_text(value: Any) -> str | None:
    """Return the text of a token as tokenizer_config.json has it: plain, or an object."""
    text = value.get("content") if isinstance(value, Mapping) else value
    return text if isinstance(text, str) else None


def _roles(files: TokenizerFiles) -> tuple[dict[str, str | None], dict[str, bool]]:
    """Return the text of each role's token, and which roles are added to every text."""
    config = files.config
    texts = {role: token_text(config.get(f"{role}_token")) for role in ROLES}
    adds: dict[str, bool] = {}
    if files.tokenizer and config:
        texts["bos"] = texts["bos"] or token_text(config.get("cls_token"))
        texts["eos"] = texts["eos"] or token_text(config.get("sep_token"))
    if files.tokenizer:
        _post_processed(files, texts, adds)
    for role in ADDED_UNASKED:
        wanted = config.get(f"add_{role}_token")
        if isinstance(wanted, bool):
            adds.setdefault(role, wanted)
    return texts, adds


def _post_processed(
    files: TokenizerFiles, texts: dict[str, str | None], adds: dict[str, bool]
) -> None:
    """Read off tokenizer.json's post-processor what it puts before, after and between texts."""
    processor = files.tokenizer.get("post_processor")
    processor = processor if isinstance(processor, Mapping) else {}
    steps = processor.get("processors", [processor])
    for step in steps if isinstance(steps, list) else []:
        kind = step.get("type") if isinstance(step, Mapping) else None
        if kind == "ByteLevel":
            adds.setdefault("bos", False)
            adds.setdefault("eos", False)
        elif kind == "RobertaProcessing":
            adds |= {"bos": True, "eos": True, "sep": True}
        elif kind == "TemplateProcessing":
            _template(step, texts, adds, token_text(files.config.get("cls_token")))


def _template(
    step: Mapping[str, Any], texts: dict[str, str | None], adds: dict[str, bool], cls: str | None
) -> None:
    single, pair = (step.get(part) for part in ("single", "pair"))
    single = single if isinstance(single, list) else []
    first = last = None
    if len(single) > 1:
        first, last = _special(single[0]), _special(single[-1])
    if first:
        texts["bos"] = texts["bos"] or first
        adds["bos"] = first in (texts["bos"], cls)
    if last:
        if last != texts["eos"] and texts["eos"]:
            # What ended a text until now ends a turn.
            free = next((role for role in ("eot", "eom") if role not in texts), None)
            if free:
                texts[free] = texts["eos"]
        texts["eos"] = last
        adds["eos"] = True
    between = _between(pair if isinstance(pair, list) else [], first, last)
    if between:
        ends = {texts["sep"], texts["eos"]} - {None}
        adds["sep"] = (between[0] in ends and not last) or (
            len(between) == 2 and between[1] in ends
        )
        if adds["sep"] and not texts["sep"]:
            texts["sep"] = texts["eos"]


def _between(pair: list[Any], first: str | None, last: str | None) -> list[str | None]:
    """Return the special tokens between the two sequences of a template for pairs."""
    if pair and first and _special(pair[0]) == first:
        pair = pair[1:]
    if pair and last and _special(pair[-1]) == last:
        pair = pair[:-1]
    if len(pair) < 3 or _sequence(pair[0]) != "A" or _sequence(pair[-1]) != "B":
        return []
    return [_special(piece) for piece in pair[1:-1]]


def _special(piece: Any) -> str | None:
    return _inner(piece, "SpecialToken")


def _sequence(piece: Any) -> str | None:
    return _inner(piece, "Sequence")


def _inner(piece: Any, kind: str) -> str | None:
    inner = piece.get(kind) if isinstance(piece, Mapping) else None
    name = inner.get("id") if isinstance(inner, Mapping) else None
    return name if isinstance(name, str) else None
