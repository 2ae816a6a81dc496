"""How good a model is now."""
