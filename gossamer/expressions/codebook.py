"""Codebook: every entry one of 2ᵇ levels of its row, b bits to say which."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer.expressions._packing import packed, packed_bytes, sound, unpacked
from gossamer.expressions._pinned import PINNED, Pinned
from gossamer.kernels.few import decodable, few


class Codebook(Pinned):
    """W_ij = L_i,c with c = c_ij: codes c below 2ᵇ (m × n), packed to the bit, and levels L (m × 2ᵇ) in bfloat16.

    No call keeps the dense weight, and for a few vectors none is made.
    """

    codes: Tensor

    def __init__(self, codes: Tensor, levels: Tensor, *, shape: tuple[int, int], bits: int) -> None:
        """`codes` packed (uint8). Raises `ValueError` where the parts do not fit together."""
        super().__init__()
        m, n = shape
        sound(m, n, bits)
        if levels.shape != (m, 2**bits) or codes.shape != (packed_bytes(m * n, bits),):
            raise ValueError(f"{len(codes)} bytes of codes and {tuple(levels.shape)} levels do not fit {m} × {n}")
        self.shape = (m, n)
        self.bits = bits
        self.levels = nn.Parameter(levels.to(PINNED))
        self.register_buffer("codes", codes.to(torch.uint8))

    @classmethod
    def of(cls, codes: Tensor, levels: Tensor, bits: int) -> "Codebook":
        """From codes (m × n) that are not packed yet; computes in the levels' format."""
        m, n = codes.shape
        made = cls(packed(codes.to(torch.uint8), bits), levels, shape=(m, n), bits=bits)
        made.like = levels.new_empty(0)
        return made

    def dense(self) -> Tensor:
        m, n = self.shape
        if decodable(self.like) and m % 8 == 0:
            from gossamer.kernels.packed import packed_dense

            return packed_dense(n, *self._parts()).to(self.like.dtype)
        codes = unpacked(self.codes, m * n, self.bits).view(m, n)
        return self.levels.to(self.like.dtype).gather(1, codes.long())

    def forward(self, x: Tensor) -> Tensor:
        if few(x) and self.shape[0] % 8 == 0:
            from gossamer.kernels.packed import packed_product

            return packed_product(x, *self._parts())
        return F.linear(x, self.dense().to(x.dtype))

    def _parts(self) -> tuple[Tensor, int, Tensor, int, float, Tensor]:
        return self.codes, self.bits, self.levels.new_ones(self.shape[0], 1), self.shape[1], 0.0, self.levels

    def tree(self) -> dict[str, Any]:
        return {"kind": self.kind, "shape": list(self.shape), "bits": self.bits}

    @classmethod
    def empty(cls, tree: dict[str, Any]) -> "Codebook":
        (m, n), bits = tree["shape"], tree["bits"]
        sound(m, n, bits)
        codes = torch.zeros(packed_bytes(m * n, bits), dtype=torch.uint8)
        return cls(codes, torch.zeros(m, 2**bits), shape=(m, n), bits=bits)

    def macs(self) -> int:
        return self.shape[0] * self.shape[1]

    def packed(self) -> int:
        return self.shape[0] * self.shape[1]
