"""Covariance: ½ E‖ΔW (x − μ)‖², the layer's output error that is left once a bias has made good its mean.

Source: atomic feature mimicking (Yu & Wu 2023; Yu et al. 2024, arXiv 2405.18146): W' x + (W − W') μ has the dense
layer's mean output, and its squared error is that of W' on centred inputs.
"""

from functools import cached_property

from torch import Tensor

from gossamer.metrics._base import Metric
from gossamer.metrics.activation import Activation

ROUNDING = 1e-6
"""Of each input's own second moment, about what its float32 sum has lost: a smaller variance around a large mean is
not known, and without this it may come out negative."""


class Covariance(Metric):
    """½ tr(ΔW C ΔWᵀ) with C = E[x xᵀ] − μ μᵀ: the activation metric of centred inputs.

    Not itself a `KroneckerMetric`: only a solver that moves ΔW μ into a bias pays no more than this, and one without
    a bias to put it in must not take it for the whole price.
    """

    needs = ("input_second_moment", "input_mean")
    tables = True
    unit = "half squared output error per token around its mean"

    @property
    def mean(self) -> Tensor:
        """μ (n)."""
        return self.statistics["input_mean"]

    @cached_property
    def centred(self) -> Activation:
        """The same form on linear parts, for solvers of Kronecker metrics."""
        moment = self.statistics["input_second_moment"]
        covariance = moment - self.mean.outer(self.mean)
        covariance.diagonal().add_(ROUNDING * moment.diagonal())
        return Activation(self.shape, {"input_second_moment": covariance}, self.tokens)

    def error(self, delta: Tensor) -> float:
        return self.centred.error(delta)

    def lifted(self) -> float:
        return self.centred.lifted()
