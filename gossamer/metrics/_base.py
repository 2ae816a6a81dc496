"""The promise of a metric, and the form that most of them share."""

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
    """

    needs: ClassVar[tuple[str, ...]] = ()
    unit: ClassVar[str] = "nats per token"

    def __init__(self, shape: Shape, statistics: Mapping[str, Tensor]) -> None:
        self.shape = shape
        self.statistics = statistics

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
