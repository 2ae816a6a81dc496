"""Grids for groups of numbers: the scale and zero point with the least squared rounding error."""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

SHRINKS = tuple(1 - 0.05 * k for k in range(13))
"""Of the range that holds the whole group: a smaller one clips its ends and rounds the rest more finely."""

REFITS = 2
"""Least squares for the scale, given the codes that the last one led to."""

TAIL = 0.75
"""Of a step of probability that normal heights leave beyond their ends. One half is right for normal numbers and many
codes; a group's largest number is not so far out as theirs."""

CELLS = 2**14
"""Of the range of heights, each of which knows its code: a number within half a cell of the middle between two heights
may take the farther one."""


class Levels:
    """What b-bit codes stand for, in steps of a group's scale and counted from its zero point: whole numbers."""

    def __init__(self, bits: int) -> None:
        self.bits = bits

    def codes(self, heights: Tensor) -> Tensor:
        """The codes of the nearest heights, as floating-point numbers."""
        return heights.round().clamp_(0, 2**self.bits - 1)

    def heights(self, codes: Tensor) -> Tensor:
        return codes

    def candidates(self, groups: Tensor, zeros: bool) -> list[tuple[Tensor, Tensor]]:
        """(scales, zero points), one of each for every group (…, g), to choose from."""
        return _candidates(groups, self.bits, zeros)


class NormalLevels(Levels):
    """Heights Φ⁻¹((c + t) / (2ᵇ − 1 + 2t)): close where normal numbers are many, far apart where they are few.

    At t = ½ and many codes they have the least squared error for numbers that are normal, with a third of the variance
    of Φ, which is a matter of scale (Panter & Dite 1951). Quantiles too, and with a zero: NF4 of Dettmers et al. 2023
    (arXiv 2305.14314).
    """

    def codes(self, heights: Tensor) -> Tensor:
        cells, end = _cells(self.bits)
        at = (heights * (CELLS / 2 / end)).add_(CELLS / 2).clamp_(0, CELLS - 1).int()
        return cells.to(heights).index_select(0, at.reshape(-1)).view(at.shape)

    def heights(self, codes: Tensor) -> Tensor:
        return normal_heights(self.bits).to(codes).index_select(0, codes.int().view(-1)).view(codes.shape)

    def candidates(self, groups: Tensor, zeros: bool) -> list[tuple[Tensor, Tensor]]:
        widest = groups.abs().amax(-1) / float(normal_heights(self.bits)[-1])
        typical = groups.square().mean(-1).sqrt()
        low, high = torch.minimum(widest, 0.6 * typical), torch.maximum(widest, 1.3 * typical)
        shares = [k / (len(SHRINKS) - 1) for k in range(len(SHRINKS))]
        return [(stored(low.pow(1 - share) * high.pow(share)), torch.zeros_like(low)) for share in shares]


@lru_cache
def normal_heights(bits: int) -> Tensor:
    """The heights of `NormalLevels` (2ᵇ), ascending, in float64 and exact in bfloat16."""
    count = 2**bits
    return stored(torch.special.ndtri((torch.arange(count, dtype=torch.float64) + TAIL) / (count - 1 + 2 * TAIL)))


@lru_cache
def _cells(bits: int) -> tuple[Tensor, float]:
    """(the code of every cell, where the cells end)."""
    found = normal_heights(bits)
    end = float(found[-1])
    middles = (torch.arange(CELLS, dtype=torch.float64) + 0.5) * (2 * end / CELLS) - end
    return torch.bucketize(middles, (found[1:] + found[:-1]) / 2).float(), end


