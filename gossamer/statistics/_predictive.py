"""Passes through a model, and back the gradient of its loss with labels drawn from the model's own predictions.

Drawn labels make the second moments of the gradients those of the true Fisher information, and need no labelled data
(Kunstner et al. 2019, arXiv 1905.12558, on why the difference matters).

The usual gradient for one drawn label is p − e_y, for chances p and unit vectors e. Any Σ cᵢ e_yᵢ over several labels
has the same second moment, diag(p) − p pᵀ, where Σ cᵢ = 0 and Σ cᵢ² = 1: the labels themselves take off the mean. It
has k entries instead of one for each word, so what it is at the input of a linear head is a sum of k rows of that
head's weight: on the way back neither a product with the whole weight nor a gradient of the logits' size is made. (It
also has a k-th of the excess kurtosis where all cᵢ are of one size; on SmolLM2-135M that makes plans no better:
lab/LOG.md.)
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from gossamer.errors import NumericsError
from gossamer.sites import last_step, output_of, run

DRAWS = 16
"""Labels a position; with a power of four their weights ± 1/√k are exact in any number format."""

HEAD_ROWS, ROWS = 256, 16
"""Positions that a head reads at once, and whose chances are held at once: 50 and 3 MB a copy in float32 where the
vocabulary has 49,000 tokens."""


class Passes:
    """Forward and backward passes of a model with frozen parameters.

    A linear head that ends the model is left out of both, unless it is among the modules whose names are `watched`:
    what it says is worked out for 256 positions at a time, to draw labels from.
    """

    def __init__(self, model: nn.Module, watched: Collection[str] = ()) -> None:
        self.model = model
        head = last_step(model)
        self.head: Any = None if head in [model.get_submodule(name) for name in watched] else head

    def forward(self, ids: Tensor) -> Any:
        """The model's outputs for token ids (batch × length); in place of logits what the head would read."""
        if self.head is None:
            return run(self.model, ids)
        self.head.forward = lambda hidden: hidden
        try:
            return run(self.model, ids)
        finally:
            del self.head.forward  # the class's own comes back

    @torch.no_grad()
    def gradient(self, outputs: Any, generator: torch.Generator) -> Tensor:
        """What goes back through the model, for what `forward` gave; of the output's shape and dtype.

        Logits predict a category at each position: the gradient of Σ cᵢ · (nats of label i), summed over positions. A
        last hidden state predicts a vector with Gaussian noise of the outputs' own variance σ²: the gradient is
        standard normal noise over σ, so the loss counts nats against a reader who would tolerate as much error as the
        outputs vary.
        Raises `NumericsError` where logits are not finite.
        """
        output = output_of(outputs)
        if getattr(outputs, "logits", None) is None:
            noise = torch.randn(output.shape, generator=generator, dtype=torch.float32)
            deviation = output.float().flatten(0, -2).std(dim=0).square().mean().sqrt()
            return (noise.to(output.device) / deviation.clamp_min(1e-12)).to(output.dtype)
        flat = output.reshape(-1, output.shape[-1])
        gradient = torch.zeros_like(flat)
        for rows, part in zip(flat.split(HEAD_ROWS), gradient.split(HEAD_ROWS), strict=True):
            labels = _drawn(rows if self.head is None else self.head(rows), generator)
            weights = part.new_full(labels.shape, DRAWS**-0.5)
            weights[:, ::2].neg_()
            if self.head is None:
                part.scatter_add_(-1, labels, weights)
            else:
                part.copy_(embedding_bag(labels, self.head.weight, per_sample_weights=weights, mode="sum"))
        return gradient.view_as(output)


def _drawn(logits: Tensor, generator: torch.Generator) -> Tensor:
    """`DRAWS` labels a position (positions × draws) from logits (positions × classes)."""
    draws = torch.rand(len(logits), DRAWS, generator=generator).to(logits.device)
    drawn, sums = [], []
    for rows, draw in zip(logits.split(ROWS), draws.split(ROWS), strict=True):
        cumulative = rows.softmax(-1, dtype=torch.float32).cumsum(-1)
        sums.append(cumulative[:, -1:])
        drawn.append(torch.searchsorted(cumulative, draw * sums[-1]).clamp_max_(rows.shape[1] - 1))
    if not torch.isfinite(torch.cat(sums)).all():
        raise NumericsError(
            "The model's predictions are not finite on the calibration text; check its weights, or run it in a wider "
            "number format."
        )
    return torch.cat(drawn)
