"""A triangular square root that exists for every second moment that rounding or too few samples can produce."""

import torch
from torch import Tensor

from gossamer.errors import NumericsError


def safe_cholesky(matrix: Tensor) -> Tensor:
    """Lower triangular L with L Lᵀ = matrix, plus the least jitter that makes the factorization succeed.

    `matrix` (n × n, float64) is symmetric and positive semidefinite up to rounding. The jitter starts at zero and
    grows from 1e-14 of the mean diagonal; a zero matrix gets the root of a tiny multiple of the identity. Raises
    `NumericsError` for a matrix that is not finite.
    """
    if not torch.isfinite(matrix).all():
        raise NumericsError("A second moment holds NaN or infinite values; check the calibration text and the model.")
    scale = float(matrix.diagonal().mean().clamp_min(0)) or 1.0
    jitter = 0.0
    while True:
        root: Tensor
        root, info = torch.linalg.cholesky_ex(matrix)
        if not int(info):
            return root
        jitter = max(jitter * 10, 1e-14)
        matrix = matrix.clone()
        matrix.diagonal().add_(jitter * scale)
