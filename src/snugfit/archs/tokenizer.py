"""The tokenizer that a GGUF file describes, built with the `tokenizers` library.

Text becomes the ids that llama.cpp makes of it: byte-level BPE ("gpt2" in GGUF) and SentencePiece's
BPE with scores ("llama"). As in llama.cpp there is no Unicode normalization.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from snugfit.archs.conversion.tokenizers.files import BYTE, CONTROL, UNKNOWN, USER_DEFINED
from snugfit.archs.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer
from snugfit.errors import FormatError, SnugfitError, UnsupportedError

if TYPE_CHECKING:
    import tokenizers

SPACE = "▁"  # what SentencePiece writes for a space


@dataclass(frozen=True)
class Tokenizer:
    """Text to token ids and back.

    `bos_id` is the token that starts every text, or None if the model wants none.
    """

    vocabulary: int
    bos_id: int | None
    _backend: tokenizers.Tokenizer = field(repr=False)

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Return token ids, without BOS. Names of control tokens are text unless `special`."""
        self._backend.encode_special_tokens = not special
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, control tokens by their names."""
        return str(self._backend.decode(list(ids), skip_special_tokens=False))


def tokenizer_of(metadata: Mapping[str, Any]) -> Tokenizer:
    """Build the tokenizer of a model from its `tokenizer.ggml.*` keys.

    Raises UnsupportedError for a kind or split that has no row, FormatError for keys that do not
    fit together, SnugfitError without the tokenizers library.
    """
    try:
        import tokenizers
    except ImportError:
        raise SnugfitError(
            "tokenizers: not installed; calibration and evaluation need it. "
            "Install it with: pip install 'snugfit[torch]'"
        ) from None
    kind = metadata.get("tokenizer.ggml.model")
    if kind not in BUILDERS:
        raise UnsupportedError(
            f"tokenizer.ggml.model {kind}: cannot be built here; {', '.join(BUILDERS)} can."
        )
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list | tuple) or not tokens:
        raise FormatError("tokenizer.ggml.tokens: missing. Convert the model again.")
    try:
        backend = BUILDERS[kind](metadata, tokens)
    except (SnugfitError, ImportError):
        raise
    except Exception as error:  # tokenizers raises plain Exception for merges of unknown tokens
        raise FormatError(f"tokenizer.ggml.*: {error}. Convert the model again.") from None
    types = _types(metadata, len(tokens))
    for wanted, is_special in ((CONTROL, True), (UNKNOWN, True), (USER_DEFINED, False)):
        added = [
            tokenizers.AddedToken(tokens[int(number)], special=is_special, normalized=False)
            for number in np.flatnonzero(types == wanted)
        ]
        (backend.add_special_tokens if is_special else backend.add_tokens)(added)
    return Tokenizer(len(tokens), _bos_id(metadata, kind, len(tokens)), backend)


def _byte_level(metadata: Mapping[str, Any], tokens: Sequence[str]) -> tokenizers.Tokenizer:
    if metadata.get("tokenizer.ggml.pre") == "gemma4":
        return _raw_pairs(metadata, tokens)
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    row = _pre_tokenizer(metadata)
    merges = [_pair(merge) for merge in metadata.get("tokenizer.ggml.merges", ())]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=row.ignore_merges))
    splits = [pre_tokenizers.Split(Regex(split), "isolated") for split in row.splits]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*splits, to_bytes])
    backend.decoder = decoders.ByteLevel()
    return backend


def _raw_pairs(metadata: Mapping[str, Any], tokens: Sequence[str]) -> tokenizers.Tokenizer:
    """Gemma's BPE: pairs of letters within a line, with a token for each byte of other letters."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    merges = [_pair(merge) for merge in metadata.get("tokenizer.ggml.merges", ())]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", SPACE)
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n+"), "isolated")
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return backend


def _scored(metadata: Mapping[str, Any], tokens: Sequence[str]) -> tokenizers.Tokenizer:
    """SentencePiece merges the neighbours whose union scores best: BPE, with these merges."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    scores = metadata.get("tokenizer.ggml.scores", ())
    if len(scores) != len(tokens):
        raise FormatError(
            f"tokenizer.ggml.scores: {len(scores)} for {len(tokens)} tokens. "
            "Convert the model again."
        )
    vocabulary = {token: number for number, token in enumerate(tokens)}
    types = _types(metadata, len(tokens))
    mergeable = {
        token: number
        for token, number in vocabulary.items()
        if types[number] not in (UNKNOWN, CONTROL, BYTE)
    }
    merges = [
        (-float(scores[number]), (token[:cut], token[cut:]))
        for token, number in mergeable.items()
        for cut in range(1, len(token))
        if token[:cut] in mergeable and token[cut:] in mergeable
    ]
    merges.sort(key=lambda merge: merge[0])
    unknown = next((tokens[int(number)] for number in np.flatnonzero(types == UNKNOWN)), None)
    backend = Tokenizer(
        models.BPE(
            vocabulary,
            [pair for _, pair in merges],
            unk_token=unknown,
            byte_fallback=True,
        )
    )
    steps: list[Any] = [normalizers.Replace(" ", SPACE)]
    end: list[Any] = []
    if bool(metadata.get("tokenizer.ggml.add_space_prefix", True)):
        steps.insert(0, normalizers.Prepend(SPACE))
        end = [decoders.Strip(" ", 1, 0)]
    backend.normalizer = normalizers.Sequence(steps)
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *end]
    )
    return backend


# tokenizer.ggml.model -> what builds it.
BUILDERS = {"gpt2": _byte_level, "llama": _scored, "gemma4": _raw_pairs}


def _pre_tokenizer(metadata: Mapping[str, Any]) -> PreTokenizer:
    name = metadata.get("tokenizer.ggml.pre", "default")
    if name not in PRE_TOKENIZERS:
        raise UnsupportedError(
            f"tokenizer.ggml.pre {name}: its split is not known here; "
            f"{', '.join(PRE_TOKENIZERS)} are."
        )
    return PRE_TOKENIZERS[name]


def _pair(merge: str) -> tuple[str, str]:
    """Split a merge at its space; a first token that starts with one keeps it, as in llama.cpp."""
    space = merge.find(" ", 1)
    if space < 0:
        raise FormatError(f"tokenizer.ggml.merges: {merge!r} is no pair. Convert the model again.")
    return merge[:space], merge[space + 1 :]


def _types(metadata: Mapping[str, Any], count: int) -> np.ndarray[Any, Any]:
    types = np.asarray(metadata.get("tokenizer.ggml.token_type", np.ones(count, np.int32)))
    if types.shape != (count,):
        raise FormatError(
            f"tokenizer.ggml.token_type: {types.size} for {count} tokens. Convert the model again."
        )
    return types


def _bos_id(metadata: Mapping[str, Any], kind: str, count: int) -> int | None:
    of_letters = "gemma4" in (kind, metadata.get("tokenizer.ggml.pre"))
    adds_bos = kind == "llama" or (not of_letters and _pre_tokenizer(metadata).adds_bos)
    if not bool(metadata.get("tokenizer.ggml.add_bos_token", adds_bos)):
        return None
    bos = metadata.get("tokenizer.ggml.bos_token_id")
    if bos is None or not 0 <= int(bos) < count:
        raise FormatError(
            f"tokenizer.ggml.bos_token_id: is {bos}, but texts start with it. "
            "Convert the model again."
        )
    return int(bos)
