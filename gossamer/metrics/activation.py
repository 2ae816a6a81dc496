"""Activation: ½ E‖ΔW x‖², the layer's output error.

Source: the whitening of SVD-LLM (Wang et al. 2024, arXiv 2403.07378), the feature PCA of LoRD and DRONE.
"""

from collections.abc import Mapping

from torch import Tensor

from gossamer.metrics._base import KroneckerMetric, damped
from gossamer.vocabulary import Shape


class Activation(KroneckerMetric):
    """½ tr(ΔW A ΔWᵀ): only the inputs' second moment counts."""

    needs = ("input_second_moment",)
    unit = "half squared output error per token"

    @classmethod
    def weigh(cls, shape: Shape, statistics: Mapping[str, Tensor]) -> "Activation":
        return cls(output=None, input=damped(statistics["input_second_moment"], 1e-8))
