"""A model that remembers: what it said about the same tokens before comes from disk, at a fraction of a pass's time."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from gossamer.checkpoints.store import read_tensors, tensor_digest, write_tensors


class Recalled:
    """Runs as the model does, and keeps its outputs in `folder`, which must be the model's own.

    A window of logits is as large as window × vocabulary numbers, so this is for a few windows that are asked for
    again and again, as the ones that judge every budget are.
    """

    def __init__(self, model: Any, folder: Path) -> None:
        self.model = model
        self.folder = folder

    def parameters(self) -> Iterator[nn.Parameter]:
        """The model's own, to tell device and dtype by."""
        found: Iterator[nn.Parameter] = self.model.parameters()
        return found

    def __call__(self, input_ids: Tensor) -> Any:
        """The outputs a judge reads: `logits`, or `last_hidden_state` of a model without."""
        path = self.folder / f"{tensor_digest([('ids', input_ids)])}.safetensors"
        if path.exists():
            kept = read_tensors(path)[0]
            return SimpleNamespace(**{name: tensor.to(input_ids.device) for name, tensor in kept.items()})
        outputs = self.model(input_ids=input_ids)
        name = "last_hidden_state" if getattr(outputs, "logits", None) is None else "logits"
        write_tensors(path, {name: outputs[name]}, {})
        return outputs
