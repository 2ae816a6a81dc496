"""Sparse codes of many vectors in one dictionary, all at once."""

import torch
from torch import Tensor

REFITS = 3
"""Steps of conjugate gradients for the values on a support: the codes start near, and the next pursuit goes on."""

ROUNDING = 64
"""Times the precision of the numbers, by which a code must be better to be taken: less may be rounding, and worse."""


def largest(codes: Tensor, kept: int) -> Tensor:
    """`codes` (m × k) with all but the `kept` entries of largest magnitude in each row set to zero."""
    places = codes.abs().topk(min(kept, codes.shape[1]), dim=1).indices
    return torch.zeros_like(codes).scatter_(1, places, codes.gather(1, places))


def pursue(rows: Tensor, atoms: Tensor, codes: Tensor, kept: int, refits: int = REFITS) -> Tensor:
    """Better codes (m × k), at most `kept` not zero in a row, with codes · atoms near `rows`.

    `rows` is (m × d), `atoms` (k × d) of length one or zero, `codes` (m × k) where to begin. Hard thresholding pursuit
    (Foucart 2011, "Hard thresholding pursuit: an algorithm for compressive sensing"): every row takes the `kept` atoms
    that its code plus its residual's correlations name, and its values are refitted on these. As many `refits` as atoms
    kept make the fit exact. A row whose code would get worse keeps it.
    """
    rest = rows - codes @ atoms
    correlations, gram = rest @ atoms.T, atoms @ atoms.T
    found = largest(codes + correlations, kept)
    support = found != 0
    found = _refit(found, (correlations + (codes - found) @ gram) * support, gram, support, refits)
    better = (rows - found @ atoms).square().sum(1) < (1 - ROUNDING * torch.finfo(rows.dtype).eps) * rest.square().sum(
        1
    )
    return torch.where(better[:, None], found, codes)


def _refit(codes: Tensor, slope: Tensor, gram: Tensor, support: Tensor, steps: int) -> Tensor:
    """Conjugate gradients of all rows at once, each on its own support; `slope` is the first residual there (m × k)."""
    direction, length = slope.clone(), slope.square().sum(1, keepdim=True)
    for _ in range(steps):
        image = (direction @ gram) * support
        step = _over(length, (direction * image).sum(1, keepdim=True))
        codes, slope = codes + step * direction, slope - step * image
        before, length = length, slope.square().sum(1, keepdim=True)
        direction = slope + _over(length, before) * direction
    return codes


def _over(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, zero where rounding has left nothing to divide by."""
    safe = denominator > torch.finfo(denominator.dtype).tiny
    return torch.where(safe, numerator / denominator.where(safe, 1.0), 0.0)
