"""Trellis: codes of b bits, each of which stands for a height that depends on codes before it, and scales of groups."""

from typing import Any

from torch import Tensor

from gossamer.expressions._base import Expression
from gossamer.expressions._packing import packed
from gossamer.expressions.quantized import Quantized
from gossamer.kernels.trellis import HEIGHTS, trellis_states


class Trellis(Quantized):
    """W_ij = s_ik h(c_ij, c_i−1,j+1, c_i−2,j+2, …), k = ⌊j / g⌋: codes c below 2ᵇ (m × n) and scales s (m × ⌈n / g⌉).

    Ten bits of codes make a state, columns counted modulo n and codes above the first row as zeros; the heights h of
    all states are normal quantiles in a fixed order (see `kernels/trellis.py`) and take no room.
    """

    def __init__(self, codes: Tensor, scales: Tensor, *, shape: tuple[int, int], bits: int, group: int) -> None:
        """`codes` packed (uint8). Raises `ValueError` where the parts do not fit together."""
        super().__init__(codes, scales, None, shape=shape, bits=bits, group=group)

    @classmethod
    def along(cls, codes: Tensor, scales: Tensor, *, bits: int, group: int) -> "Trellis":
        """From codes (m × n) that are not packed yet; computes in the scales' format."""
        m, n = codes.shape
        made = cls(packed(codes.byte(), bits), scales, shape=(m, n), bits=bits, group=group)
        made.like = scales.new_empty(0)
        return made

    def rows(self, ids: Tensor) -> Tensor:
        return Expression.rows(self, ids)  # a row's heights depend on the codes of rows above it

    def row_macs(self) -> int:
        return 0

    def _points(self, rows: Tensor | None = None) -> float:
        return 0.0

    def _heights(self, codes: Tensor) -> Tensor:
        states = trellis_states(codes, self.bits)
        heights = HEIGHTS.to(codes.device, self.like.dtype)
        return heights.index_select(0, states.view(-1)).view(codes.shape)

    def _product(self, x: Tensor) -> Tensor:
        from gossamer.kernels.strings import trellis_product

        return trellis_product(x, self.codes, self.bits, self.scales, self.group)

    def _decoded(self) -> Tensor:
        from gossamer.kernels.strings import trellis_dense

        return trellis_dense(self.shape[1], self.codes, self.bits, self.scales, self.group)

    def tree(self) -> dict[str, Any]:
        return {"kind": self.kind, "shape": list(self.shape), "bits": self.bits, "group": self.group}

    @classmethod
    def empty(cls, tree: dict[str, Any]) -> "Trellis":
        plain = Quantized.empty({**tree, "zeros": False})
        return cls(plain.codes, plain.scales, shape=plain.shape, bits=plain.bits, group=plain.group)
