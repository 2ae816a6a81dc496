"""A model's forward pass, the copy that makes it, and where its predictions are."""

import copy
from typing import Any

import torch
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


def last_step(model: nn.Module) -> nn.Linear | None:
    """The linear head whose outputs are the model's, found by running it; None where there is none, or more is done."""
    head = _head(model)
    if type(head) is not nn.Linear:  # what derives from it may do more than multiply
        return None
    return None if run_to_head(model, torch.zeros(1, 8, dtype=torch.int64))[1] is None else head


@torch.inference_mode(False)  # tensors of that mode do not tell whether they were changed in place
@torch.no_grad()
def run_to_head(model: nn.Module, ids: Tensor) -> tuple[Any, Tensor | None]:
    """The model's outputs as `run` gives them, and what its head read.

    None in place of that where the logits are not just what the head said: where there is no head, it ran more than
    once, or its answer was changed, in place or not, as by a soft cap.
    """
    head = _head(model)
    said: list[tuple[Tensor, Tensor, int]] = []
    handle = head and head.register_forward_hook(lambda _m, args, out: said.append((args[0], out, out._version)))
    try:
        outputs = run(model, ids)
    finally:
        if handle:
            handle.remove()
    if len(said) != 1:
        return outputs, None
    read, logits, version = said[0]
    return outputs, read if output_of(outputs) is logits and logits._version == version else None


def _head(model: nn.Module) -> nn.Module | None:
    find = getattr(model, "get_output_embeddings", None)
    found: nn.Module | None = find() if find else None
    return found


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
