"""Tokenizers as the keys of a GGUF file, from whichever files describe them."""
