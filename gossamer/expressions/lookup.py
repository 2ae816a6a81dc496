"""Lookup: codes of b bits for heights in one table, and a scale for each group of a row's entries."""

from typing import Any

from torch import Tensor, nn

from gossamer.expressions._packing import packed
from gossamer.expressions._pinned import PINNED
from gossamer.expressions.quantized import Quantized


class Lookup(Quantized):
    """W_ij = s_ik h_c, k = ⌊j / g⌋: codes c = c_ij below 2ᵇ (m × n), scales s (m × ⌈n / g⌉) and heights h (2ᵇ), both
    bfloat16."""

    def __init__(
        self, codes: Tensor, scales: Tensor, heights: Tensor, *, shape: tuple[int, int], bits: int, group: int
    ) -> None:
        """`codes` packed (uint8). Raises `ValueError` where the parts do not fit together."""
        super().__init__(codes, scales, None, shape=shape, bits=bits, group=group)
        if heights.shape != (2**bits,):
            raise ValueError(f"{tuple(heights.shape)} heights are not those of {bits} bits")
        self.heights = nn.Parameter(heights.to(PINNED))

    @classmethod
    def at(cls, codes: Tensor, scales: Tensor, heights: Tensor, *, group: int) -> "Lookup":
        """From codes (m × n) that are not packed yet; computes in the scales' format."""
        m, n = codes.shape
        bits = (len(heights) - 1).bit_length()
        made = cls(packed(codes.byte(), bits), scales, heights, shape=(m, n), bits=bits, group=group)
        made.like = scales.new_empty(0)
        return made

    def _points(self, rows: Tensor | None = None) -> float:
        return 0.0

    def _table(self) -> Tensor:
        return self.heights

    def _heights(self, codes: Tensor) -> Tensor:
        return self.heights.to(self.like.dtype).index_select(0, codes.int().view(-1)).view(codes.shape)

    def tree(self) -> dict[str, Any]:
        return {"kind": self.kind, "shape": list(self.shape), "bits": self.bits, "group": self.group}

    @classmethod
    def empty(cls, tree: dict[str, Any]) -> "Lookup":
        plain = Quantized.empty({**tree, "zeros": False})
        (m, n), bits, group = tree["shape"], tree["bits"], tree["group"]
        return cls(plain.codes, plain.scales, plain.scales.new_zeros(2**bits), shape=(m, n), bits=bits, group=group)
