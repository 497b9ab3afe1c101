"""A Hugging Face model seen as GGUF: names, metadata and tokenizer, one row a model class."""
