"""The promise of a metric, and the form that most of them share."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from gossamer.vocabulary import Shape


class Metric(ABC):
    """A quadratic form on errors ΔW (m × n) of one weight, made from that site's statistics.

    `needs` names the statistics (files of `statistics/`), `unit` what `error` counts. A metric is made from its site's
    shape and statistics (float64), which it looks at no sooner than it must: reading one from disk costs time.
    `tokens` is how many the statistics were averaged over; by default they are taken for true expectations.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    unit: ClassVar[str] = "nats per token"

    def __init__(self, shape: Shape, statistics: Mapping[str, Tensor], tokens: float = math.inf) -> None:
        self.shape = shape
        self.statistics = statistics
        self.tokens = tokens

    @abstractmethod
    def error(self, delta: Tensor) -> float:
        """What ΔW = `delta` costs."""


class KroneckerMetric(Metric):
    """½ tr(G ΔW A ΔWᵀ): the metrics in which truncating singular values is optimal.

    `output` is G (m × m) and `input` A (n × n), both symmetric positive definite in float64; None is the identity.
    """

    @property
    def output(self) -> Tensor | None:
        return None

    @property
    def input(self) -> Tensor | None:
        return None

    def error(self, delta: Tensor) -> float:
        delta = delta.double()
        left = delta if self.output is None else self.output @ delta
        right = delta if self.input is None else delta @ self.input
        return 0.5 * float((left * right).sum())


def damped(moment: Tensor, damping: float) -> Tensor:
    """The second moment plus `damping` times its mean diagonal on the diagonal: positive definite unless it is zero."""
    shift = damping * moment.diagonal().mean()
    return moment + shift * torch.eye(moment.shape[0], dtype=moment.dtype, device=moment.device)


def with_prior(moment: Tensor, tokens: float, prior: float) -> Tensor:
    """The second moment after `prior` more tokens whose coordinates vary as these do but are uncorrelated.

    The mean over few tokens sees correlations by chance, and a solver that trusts them discards what only seems not
    to matter. Shrinkage toward the diagonal by prior / (prior + tokens) is what a pseudo-count amounts to.
    """
    share = prior / (prior + tokens)
    return moment if share == 0 else (1 - share) * moment + share * moment.diagonal().diag()
