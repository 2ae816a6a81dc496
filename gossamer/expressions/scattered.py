"""Scattered: very few entries of a weight, each with its column, and zeros elsewhere."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer.expressions._pinned import PINNED, Pinned

WIDEST = 2**16 - 1
"""Columns of a row all of whose entries 16 bits can count."""


class Scattered(Pinned):
    """k values in bfloat16, row by row, with their `columns` (k) and how many there are in each row (`counts`, m).

    Columns and counts are 16 bits without a sign: four bytes an entry, less than a bitmask where fewer than one entry
    in sixteen is stored.
    """

    columns: Tensor
    counts: Tensor

    def __init__(self, values: Tensor, columns: Tensor, counts: Tensor, width: int) -> None:
        super().__init__()
        if not 1 <= width <= WIDEST or values.shape != columns.shape or values.dim() != 1:
            raise ValueError(f"{tuple(columns.shape)} columns below {width} do not place {tuple(values.shape)} values")
        self.values = nn.Parameter(values.to(PINNED))
        self.register_buffer("columns", columns.to(torch.uint16))
        self.register_buffer("counts", counts.to(torch.uint16))
        self.shape = (len(counts), width)

    @classmethod
    def of(cls, weight: Tensor, support: Tensor) -> "Scattered":
        """The entries of `weight` (m × n) where `support` (m × n, booleans) says so, in the weight's format."""
        made = cls(weight[support], support.nonzero()[:, 1], support.sum(1), weight.shape[1])
        made.like = weight.new_empty(0)
        return made

    def dense(self) -> Tensor:
        m, n = self.shape
        rows = torch.arange(m, device=self.counts.device).repeat_interleave(self.counts.long())
        places = rows * n + self.columns.long()
        found = self.values.new_zeros(m * n, dtype=self.like.dtype)
        return found.index_add(0, places, self.values.to(self.like.dtype)).view(m, n)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.dense().to(x.dtype))

    def check(self) -> None:
        m, n = self.shape
        if self.counts.long().sum() != len(self.columns) or self.columns.long().max() >= n:
            raise ValueError(f"entries lie outside of {m} × {n}")

    def tree(self) -> dict[str, Any]:
        return {"kind": self.kind, "shape": list(self.shape), "kept": len(self.values)}

    @classmethod
    def empty(cls, tree: dict[str, Any]) -> "Scattered":
        (m, n), k = tree["shape"], tree["kept"]
        if not all(isinstance(number, int) and number >= 1 for number in (m, n, k)) or k > m * n:
            raise ValueError(f"{k} entries do not fit {m} × {n}")
        places = torch.arange(k)
        counts = torch.full((m,), k // m) + (torch.arange(m) < k % m)
        return cls(torch.zeros(k), places % n, counts, n)

    def macs(self) -> int:
        return len(self.values)
