"""Dictionary: every row of the weight from its own few atoms, k·n + m·⌈k / 2⌉ numbers and m·k bits.

A union of subspaces where low rank has one subspace for all rows; the form of CoSpaDi (Makhov et al. 2025, arXiv
2509.22075), whose W is ours transposed.
"""

from gossamer.structures._dictionary import DictionaryStructure
from gossamer.vocabulary import Shape


class Dictionary(DictionaryStructure):
    """W ≈ S D with S (m × k) sparse and any D (k × n), which may have more atoms than the rows have dimensions."""

    def most(self, shape: Shape) -> int:
        return shape[0]
