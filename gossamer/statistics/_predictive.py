"""The gradient of the loss at a model's output, with labels drawn from the model's own predictions.

Drawn labels make the second moments of the gradients those of the true Fisher information, and need no labelled data
(Kunstner et al. 2019, arXiv 1905.12558, on why the difference matters).
"""

from typing import Any

import torch
from torch import Tensor

from gossamer.sites import output_of

ROWS = 16
"""Positions whose probabilities are held in float32 at once: 3 MB a copy where the vocabulary has 49,000 tokens."""


@torch.no_grad()
def sampled_gradient(outputs: Any, generator: torch.Generator) -> Tensor:
    """∂loss/∂output for the summed loss of one draw of labels; of the output's shape and dtype.

    Logits predict a category at each position: softmax minus the drawn one-hot label. A last hidden state predicts a
    vector with Gaussian noise of the outputs' own variance σ²: the gradient is standard normal noise over σ, so the
    loss counts nats against a reader who would tolerate as much error as the outputs vary.
    """
    output = output_of(outputs)
    if getattr(outputs, "logits", None) is None:
        noise = torch.randn(output.shape, generator=generator, dtype=torch.float32)
        deviation = output.float().flatten(0, -2).std(dim=0).square().mean().sqrt()
        return (noise.to(output.device) / deviation.clamp_min(1e-12)).to(output.dtype)
    flat = output.reshape(-1, output.shape[-1])
    gradient = torch.empty_like(flat)
    for start in range(0, flat.shape[0], ROWS):
        chances = flat[start : start + ROWS].softmax(-1, dtype=torch.float32)
        cumulative = chances.cumsum(-1)
        draw = torch.rand(len(chances), 1, generator=generator).to(chances.device) * cumulative[:, -1:]
        label = torch.searchsorted(cumulative, draw).clamp_max_(flat.shape[1] - 1)
        gradient[start : start + ROWS] = chances.scatter_add_(-1, label, -torch.ones_like(draw))
    return gradient.view_as(output)
