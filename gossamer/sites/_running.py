"""A model's forward pass, and where its predictions are."""

from typing import Any

from torch import Tensor, nn

from gossamer.errors import ModelError


def block_of(model: nn.Module, name: str) -> str:
    """The block that holds the module `name`: the innermost member of a list of modules; "" where there is none."""
    parts = name.split(".")
    paths = [".".join(parts[:i]) for i in range(1, len(parts))]
    inside = [path for path in paths if isinstance(model.get_submodule(path.rpartition(".")[0]), nn.ModuleList)]
    return inside[-1] if inside else ""


def run(model: nn.Module, ids: Tensor) -> Any:
    """The model's outputs for token ids (batch × length), without a cache of keys and values."""
    kept = {"use_cache": False} if hasattr(getattr(model, "config", None), "use_cache") else {}
    return model(input_ids=ids.to(next(model.parameters()).device), **kept)


def output_of(outputs: Any) -> Tensor:
    """The tensor that a model's predictions are read from: its logits, or else its last hidden state."""
    for name in ("logits", "last_hidden_state"):
        found = getattr(outputs, name, None)
        if isinstance(found, Tensor):
            return found
    raise ModelError(f"The model returns {type(outputs).__name__}, with neither logits nor a last hidden state.")
