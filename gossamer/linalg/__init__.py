"""Tensors in, tensors out: this room has never heard of a model."""
