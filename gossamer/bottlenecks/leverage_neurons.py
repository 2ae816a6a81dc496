"""Leverage neurons: an MLP narrowed to the neurons of greatest ridge leverage, as published.

ℓ_i = [C (C + λ I)⁻¹]_ii with C the second moment of the neurons: how little the others can stand in for neuron i. What
reads a neuron has no say. Source: MoDeGPT's type I (Lin et al. 2024, arXiv 2408.09632); λ, there an absolute number, is
a fraction of the mean second moment here, so that it means the same for every layer.
"""

import torch
from torch import Tensor

from gossamer.bottlenecks.neurons import Neurons
from gossamer.linalg.cholesky import safe_cholesky

RIDGE = 1e-2


class LeverageNeurons(Neurons):
    """Differs from `neurons` in which of them stay, and in nothing else."""

    def order(self, felt: Tensor, moment: Tensor) -> Tensor:
        ridge = RIDGE * moment.diagonal().mean().clamp_min(1e-300)
        inverse = torch.cholesky_inverse(safe_cholesky(moment + ridge * torch.eye(len(moment), dtype=moment.dtype)))
        return (1 - ridge * inverse.diagonal()).argsort(descending=True)
