"""What a model's weights see: text as sequences of tokens, and importance measured on them."""
