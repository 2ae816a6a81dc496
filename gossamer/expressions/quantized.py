"""Quantized: whole numbers of b bits, a scale for each group of a row's entries, and where asked for a zero point."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer.expressions._packing import packed, packed_bytes, picked, sound, unpacked
from gossamer.expressions._pinned import PINNED, Pinned
from gossamer.kernels.few import decodable, few


class Quantized(Pinned):
    """W_ij = s_ik (c_ij − z_ik), k = ⌊j / g⌋: codes c below 2ᵇ (m × n) and scales s (m × ⌈n / g⌉) of any sign.

    The zero points z are of b bits each, or 2ᵇ⁻¹ throughout. Codes and zero points are packed to the bit, scales are
    bfloat16. No call keeps the dense weight, and for a few vectors none is made.
    """

    codes: Tensor
    zeros: Tensor | None

    def __init__(
        self, codes: Tensor, scales: Tensor, zeros: Tensor | None, *, shape: tuple[int, int], bits: int, group: int
    ) -> None:
        """`codes` and `zeros` packed (uint8). Raises `ValueError` where the parts do not fit together."""
        super().__init__()
        m, n = shape
        sound(m, n, bits, group)
        groups = -(-n // group)
        lengths = (packed_bytes(m * n, bits), packed_bytes(m * groups, bits))
        if scales.shape != (m, groups) or len(codes) != lengths[0] or (zeros is not None and len(zeros) != lengths[1]):
            raise ValueError(f"{len(codes)} bytes of codes and {tuple(scales.shape)} scales do not fit {m} × {n}")
        self.shape = (m, n)
        self.bits, self.group = bits, group
        self.scales = nn.Parameter(scales.to(PINNED))
        self.register_buffer("codes", codes.to(torch.uint8))
        self.register_buffer("zeros", None if zeros is None else zeros.to(torch.uint8))

    @classmethod
    def of(cls, codes: Tensor, scales: Tensor, zeros: Tensor | None, *, bits: int, group: int) -> "Quantized":
        """From codes (m × n) and zero points (m × ⌈n / g⌉) that are not packed yet; computes in the scales' format."""
        m, n = codes.shape
        short = [None if t is None else packed(t.to(torch.uint8), bits) for t in (codes, zeros)]
        assert short[0] is not None
        made = cls(short[0], scales, short[1], shape=(m, n), bits=bits, group=group)
        made.like = scales.new_empty(0)
        return made

    def dense(self) -> Tensor:
        m, n = self.shape
        if decodable(self.like) and m % 8 == 0:
            return self._decoded().to(self.like.dtype)
        codes = unpacked(self.codes, m * n, self.bits).view(m, n)
        return self._stands_for(codes, self.scales, self._points())

    def rows(self, ids: Tensor) -> Tensor:
        n, rows = self.shape[1], ids.reshape(-1)
        codes = self._picked(self.codes, rows, n)
        return self._stands_for(codes, self.scales[rows], self._points(rows)).view(*ids.shape, n)

    def _picked(self, string: Tensor, rows: Tensor, columns: int) -> Tensor:
        """Some rows of numbers that are packed row after row."""
        return picked(string, rows[:, None] * columns + torch.arange(columns, device=rows.device), self.bits)

    def row_macs(self) -> int:
        return 0

    def _points(self, rows: Tensor | None = None) -> Tensor | float:
        """Where codes are counted from, in some rows or in all."""
        if self.zeros is None:
            return 2.0 ** (self.bits - 1)
        if rows is not None:
            return self._picked(self.zeros, rows, self.scales.shape[1])
        return unpacked(self.zeros, self.scales.numel(), self.bits).view(self.scales.shape)

    def _heights(self, codes: Tensor) -> Tensor:
        return codes.to(self.like.dtype)

    def _stands_for(self, codes: Tensor, scales: Tensor, points: Tensor | float) -> Tensor:
        """What some rows of codes stand for, with their scales and zero points."""
        points = self._spread(points) if isinstance(points, Tensor) else points
        heights, scales = self._heights(codes), self._spread(scales)
        if self.shape[1] % self.group:
            return (heights - points) * scales
        grouped: Tensor = (heights.view(len(codes), -1, self.group) - points) * scales
        return grouped.view(codes.shape)

    def _spread(self, numbers: Tensor) -> Tensor:
        """One number for each group, shaped to meet the codes."""
        numbers = numbers.to(self.like.dtype)
        if self.shape[1] % self.group:
            return numbers.repeat_interleave(self.group, 1)[:, : self.shape[1]]
        return numbers[:, :, None]

    def forward(self, x: Tensor) -> Tensor:
        if few(x) and self.shape[0] % 8 == 0:
            return self._product(x)
        return F.linear(x, self.dense().to(x.dtype))

    def _table(self) -> Tensor | None:
        """What codes stand for, where that is not their number."""
        return None

    def _product(self, x: Tensor) -> Tensor:
        from gossamer.kernels.packed import packed_product

        return packed_product(x, self.codes, self.bits, self.scales, self.group, self._points(), self._table())

    def _decoded(self) -> Tensor:
        from gossamer.kernels.packed import packed_dense

        parts = self.codes, self.bits, self.scales, self.group, self._points(), self._table()
        return packed_dense(self.shape[1], *parts)

    def tree(self) -> dict[str, Any]:
        zeros = self.zeros is not None
        return {"kind": self.kind, "shape": list(self.shape), "bits": self.bits, "group": self.group, "zeros": zeros}

    @classmethod
    def empty(cls, tree: dict[str, Any]) -> "Quantized":
        (m, n), bits, group = tree["shape"], tree["bits"], tree["group"]
        sound(m, n, bits, group)
        groups = -(-n // group)
        codes, zeros = (torch.zeros(packed_bytes(m * k, bits), dtype=torch.uint8) for k in (n, groups))
        scales = torch.zeros(m, groups)
        return cls(codes, scales, zeros if tree["zeros"] else None, shape=(m, n), bits=bits, group=group)

    def macs(self) -> int:
        return self.shape[0] * self.shape[1]

    def packed(self) -> int:
        return self.shape[0] * self.shape[1] + (0 if self.zeros is None else self.scales.numel())
