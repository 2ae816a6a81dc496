"""A model that remembers: what it said about the same tokens before comes from disk, at a fraction of a pass's time."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from gossamer.checkpoints.store import read_tensors, tensor_digest, write_tensors
from gossamer.sites import run_to_head

READ, STATE = "read by the head", "last_hidden_state"


class Recalled:
    """Runs as the model does, and keeps what its outputs come from in `folder`, which must be the model's own.

    A window of logits is as large as window × vocabulary numbers, so what the head read is kept instead: for a
    vocabulary of 49,152 and a width of 576 that is an 85th. A model that does more to its logits than the head alone,
    as capping them, runs again (`sites.run_to_head`).
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
        if not path.exists():
            outputs, read = run_to_head(self.model, input_ids)
            if getattr(outputs, "logits", None) is None:
                write_tensors(path, {STATE: outputs.last_hidden_state}, {})
            elif read is not None:
                write_tensors(path, {READ: read}, {})
            return outputs
        kept = {name: tensor.to(input_ids.device) for name, tensor in read_tensors(path)[0].items()}
        if READ in kept:
            return SimpleNamespace(logits=self.model.get_output_embeddings()(kept[READ]))
        return SimpleNamespace(**kept)
