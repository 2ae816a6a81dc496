"""Sparse: some entries of a weight, their places in a bitmask, and zeros elsewhere."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer.expressions._base import Expression
from gossamer.kernels.few import decodable, few


class Sparse(Expression):
    """Values (k) row by row, and where they stand among m × n places as a bitmask (m × ⌈n / 8⌉ bytes).

    A mask is no larger than explicit indices of a byte each wherever an eighth or more of the places is taken; where
    fewer are it is larger, and is counted so. For 2:4 it takes what two bits of index for each value would, for 4:8
    less than three. It is the only form there is. Bit b of byte i of a row stands for column 8 i + b. No call
    keeps the dense matrix, and for a few vectors none is made.
    """

    mask: Tensor

    def __init__(self, values: Tensor, mask: Tensor, columns: int) -> None:
        super().__init__()
        m = len(mask)
        if values.dim() != 1 or not 1 <= len(values) <= m * columns or mask.shape != (m, mask_bytes(columns)):
            raise ValueError(
                f"a mask of {tuple(mask.shape)} bytes does not place {tuple(values.shape)} values in {columns} columns"
            )
        self.values = nn.Parameter(values)
        self.register_buffer("mask", mask.to(torch.uint8))
        self.shape = (m, columns)

    @classmethod
    def of(cls, weight: Tensor, support: Tensor) -> "Sparse":
        """The entries of `weight` (m × n) where `support` (m × n booleans) says so."""
        return cls(weight[support], packed(support), weight.shape[1])

    @classmethod
    def largest(cls, codes: Tensor, kept: int) -> "Sparse":
        """The `kept` entries of each row of `codes` (m × k) that are largest in magnitude."""
        places = codes.abs().topk(kept, dim=1).indices
        return cls.of(codes, torch.zeros_like(codes, dtype=torch.bool).scatter_(1, places, True))

    def dense(self) -> Tensor:
        if decodable(self.values):
            from gossamer.kernels.masked import masked_dense

            return masked_dense(self.shape[1], self.values, self.mask).to(self.values.dtype)
        support = unpacked(self.mask, self.shape[1])
        return self.values.new_zeros(self.shape).masked_scatter(support, self.values)

    def forward(self, x: Tensor) -> Tensor:
        if few(x) and x.dtype == self.values.dtype:
            from gossamer.kernels.masked import masked_product

            return masked_product(x, self.values, self.mask)
        return F.linear(x, self.dense())

    def check(self) -> None:
        m, n = self.shape
        if not torch.equal(packed(unpacked(self.mask, n)), self.mask):
            raise ValueError(f"its mask reaches beyond {n} columns")
        if (placed := int(unpacked(self.mask, n).sum())) != len(self.values):
            raise ValueError(f"its mask places {placed} of {len(self.values)} entries in {m} × {n}")

    def tree(self) -> dict[str, Any]:
        return {"kind": self.kind, "shape": list(self.shape), "kept": len(self.values)}

    @classmethod
    def empty(cls, tree: dict[str, Any]) -> "Sparse":
        (m, n), k = tree["shape"], tree["kept"]
        return cls(torch.empty(k), packed((torch.arange(m * n) < k).view(m, n)), n)

    def macs(self) -> int:
        return self.values.numel()

    def packed(self) -> int:
        return -(-self.mask.numel() // 2)


def mask_bytes(columns: int) -> int:
    """Bytes of one row's mask."""
    return -(-columns // 8)


def packed(support: Tensor) -> Tensor:
    """Booleans (m × k) as bits (m × ⌈k / 8⌉, uint8)."""
    m, k = support.shape
    bits = F.pad(support.to(torch.uint8), (0, 8 * mask_bytes(k) - k)).view(m, mask_bytes(k), 8)
    return (bits << _places(support.device)).sum(-1, dtype=torch.uint8)


def unpacked(mask: Tensor, columns: int) -> Tensor:
    """The inverse of `packed`, for so many columns."""
    bits = (mask[:, :, None] >> _places(mask.device)) & 1
    return bits.flatten(1)[:, :columns].bool()


def _places(device: torch.device) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=device)