def fit_grid(groups: Tensor, weights: Tensor, levels: Levels, *, zeros: bool) -> tuple[Tensor, Tensor]:
    """(scales, zero points), both (…), for groups (…, g) whose entries' errors count `weights` (broadcast to (…, g)).

    Of whole numbers, a level is s (c − z), c = 0 … 2ᵇ − 1; without `zeros` z is 2ᵇ⁻¹ and s may be negative, and the
    scale of a group of zeros is 1. Of other heights h it is s h_c, and the scale of a group of zeros is 0. Scales are
    exact in bfloat16.
    """
    best = torch.full(groups.shape[:-1], torch.inf, dtype=groups.dtype, device=groups.device)
    found = levels.candidates(groups, zeros)
    scales, points = (t.clone() for t in found[0])

    def tried(scale: Tensor, point: Tensor) -> None:
        nonlocal best, scales, points
        error = (weights * (groups - on_grid(groups, scale[..., None], point[..., None], levels)).square()).sum(-1)
        better = error < best
        best = torch.where(better, error, best)
        scales, points = torch.where(better, scale, scales), torch.where(better, point, points)

    for scale, point in found:
        tried(scale, point)
    for _ in range(REFITS):
        steps = levels.heights(codes_on(groups, scales[..., None], points[..., None], levels)) - points[..., None]
        against = (weights * steps.square()).sum(-1)
        fitted = stored((weights * steps * groups).sum(-1) / against)
        tried(torch.where(fitted.isfinite() & (fitted != 0), fitted, scales), points)
    return scales, points


def codes_on(values: Tensor, scales: Tensor, points: Tensor, levels: Levels) -> Tensor:
    """The codes of the nearest levels, as floating-point numbers."""
    return levels.codes(values * inverse(scales) + points)


def inverse(scales: Tensor) -> Tensor:
    """One over each scale; 0 where that is infinite: the levels of such a scale are all one, or as good as one."""
    found = 1 / scales
    return torch.where(found.isinf(), 0.0, found)


def on_grid(values: Tensor, scales: Tensor, points: Tensor, levels: Levels) -> Tensor:
    """The nearest levels."""
    return (levels.heights(codes_on(values, scales, points, levels)) - points) * scales


def row_grid(weight: Tensor, weights: Tensor, length: int, levels: Levels, *, zeros: bool) -> tuple[Tensor, Tensor]:
    """(scales, zero points), both (m × ⌈n / length⌉), for the groups along the rows of a weight (m × n).

    `weights` (n) are what the errors of a column count.
    """
    m, n = weight.shape
    groups = F.pad(weight, (0, -n % length)).view(m, -1, length)
    return fit_grid(groups, F.pad(weights, (0, -n % length)).view(-1, length), levels, zeros=zeros)


def spread(numbers: Tensor, length: int, columns: int) -> Tensor:
    """One number a group (m × groups) as one for each entry (m × columns)."""
    return numbers.repeat_interleave(length, 1)[:, :columns]


def _candidates(groups: Tensor, bits: int, zeros: bool) -> list[tuple[Tensor, Tensor]]:
    low, high = groups.amin(-1).clamp_max(0), groups.amax(-1).clamp_min(0)
    top, half = 2**bits - 1, 2 ** (bits - 1)
    if zeros:
        ranges = [(shrink * low, shrink * high) for shrink in SHRINKS]
        found = [(_usable((b - a) / top), a) for a, b in ranges]
        return [(scale, (-a / scale).round().clamp(0, top)) for scale, a in found]
    # The code 0 stands for −2ᵇ⁻¹ s, one step further out than the last code: its end is the longer one, or the other.
    far, near = torch.where(-low > high, low, high), torch.where(-low > high, high, low)
    long = [
        _usable(-shrink * torch.maximum(far.abs() / half, near.abs() / (half - 1)) * far.sign()) for shrink in SHRINKS
    ]
    short = [_usable(shrink * far / (half - 1)) for shrink in SHRINKS]
    return [(scale, torch.full_like(scale, half)) for scale in long + short]


def unit(weight: Tensor) -> Tensor:
    """The weight's size as a power of two, divided by which its squares are numbers in float32."""
    found: Tensor = weight.abs().max().clamp_min(1e-300).log2().round().exp2()
    return found


def stored(scale: Tensor) -> Tensor:
    """The number as bfloat16 has it: of the smallest few digits are left, or none."""
    return scale.to(torch.bfloat16).to(scale.dtype)


def _usable(scale: Tensor) -> Tensor:
    """The scale as it will be stored, 1 where it is zero."""
    found = stored(scale)
    return torch.where(found == 0, 1.0, found)
