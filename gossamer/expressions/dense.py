"""Dense: a matrix as it is."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer.expressions._base import Expression


class Dense(Expression):
    """The leaf that stores all m × n numbers."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.shape = (weight.shape[0], weight.shape[1])

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)

    def tree(self) -> dict[str, Any]:
        return {"kind": self.kind, "shape": list(self.shape)}

    @classmethod
    def empty(cls, tree: dict[str, Any]) -> "Dense":
        m, n = tree["shape"]
        return cls(torch.empty(m, n))

    def macs(self) -> int:
        return self.shape[0] * self.shape[1]
