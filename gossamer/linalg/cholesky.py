"""A triangular square root that exists for every second moment that rounding or too few samples can produce."""

import torch
from torch import Tensor

from gossamer.errors import NumericsError


def safe_cholesky(matrix: Tensor) -> Tensor:
    """The root alone of what `lifted_cholesky` finds."""
    return lifted_cholesky(matrix)[0]


def lifted_cholesky(matrix: Tensor) -> tuple[Tensor, float]:
    """(lower triangular L with L Lᵀ = matrix + jitter · I, the jitter as a share of the mean diagonal).

    `matrix` (n × n, float64) is symmetric and positive semidefinite up to rounding. The jitter is about the least that
    makes the factorization succeed: it starts at zero and grows from 1e-14 of the mean diagonal; a zero matrix gets the
    root of a tiny multiple of the identity. Raises `NumericsError` for a matrix that is not finite.
    """
    if not torch.isfinite(matrix).all():
        raise NumericsError("A second moment holds NaN or infinite values; check the calibration text and the model.")
    scale = float(matrix.diagonal().mean().clamp_min(0)) or 1.0
    jitter = lifted = 0.0
    while True:
        root: Tensor
        root, info = torch.linalg.cholesky_ex(matrix)
        if not int(info):
            return root, lifted
        jitter = max(jitter * 10, 1e-14)
        lifted += jitter
        matrix = matrix.clone()
        matrix.diagonal().add_(jitter * scale)
