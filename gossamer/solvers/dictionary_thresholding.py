"""Dictionary by thresholding: orthogonal atoms, whose best sparse codes are the largest coordinates.

Source: COMPOT (Makhov et al. 2026, arXiv 2602.15200). In the whitened space, two closed forms in turn: for orthonormal
atoms D the best codes keep the s largest entries in every row of Y Dᵀ, and for codes S the best orthonormal atoms are
U Vᵀ with Sᵀ Y = U Σ Vᵀ (Procrustes). Neither step raises the error. At last the atoms give up being orthogonal for
what is best with these codes.
"""

import torch
from torch import Tensor

from gossamer.linalg.pursuit import largest
from gossamer.metrics import InputMetric, Metric
from gossamer.solvers._dictionary import DictionarySolver
from gossamer.structures import Structure
from gossamer.structures._dictionary import kept
from gossamer.structures.orthogonal_dictionary import OrthogonalDictionary

STEPS = 20
"""The paper's."""


class DictionaryThresholding(DictionarySolver):
    """About a second for a 576 × 576 layer on one core: one small SVD a step."""

    def accepts(self, structure: type[Structure], metric: type[Metric]) -> bool:
        return issubclass(structure, OrthogonalDictionary) and issubclass(metric, InputMetric)

    def codes(self, rows: Tensor, count: int) -> Tensor:
        atoms = torch.eye(count, rows.shape[1], dtype=rows.dtype, device=rows.device)
        for _ in range(STEPS):
            atoms = nearest_orthonormal(largest(rows @ atoms.T, kept(count)).T @ rows)
        return largest(rows @ atoms.T, kept(count))


def nearest_orthonormal(matrix: Tensor) -> Tensor:
    """The matrix (k × d, k ≤ d) with orthonormal rows that is nearest to `matrix`, one of them where it lacks rank."""
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    nearest: Tensor = left @ right
    return nearest
