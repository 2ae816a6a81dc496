"""Dictionary by thresholding: orthogonal atoms, whose best sparse codes are the largest coordinates.

Source: COMPOT (Makhov et al. 2026, arXiv 2602.15200): two closed forms in turn (see `better_orthonormal`). At last the
atoms give up being orthogonal for what is best with these codes.
"""

from torch import Tensor

from gossamer.linalg.dictionary import orthogonal_codes
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
        return orthogonal_codes(rows, count, kept(count), STEPS)
