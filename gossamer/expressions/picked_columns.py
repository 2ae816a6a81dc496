"""Picked columns: a few columns of a weight, among others that are zero."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer.expressions._base import Expression
from gossamer.expressions._places import distinct


class PickedColumns(Expression):
    """W (m × n) whose columns `places` are stored (m × k), the rest being zero: only those inputs are read."""

    places: Tensor

    def __init__(self, weight: Tensor, places: Tensor, columns: int) -> None:
        super().__init__()
        m, k = weight.shape
        if places.shape != (k,) or k > columns:
            raise ValueError(f"{tuple(places.shape)} places among {columns} do not fit {k} columns")
        self.weight = nn.Parameter(weight)
        self.register_buffer("places", places.to(torch.int32))
        self.shape = (m, columns)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.index_select(-1, self.places), self.weight)

    def check(self) -> None:
        distinct(self.places, self.shape[1])

    def tree(self) -> dict[str, Any]:
        return {"kind": self.kind, "shape": list(self.shape), "kept": self.weight.shape[1]}

    @classmethod
    def empty(cls, tree: dict[str, Any]) -> "PickedColumns":
        (m, n), k = tree["shape"], tree["kept"]
        return cls(torch.empty(m, k), torch.arange(k), n)

    def macs(self) -> int:
        return self.weight.numel()
