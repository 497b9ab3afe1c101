"""Quantization types, named mixes and codecs."""
