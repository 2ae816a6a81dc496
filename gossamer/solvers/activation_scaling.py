"""Activation scaling: inputs of large magnitude get a finer grid, by a power of it that is searched for.

Source: AWQ (Lin et al. 2023, arXiv 2306.00978): W ≈ Q(W diag(s)) diag(s)⁻¹ with s = E|x|^p normalized by the root of
its largest times its smallest, p the best of 0, 1/20 … 19/20. The paper judges p by the output of a block and clips
afterwards; here it is the output of the layer, and every p has the clipping of its own grid. p = 0 scales nothing.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gossamer.expressions import Expression
from gossamer.linalg.grid import codes_on, row_grid, spread, stored, unit
from gossamer.linalg.quotes import quoted, quotes
from gossamer.metrics import Metric
from gossamer.metrics.scaled_activation import ScaledActivation
from gossamer.solvers._base import Solver
from gossamer.solvers._estimate import sampled
from gossamer.structures import Structure
from gossamer.structures._scaled import ScaledStructure

POWERS = tuple(step / 20 for step in range(20))
LEAST = 1e-4
"""Of the largest mean magnitude; the paper's is absolute."""


class ActivationScaling(Solver):
    """Twenty roundings, the best in the metric."""

    exact = False

    def accepts(self, structure: type[Structure], metric: type[Metric]) -> bool:
        return issubclass(structure, ScaledStructure) and issubclass(metric, ScaledActivation)

    def kept_as(self, structure: Structure) -> str:
        return f"{self.name}-{structure.name}"

    def prepare(self, weight: Tensor, structure: Structure, metric: Metric) -> dict[str, Tensor]:
        """`sizes` the structure offers for this weight, and their `errors`."""
        assert isinstance(structure, ScaledStructure) and isinstance(metric, ScaledActivation)
        # Whole rows are looked at in the metric itself, since the inputs' correlations decide about the power.
        picked, factors = sampled(((weight @ metric.input) * weight).sum(1))
        rows = weight[picked] * factors[:, None]
        sizes = structure.sizes((weight.shape[0], weight.shape[1]))
        return quotes(sizes, [0.5 * float(_best(rows, structure, bits, metric)[0]) for bits in sizes])

    def prices(self, prepared: Mapping[str, Tensor], sizes: Sequence[int]) -> list[float]:
        return quoted(prepared, sizes)

    def solve(
        self, weight: Tensor, structure: Structure, size: int, metric: Metric, prepared: Mapping[str, Tensor]
    ) -> Expression:
        assert isinstance(structure, ScaledStructure) and isinstance(metric, ScaledActivation)
        _, codes, scales, points, factors = _best(weight, structure, size, metric)
        return structure.express(codes, scales, points, factors, size)


def _best(weight: Tensor, structure: ScaledStructure, bits: int, metric: ScaledActivation) -> tuple[Tensor, ...]:
    """(squared output error, codes, scales, zero points, factors) of the best power."""
    m, n = weight.shape
    inner = structure.inner
    length, levels = inner.length((m, n)), inner.levels(bits)
    size, loudest = unit(weight), metric.input.diagonal().max().clamp_min(1e-300)
    w, moment = (weight / size).float(), (metric.input / loudest).float()
    magnitude = metric.statistics["input_absolute_mean"].float()
    magnitude = magnitude.clamp_min(LEAST * float(magnitude.max())).clamp_min(1e-30)
    found: tuple[Tensor, ...] | None = None
    for power in POWERS:
        raised = (magnitude / magnitude.max()) ** power
        factors = ((raised.max() * raised.min()).sqrt() / raised).to(torch.bfloat16).float()
        scaled = w / factors
        # An input's errors count as much as it varies, else the grid would clip the very weights that were made large.
        scales, points = row_grid(scaled, factors.square() * moment.diagonal(), length, levels, zeros=inner.zeros)
        scales = stored(scales.double() * size)
        steps, zeros = spread(scales / size, length, n).float(), spread(points, length, n)
        codes = codes_on(scaled, steps, zeros, levels)
        left = w - (codes - zeros) * steps * factors
        error = ((left @ moment) * left).sum().double() * size.square() * loudest
        error = torch.where(error.isfinite(), error, torch.inf)  # no number is less than one that is none
        if found is None or error < found[0]:
            found = (error, codes, scales, points, factors.double())
    assert found is not None
    return found
