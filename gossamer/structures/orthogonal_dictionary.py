"""Orthogonal dictionary: the numbers of `dictionary`, with atoms that are found orthogonal in the metric.

Orthogonal atoms make the best sparse code a threshold, so that no pursuit is needed; the form of COMPOT (Makhov et
al. 2026, arXiv 2602.15200).
"""

from gossamer.structures._dictionary import DictionaryStructure
from gossamer.vocabulary import Shape


class OrthogonalDictionary(DictionaryStructure):
    """W ≈ S D with S (m × k) sparse and D (k × n) of no more atoms than either side has dimensions."""

    def most(self, shape: Shape) -> int:
        return min(shape)
