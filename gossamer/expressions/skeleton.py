"""Skeleton: r rows that hold an identity on r of their columns, so only the other n − r columns are stored."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer.expressions._base import Expression
from gossamer.expressions._places import distinct


class Skeleton(Expression):
    """[I, C] Pᵀ of shape (r × n): coefficients C (r × (n − r)) and a column order P.

    As the right factor of a low-rank weight it loses nothing: any rank-r matrix with r independent columns is those
    columns times a skeleton, with r² fewer numbers and multiply-adds than two dense factors have.
    Source: Zhao et al. 2025, "Pivoting Factorization" (arXiv 2501.19090), there with the pivots among the rows.
    """

    order: Tensor

    def __init__(self, coefficients: Tensor, order: Tensor) -> None:
        super().__init__()
        r, rest = coefficients.shape
        if order.shape != (r + rest,):
            raise ValueError(f"an order of {tuple(order.shape)} columns does not fit {r} pivots and {rest} others")
        self.coefficients = nn.Parameter(coefficients)
        self.register_buffer("order", order.to(torch.int32))
        self.shape = (r, r + rest)

    def forward(self, x: Tensor) -> Tensor:
        sorted_x = x.index_select(-1, self.order)
        r = self.shape[0]
        return sorted_x[..., :r] + F.linear(sorted_x[..., r:], self.coefficients)

    def dense(self) -> Tensor:
        r, n = self.shape
        identity = torch.eye(r, dtype=self.coefficients.dtype, device=self.coefficients.device)
        columns = torch.cat([identity, self.coefficients], dim=1)
        return columns.new_zeros(r, n).index_copy(1, self.order.long(), columns)

    def check(self) -> None:
        distinct(self.order, self.shape[1])

    def tree(self) -> dict[str, Any]:
        return {"kind": self.kind, "shape": list(self.shape)}

    @classmethod
    def empty(cls, tree: dict[str, Any]) -> "Skeleton":
        r, n = tree["shape"]
        return cls(torch.empty(r, n - r), torch.arange(n))

    def macs(self) -> int:
        return self.shape[0] * (self.shape[1] - self.shape[0])
