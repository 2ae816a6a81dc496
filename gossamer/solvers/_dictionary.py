"""What the dictionary solvers share: a start that prices every size, and the best dictionary for given codes."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gossamer.expressions import Expression
from gossamer.linalg.principal import principal_rows
from gossamer.metrics import InputMetric, Metric
from gossamer.solvers._base import Solver
from gossamer.structures import DictionaryStructure, Structure
from gossamer.structures._dictionary import kept

NEGLIGIBLE = 1e-8
"""Of the largest singular value of the codes, their columns at length one: directions below it are not solved for."""


class DictionarySolver(Solver):
    """Codes are found in the whitened space, the dictionary for them in the weight's own.

    The prices are upper bounds, those of a start that needs no iteration: the k principal directions of the whitened
    rows as atoms, and the s largest coordinates of every row as its codes. What `solve` returns is never worse.
    """

    exact = False

    @abstractmethod
    def codes(self, rows: Tensor, count: int) -> Tensor:
        """Codes (m × count) for whitened rows in principal coordinates, no worse than `start` for these."""

    def prepare(self, weight: Tensor, structure: Structure, metric: Metric) -> dict[str, Tensor]:
        """`sizes` the structure offers for this weight, and their `errors`."""
        assert isinstance(metric, InputMetric)
        rows = principal_rows(weight, metric.input)
        sizes = structure.sizes((weight.shape[0], weight.shape[1]))
        errors = [start_error(rows, size) for size in sizes]
        return {
            "sizes": torch.tensor(sizes, dtype=torch.int64),
            "errors": torch.tensor(errors, dtype=torch.float64),
        }

    def prices(self, prepared: Mapping[str, Tensor], sizes: Sequence[int]) -> list[float]:
        known = dict(zip(prepared["sizes"].tolist(), prepared["errors"].tolist(), strict=True))
        return [known[size] for size in sizes]

    def solve(
        self, weight: Tensor, structure: Structure, size: int, metric: Metric, prepared: Mapping[str, Tensor]
    ) -> Expression:
        assert isinstance(structure, DictionaryStructure) and isinstance(metric, InputMetric)
        codes = self.codes(principal_rows(weight, metric.input), size)
        return structure.express(codes, best_dictionary(codes, weight))


def start_error(rows: Tensor, count: int) -> float:
    """What the start costs for `rows` (m × d) in principal coordinates.

    Half the energy that the largest ⌈count / 2⌉ of the first `count` coordinates of each row do not capture.
    """
    head = rows[:, :count].square()
    dropped = head.topk(max(head.shape[1] - kept(count), 0), dim=1, largest=False).values
    return 0.5 * float(dropped.sum() + rows[:, count:].square().sum())


def best_dictionary(codes: Tensor, weight: Tensor) -> Tensor:
    """D = S⁺ W (k × n) for codes S (m × k): the best for these codes in every input metric.

    The error tr((W − S D) A (W − S D)ᵀ) has its minimum where Sᵀ (W − S D) A = 0, and S⁺ W makes the first two factors
    zero already; so the metric's root, which codes were found with, need not be undone.
    """
    lengths = codes.norm(dim=0)
    lengths = torch.where(lengths > 0, lengths, 1.0)
    solved: Tensor = torch.linalg.lstsq(codes / lengths, weight, rcond=NEGLIGIBLE, driver="gelsd").solution
    return (solved / lengths[:, None]).contiguous()  # LAPACK's order would round differently than the file's
