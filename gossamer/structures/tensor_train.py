"""Tensor train: two cores over the digits of both sides, χ(I₁J₁ + I₂J₂) numbers; a sum of χ Kronecker products.

The form of CompactifAI (Tomut et al. 2024, arXiv 2401.14109), which publishes no bond dimensions. Two
cores, because three were measured worse at equal numbers (block 15 of SmolLM2-135M) and because with two the best train
of every size is one singular value decomposition, so that what a plan is quoted is what it pays.
"""

from gossamer.linalg.tensor_train import digits
from gossamer.structures._base import Structure
from gossamer.vocabulary import Cost, Shape


class TensorTrainStructure(Structure):
    """W ≈ Σ Aₛ ⊗ Bₛ with Aₛ (I₁ × J₁), Bₛ (I₂ × J₂), s = 1 … χ; the size is the bond dimension χ.

    A train saves numbers, not multiply-adds. Applying it core by core takes χ I₂J₁(I₁ + J₂) of them, d for every stored
    number where I₂ = J₁ = d: half the numbers of 576 × 576 take twelve times the dense weight's. That is the cost
    quoted, so a budget in multiply-adds chooses none but the smallest trains, those of χ < I₁J₂ / (I₁ + J₂), which keep
    at most 1/d of the numbers.
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

    def fallback(self, shape: Shape) -> str | None:
        return "plain low rank, for one of their sides has no divisors" if self.split(shape)[0][1] == 1 else None

    def sizes(self, shape: Shape) -> list[int]:
        """Bonds of fewer numbers than the dense weight: evenly spaced for large weights, closer where small.

        All spacings are powers of two, so that tied weights of different shapes have sizes in common.
        """
        rows, columns = self.split(shape)
        first, last = rows[0] * columns[0], rows[1] * columns[1]
        # Half the harmonic mean of the two sides of the cut, so possible as a rank.
        most = (first * last - 1) // (first + last)
        step = 1
        while most // step > 44:
            step *= 2
        # Four to a doubling until they are `step` apart.
        return [size for size in range(1, most + 1) if size % min(step, max(1, 2 ** (size - 1).bit_length() // 8)) == 0]

    def cost(self, shape: Shape, size: int, itemsize: int) -> Cost:
        rows, columns = self.split(shape)
        first, last = rows[0] * columns[0], rows[1] * columns[1]
        bond = min(size, first, last)
        numbers = bond * (first + last)
        macs = bond * rows[1] * columns[0] * (rows[0] + columns[1])
        return Cost(params=numbers, bytes=numbers * itemsize, macs=macs)
