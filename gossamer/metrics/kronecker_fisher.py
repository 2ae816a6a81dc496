"""Kronecker Fisher: ½ tr(G ΔW A ΔWᵀ), the predicted rise of the loss in nats per token, to second order.

A = E[x xᵀ] over the layer's inputs, G = E[g gᵀ] over the gradients at its outputs with labels drawn from the model's
own predictions, so G ⊗ A is the K-FAC approximation of the true Fisher (Martens & Grosse 2015, arXiv 1503.05671).
"""

from functools import cached_property

from torch import Tensor

from gossamer.metrics._base import KroneckerMetric, damped

DAMPING = 1e-3
"""Of the mean diagonal, on both sides; from 1e-3 to 1e-1 the perplexity moves by less than a hundredth."""


class KroneckerFisher(KroneckerMetric):
    """Errors weighted by what feeds them and by how much the loss feels them."""

    needs = ("input_second_moment", "gradient_second_moment")

    @cached_property
    def output(self) -> Tensor:
        return damped(self.statistics["gradient_second_moment"], DAMPING)

    @cached_property
    def input(self) -> Tensor:
        return damped(self.statistics["input_second_moment"], DAMPING)
