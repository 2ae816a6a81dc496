"""Sparse: m·s entries of the weight, anywhere, and a bit for each place; the size is s, the mean of a row.

The unstructured form of Wanda (Sun et al. 2023, arXiv 2306.11695) and SparseGPT (Frantar & Alistarh 2023, arXiv
2301.00774).
"""

from torch import Tensor

from gossamer.structures._base import rank_grid
from gossamer.structures._sparse import SparseStructure, highest
from gossamer.vocabulary import Shape


class SparseEntries(SparseStructure):
    """Compared in rows each row keeps s entries; columns that are looked at together, 128 of them in SparseGPT, share
    theirs among all rows."""

    together = 128

    def possible(self, shape: Shape) -> list[int]:
        return rank_grid((shape[1], shape[1]), shape[1] - 1)

    def kept(self, shape: Shape, size: int) -> int:
        return shape[0] * size

    def rivals(self, scores: Tensor) -> Tensor:
        return scores

    def in_columns(self, scores: Tensor, size: int, start: int, columns: int) -> Tensor:
        m, width = scores.shape
        before, after = (m * size * end // columns for end in (start, start + width))
        return highest(scores.reshape(1, -1), after - before).view_as(scores)
