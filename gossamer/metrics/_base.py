"""The promise of a metric, and the form that most of them share."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from gossamer import discover
from gossamer.linalg.cholesky import lifted_cholesky
from gossamer.vocabulary import Shape


class Metric(ABC):
    """A quadratic form on errors ΔW (m × n) of one weight, made from that site's statistics.

    `needs` names the statistics (files of `statistics/`), `unit` what `error` counts. A metric is made from its site's
    shape and statistics (float64), which it looks at no sooner than it must: reading one from disk costs time.
    `checked` says that prices in it approximate a loss that a few tokens can measure (`recipes/checking.py`).
    `tables` says that tables of embeddings, as wide as the vocabulary on one side, can be weighed in it.
    `tokens` is how many the statistics were averaged over; by default they are taken for true expectations.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    unit: ClassVar[str] = "nats per token"
    checked: ClassVar[bool] = False
    tables: ClassVar[bool] = False

    def __init__(self, shape: Shape, statistics: Mapping[str, Tensor], tokens: float = math.inf) -> None:
        self.shape = shape
        self.statistics = statistics
        self.tokens = tokens

    @abstractmethod
    def error(self, delta: Tensor) -> float:
        """What ΔW = `delta` costs."""

    def blind(self) -> bool:
        """Whether some statistic is all zero: no token came by, or nothing of it went on to the output."""
        return any(not self.statistics[name].any() for name in self.needs)

    def dead(self) -> bool:
        """Whether some input or output was zero on every token, so that nothing is known of its weights."""
        return not all(_everywhere(self.statistics[name]) for name in self.needs)

    def lifted(self) -> float:
        """What roots of the metric's sides need on their diagonals beyond its damping, as a share of the mean there."""
        return 0.0


def _everywhere(statistic: Tensor) -> bool:
    """Whether every row and every column of a statistic, or every number of a vector, holds something."""
    if statistic.dim() == 1:
        return bool(statistic.all())
    full = statistic.shape[0] == statistic.shape[1] and bool(statistic.diagonal().all())  # which is soon told
    return full or bool(statistic.any(0).all() and statistic.any(1).all())


def metric(name: str) -> type[Metric]:
    """The metric with this name."""
    import gossamer.metrics as room

    return discover.load(room, name, Metric)  # type: ignore[type-abstract]


class KroneckerMetric(Metric):
    """½ tr(G ΔW A ΔWᵀ): the metrics in which truncating singular values is optimal.

    `output` is G (m × m) and `input` A (n × n), both symmetric positive definite in float64; None is the identity. A
    side as wide as the vocabulary is a diagonal, (m) or (n).
    """

    tables = True

    @property
    def output(self) -> Tensor | None:
        return None

    @property
    def input(self) -> Tensor | None:
        return None

    def error(self, delta: Tensor) -> float:
        delta = delta.double()
        return 0.5 * float((times(self.output, delta) * times(self.input, delta.T).T).sum())

    def lifted(self) -> float:
        sides = [side for side in (self.output, self.input) if side is not None and side.dim() == 2]
        return max(map(_lift, sides), default=0.0)


def _lift(side: Tensor) -> float:
    """What the root of a metric's side needs on the diagonal; of one that float32 can root already, nothing."""
    return 0.0 if not int(torch.linalg.cholesky_ex(side.float())[1]) else lifted_cholesky(side)[1]


def times(side: Tensor | None, matrix: Tensor) -> Tensor:
    """A metric's side times a matrix: a full side, a diagonal, or none, which is the identity."""
    if side is None:
        return matrix
    return side[:, None] * matrix if side.dim() == 1 else side @ matrix


class InputMetric(KroneckerMetric):
    """½ tr(ΔW A ΔWᵀ): a Kronecker metric without an output side.

    The error is a sum over the rows of ΔW, so whatever codes each row on its own can be fitted in it row by row.
    """

    @property
    def output(self) -> None:
        return None


class DiagonalMetric(InputMetric):
    """½ Σ_j a_j ‖ΔW e_j‖²: an input metric that sees no correlations, so that entries of an error count one by one."""

    @property
    @abstractmethod
    def weights(self) -> Tensor:
        """a (n), positive, in float64."""

    @property
    def input(self) -> Tensor:
        return self.weights.diag()

    def lifted(self) -> float:
        return 0.0  # its root is that of each weight


def regularized(moment: Tensor, damping: float, *, tokens: float = math.inf, prior: float = 0.0) -> Tensor:
    """The second moment after `prior` more tokens of uncorrelated coordinates, plus `damping` times its mean diagonal.

    The mean over few tokens sees correlations by chance, and a solver that trusts them discards what only seems not
    to matter. Shrinkage toward the diagonal by prior / (prior + tokens) is what a pseudo-count of tokens whose
    coordinates vary as these do amounts to. The damping makes the result positive definite unless the moment is zero.
    Of a diagonal moment (n) there is nothing to shrink.
    """
    if moment.dim() == 1:
        return moment + damping * moment.mean()
    result = moment * (1 - prior / (prior + tokens))
    result.diagonal().copy_(moment.diagonal() + damping * moment.diagonal().mean())
    return result
