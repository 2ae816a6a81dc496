"""A model's forward pass, the copy that makes it, and where its predictions are."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

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


@torch.no_grad()
def last_step(model: nn.Module) -> nn.Linear | None:
    """The linear head whose outputs are the model's, found by running it; None where there is none, or more is done."""
    find = getattr(model, "get_output_embeddings", None)
    head = find() if find else None
    if type(head) is not nn.Linear:  # what derives from it may do more than multiply
        return None
    seen: list[tuple[Tensor, Tensor]] = []
    handle = head.register_forward_hook(lambda _module, args, output: seen.append((args[0], output)))
    try:
        output = output_of(run(model, torch.zeros(1, 8, dtype=torch.int64)))
    finally:
        handle.remove()
    if len(seen) != 1 or seen[0][1] is not output:
        return None
    return head if torch.equal(linear(seen[0][0], head.weight, head.bias), output) else None  # else changed in place


def passes_dtype(model: nn.Module) -> torch.dtype:
    """bfloat16 where the device multiplies it natively, else float32."""
    device = next(model.parameters()).device
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu" and torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.bfloat16
    return torch.float32


def frozen_twin(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy for the passes: parameters in `dtype` and without gradients of their own, tied ones still tied."""
    memo: dict[int, Any] = {
        id(p): nn.Parameter(p.detach().to(dtype) if p.is_floating_point() else p.detach(), requires_grad=False)
        for p in model.parameters()
    }
    return copy.deepcopy(model, memo).eval()
