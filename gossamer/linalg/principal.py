"""The rows of a weight as an input metric sees them, in as few coordinates as they need."""

import torch
from torch import Tensor

from gossamer.linalg.cholesky import safe_cholesky
from gossamer.linalg.congruence import congruence


def principal_rows(weight: Tensor, gram: Tensor | None) -> Tensor:
    """Coordinates Y (m × min(m, n)) of the whitened rows of `weight` (m × n) in their principal axes.

    Y Yᵀ = W A Wᵀ with A = `gram` (n × n, positive semidefinite; None is the identity), and the columns of Y are
    orthogonal, the longest first. So for any S (m × k) the least of ‖Y − S B‖² over B is the least of
    tr((W − S D) A (W − S D)ᵀ) over D. Nothing is inverted, and only a tall weight needs a root of A.
    """
    m, n = weight.shape
    if m <= n:
        values, vectors = torch.linalg.eigh(congruence(weight, gram))
        rows: Tensor = vectors * values.clamp_min(0).sqrt()
    else:
        white = weight if gram is None else weight @ safe_cholesky(gram)
        rows = white @ torch.linalg.eigh(white.T @ white).eigenvectors
    return rows.flip(1)
