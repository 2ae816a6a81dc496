"""Placed rows: a few rows of a weight, among others that are zero."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer.expressions._base import Expression
from gossamer.expressions._places import distinct


class PlacedRows(Expression):
    """W (m × n) whose rows `places` are stored (k × n), the rest being zero: outputs keep their places, unlike in a
    weight that is narrower. For outputs that somebody else's code cuts up into parts of a fixed size, as heads are."""

    places: Tensor

    def __init__(self, weight: Tensor, places: Tensor, rows: int) -> None:
        super().__init__()
        k, n = weight.shape
        if places.shape != (k,) or k > rows:
            raise ValueError(f"{tuple(places.shape)} places among {rows} do not fit {k} rows")
        self.weight = nn.Parameter(weight)
        self.register_buffer("places", places.to(torch.int32))
        self.shape = (rows, n)

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight)
        return y.new_zeros(*y.shape[:-1], self.shape[0]).index_copy(-1, self.places.long(), y)

    def check(self) -> None:
        distinct(self.places, self.shape[0])

    def tree(self) -> dict[str, Any]:
        return {"kind": self.kind, "shape": list(self.shape), "kept": self.weight.shape[0]}

    @classmethod
    def empty(cls, tree: dict[str, Any]) -> "PlacedRows":
        (m, n), k = tree["shape"], tree["kept"]
        return cls(torch.empty(k, n), torch.arange(k), m)

    def macs(self) -> int:
        return self.weight.numel()
