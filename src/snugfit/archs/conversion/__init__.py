"""A Hugging Face model seen as GGUF: names, shapes, metadata and tokenizer, one row a model class."""
