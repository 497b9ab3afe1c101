"""Names of tensors: as a model of text alone has them, and in GGUF."""

from __future__ import annotations

from collections.abc import Callable, Iterable

# Where models of several kinds of input keep the language model.
PREFIXES = ("model.language_model.", "language_model.model.", "model.text_model.")


def plain_name(name: str, prefixes: Iterable[str] = ()) -> str:
    """Return a name as a model of text alone has it."""
    for prefix in (*prefixes, *PREFIXES):
        if name.startswith(prefix):
            return "model." + name.removeprefix(prefix)
    return name.removeprefix("language_model.")


def is_gguf_name(name: str) -> bool:
    return not name.startswith(("model.", "lm_head", "backbone."))


def name_map(architecture: str, layers: int) -> Callable[[str], str | None]:
    """Return gguf's map from Hugging Face names to GGUF names, suffix included."""
    import gguf

    arch = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}.get(architecture)
    if arch is None:  # newer than the package: its row names every tensor
        return lambda _: None
    table = gguf.get_tensor_name_map(arch, layers)

    def gguf_name(name: str) -> str | None:
        found: str | None = table.get_name(name, try_suffixes=(".weight", ".bias"))
        return found

    return gguf_name
