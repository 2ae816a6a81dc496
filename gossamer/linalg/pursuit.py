"""Sparse codes of many vectors in one dictionary, all at once."""

import torch
from torch import Tensor

PIVOT = 1e-10
"""The least squared distance of an atom of length one from the atoms chosen before that lets it count."""

CHUNK = 2**25
"""Numbers (256 MB) that the orthogonal bases of the rows pursued together may take."""


def largest(codes: Tensor, kept: int) -> Tensor:
    """`codes` (m × k) with all but the `kept` entries of largest magnitude in each row set to zero."""
    places = codes.abs().topk(min(kept, codes.shape[1]), dim=1).indices
    return torch.zeros_like(codes).scatter_(1, places, codes.gather(1, places))


def pursue(rows: Tensor, atoms: Tensor, kept: int) -> Tensor:
    """Orthogonal matching pursuit: codes (m × k), `kept` not zero in a row, with codes · atoms near `rows`.

    `rows` is (m × d), `atoms` (k × d) of length one or zero. Each step takes for every row the atom that its residual
    correlates with most, and projects the row onto all atoms it has taken. Source: Rubinstein, Zibulevsky & Elad 2008,
    "Efficient implementation of the K-SVD algorithm using batch orthogonal matching pursuit".
    """
    gram, correlations = atoms @ atoms.T, rows @ atoms.T
    together = max(1, CHUNK // kept**2)
    return torch.cat([_pursue(part, gram, kept) for part in correlations.split(together)])


def _pursue(correlations: Tensor, gram: Tensor, kept: int) -> Tensor:
    """The pursuit from correlations of rows with atoms (m × k) and of atoms with each other (k × k).

    Row l of `bases[i]` writes the l-th orthonormal direction of row i in the atoms taken so far; with it both the
    projection and its effect on all correlations follow without going back to the vectors.
    """
    left, codes = correlations.clone(), torch.zeros_like(correlations)
    m = len(left)
    every = torch.arange(m, device=left.device)
    taken = torch.zeros_like(left, dtype=torch.bool)
    picks = torch.zeros(m, kept, dtype=torch.int64, device=left.device)
    bases = left.new_zeros(m, kept, kept)
    for step in range(kept):
        pick = left.abs().masked_fill_(taken, -1).argmax(1)
        taken[every, pick], picks[:, step] = True, pick
        before = bases[:, :step, :step]
        shadow = before @ gram[pick[:, None], picks[:, :step]][:, :, None]
        rest = gram[pick, pick] - shadow.square().sum((1, 2))
        # An atom within rounding of the span of those before it adds nothing: its direction is left out.
        scale = torch.where(rest > PIVOT, rest.clamp_min(PIVOT).rsqrt(), 0.0)
        direction = torch.cat([-(shadow.mT @ before)[:, 0], left.new_ones(m, 1)], dim=1) * scale[:, None]
        bases[:, step, : step + 1] = direction
        spread = torch.zeros_like(left).scatter_(1, picks[:, : step + 1], direction)
        length = (left[every, pick] * scale)[:, None]
        codes += length * spread
        left -= length * (spread @ gram)
    return codes
