"""What differs between model architectures: one row each, and the rules that rows name."""
