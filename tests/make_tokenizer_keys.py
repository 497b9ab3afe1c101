"""Records data/tokenizer_keys.json: python tests/make_tokenizer_keys.py CHECKOUT [NAME ...]

CHECKOUT is one of llama.cpp, whose own converter writes the keys of each folder in
`tokenizer_folders.py`; needs sentencepiece and mistral_common. It knows a pre-tokenizer by a hash
of the ids of a text, which no small vocabulary can have, so it is told the name of each.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tokenizer_folders import FAMILIES, write_files

RECORDED = Path(__file__).parent / "data" / "tokenizer_keys.json"
# What the hash of the family's published tokenizer stands for.
PRE_TOKENIZERS = {
    "llama3": "llama-bpe",
    "llama4": "llama4",
    "mistral-nemo": "tekken",
    "qwen2": "qwen2",
    "qwen3-moe": "qwen2",
    "qwen3-next": "qwen2",
    "qwen35": "qwen35",
    "gemma3-json": "gemma4",
    "phi4": "dbrx",
    "gpt-oss": "gpt-4o",
    "glm4": "glm4",
    "glm4-moe": "glm4",
    "glm47-flash": "glm4",
    "deepseek-v2": "deepseek-llm",
    "deepseek-coder": "deepseek-coder",
    "deepseek-v3": "deepseek-v3",
    "deepseek-v4": "deepseek-v3",
    "granite3": "refact",
    "granite4": "dbrx",
    "olmo2": "dbrx",
    "smollm3": "smaug-bpe",
    "command-r": "command-r",
    "falcon-h1": "falcon-h1",
    "mamba2": "olmo",
    "gpt2": "gpt-2",
}


def keys_of(name: str, folder: Path) -> dict[str, Any]:
    """Return the tokenizer.* keys that the converter writes for a folder."""
    import gguf
    from conversion import get_model_class

    config = json.loads((folder / "config.json").read_text())
    family = get_model_class(config["architectures"][0])
    model = object.__new__(family)
    model.dir_model, model.hparams = folder, dict(config)
    model.is_mistral_format, model.origin_hf_arch = False, config["architectures"][0]
    model.disable_mistral_community_chat_template = False
    model._ssm_layers = []
    model.gguf_writer = gguf.GGUFWriter(path=None, arch="llama")
    model.get_vocab_base_pre = lambda _tokenizer: PRE_TOKENIZERS[name]
    model.set_vocab()
    written = model.gguf_writer.kv_data[0]
    return {
        key: plain(value.value) for key, value in written.items() if key.startswith("tokenizer.")
    }


def plain(value: Any) -> Any:
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.decode() if isinstance(value, bytes) else value


def main() -> int:
    checkout, *names = sys.argv[1:]
    sys.path[:0] = [checkout, str(Path(checkout) / "gguf-py")]
    recorded = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    for name in names or FAMILIES:
        with tempfile.TemporaryDirectory() as scratch:
            folder = write_files(Path(scratch) / name, FAMILIES[name])
            recorded[name] = keys_of(name, folder)
            print(name, len(recorded[name]), flush=True)
    order = {name: recorded[name] for name in FAMILIES if name in recorded}
    lines = [
        json.dumps(name)
        + ": {\n"
        + ",\n".join(
            f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}"
            for key, value in sorted(keys.items())
        )
        + "\n}"
        for name, keys in order.items()
    ]
    RECORDED.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
