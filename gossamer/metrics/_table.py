"""What an error in a table of token embeddings costs: where it is looked up, and where it is the output head too."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from gossamer.errors import PlanError
from gossamer.metrics._base import DiagonalMetric, KroneckerMetric, Metric, times
from gossamer.metrics.activation import Activation
from gossamer.metrics.covariance import Covariance


class TableMetric(Metric):
    """½ Σ_v p_v δ_v G δ_vᵀ for the rows δ_v of an error in a table (V × d), and ½ Σ_v h_v δ_v A δ_vᵀ where it is tied.

    Looking tokens up is a linear map of unit vectors, whose second moment is the diagonal of the tokens' frequencies p.
    A head's output side is that of the logits, of which only the diagonal h is kept. Both uses see the same error, so
    what it costs adds up. Which of p, h, G and A there are is as in the metric of other layers; what is not is one.
    """

    def __init__(self, uses: Sequence[Metric]) -> None:
        """From the metrics of the lookup (outputs d, inputs V) and, where there is one, of the head (V, d)."""
        self.parts = [_kronecker(use) for use in uses]
        self.shape = self.parts[0].shape[::-1]

    @staticmethod
    def check(metric: type[Metric]) -> None:
        """Raise `PlanError` where tables cannot be weighed so."""
        if not metric.tables:
            raise PlanError(
                f"Embeddings cannot be weighed in the metric {metric.__name__}; choose another metric, or leave "
                "--embeddings out."
            )

    @cached_property
    def frequencies(self) -> Tensor:
        """p (V), ones where the metric counts every token alike."""
        return self.sides[0][0]

    @cached_property
    def sides(self) -> list[tuple[Tensor, Tensor | None]]:
        """For each use the weights of rows (V) and the form on them (d × d)."""
        lookup, *heads = self.parts
        # The full side of a diagonal metric would be V × V.
        rows = lookup.weights if isinstance(lookup, DiagonalMetric) else lookup.input
        found = [(rows, lookup.output), *((head.output, head.input) for head in heads)]
        ones = torch.ones(self.shape[0], dtype=torch.float64)
        return [(ones if weights is None else weights, form) for weights, form in found]

    def error(self, delta: Tensor) -> float:
        delta = delta.double()
        return 0.5 * sum(float((rows * (times(form, delta.T).T * delta).sum(1)).sum()) for rows, form in self.sides)

    def blind(self) -> bool:
        return any(part.blind() for part in self.parts)

    def dead(self) -> bool:
        return False  # most texts leave tokens out

    def lifted(self) -> float:
        return max(part.lifted() for part in self.parts)


def _kronecker(metric: Metric) -> KroneckerMetric:
    """The metric, with no mean taken off: what a table has for it is part of its weight, and no bias."""
    if isinstance(metric, Covariance):
        return Activation(metric.shape, metric.statistics, metric.tokens)
    assert isinstance(metric, KroneckerMetric)
    return metric
