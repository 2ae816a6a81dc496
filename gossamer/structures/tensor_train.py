"""Tensor train: two cores over the digits of both sides, χ(I₁J₁ + I₂J₂) numbers; a sum of χ Kronecker products.

The form of CompactifAI (Tomut et al. 2024, arXiv 2401.14109), which publishes no bond dimensions. Two
cores, because three were measured worse at equal numbers (block 15 of SmolLM2-135M) and because with two the best train
of every size is one singular value decomposition, so that what a plan is quoted is what it pays.
"""

from gossamer.linalg.tensor_train import digits
from gossamer.structures._base import Structure, rank_grid
from gossamer.vocabulary import Cost, Shape


class TensorTrainStructure(Structure):
    """W ≈ Σ Aₛ ⊗ Bₛ with Aₛ (I₁ × J₁), Bₛ (I₂ × J₂), s = 1 … χ; the size is the bond dimension χ.

    Applying it costs χ I₂J₁(I₁ + J₂) multiply-adds, which is less than the dense I₁I₂J₁J₂ only where
    χ < I₁J₂ / (I₁ + J₂). With I₂ = J₁ = d that is d for every stored number, so what is cheaper to apply keeps at most
    1/d of the numbers: 4 % of 576 × 576. Larger trains would save numbers and cost time; they are not offered.
    """

    def split(self, shape: Shape) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The digits (I₁, I₂) of the rows and (J₁, J₂) of the columns: as even as their divisors allow.

        The larger row digit pairs with the smaller column digit: the cores are then about equally large, which takes
        the fewest numbers for each bond, and the sweep multiplies least. Where a side is prime (or one) the digits are
        (m, 1) and (1, n), the plain rank-χ matrix: to split the other side alone would leave one core of few numbers,
        and a bond that cannot exceed them.
        """
        rows, columns = digits(shape[0], 2)[::-1], digits(shape[1], 2)
        if rows[1] == 1 or columns[0] == 1:
            return (shape[0], 1), (1, shape[1])
        return rows, columns

    def sizes(self, shape: Shape) -> list[int]:
        # As many as low rank has for a weight of I₁ × J₂, all of them possible ranks of it and so of the weight.
        rows, columns = self.split(shape)
        large = rows[0], columns[1]
        return rank_grid(large, (large[0] * large[1] - 1) // sum(large))

    def cost(self, shape: Shape, size: int, itemsize: int) -> Cost:
        rows, columns = self.split(shape)
        first, last = rows[0] * columns[0], rows[1] * columns[1]
        bond = min(size, first, last)
        numbers = bond * (first + last)
        macs = bond * rows[1] * columns[0] * (rows[0] + columns[1])
        return Cost(params=numbers, bytes=numbers * itemsize, macs=macs)
