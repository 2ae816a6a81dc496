"""Affine: an expression and a bias of its own."""

from typing import Any

import torch
from torch import Tensor, nn

from gossamer.expressions._base import Expression, read


class Affine(Expression):
    """x ↦ W x + b for any expression of W (m × n) and b (m), besides the bias that the layer may have had before."""

    def __init__(self, linear: Expression, bias: Tensor) -> None:
        super().__init__()
        if bias.shape != linear.shape[:1]:
            raise ValueError(f"a bias of shape {tuple(bias.shape)} does not fit {linear.shape[0]} outputs")
        self.linear = linear
        self.bias = nn.Parameter(bias)
        self.shape = linear.shape

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        return y + self.bias

    def dense(self) -> Tensor:
        # Not by way of the unit vectors: a bias much larger than W would take its digits.
        return self.linear.dense()

    def tree(self) -> dict[str, Any]:
        return {"kind": self.kind, "linear": self.linear.tree()}

    @classmethod
    def empty(cls, tree: dict[str, Any]) -> "Affine":
        linear = read(tree["linear"])
        return cls(linear, torch.empty(linear.shape[0]))

    def macs(self) -> int:
        return self.linear.macs()
