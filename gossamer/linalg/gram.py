"""Sums of outer products, computed and kept once for each pair of coordinates, give or take a panel."""

from collections.abc import Iterator

from torch import Tensor

PANEL = 128
"""Columns per panel: small enough to skip most of the upper triangle, large enough for full matrix-product speed
(two AVX-512 cores: 280 GFLOP/s counted as the full product, as with 256, against 165 for the full product itself)."""


def panels_numel(n: int) -> int:
    """How many numbers the panels of an n × n symmetric matrix hold."""
    return sum((n - start) * min(PANEL, n - start) for start in range(0, n, PANEL))


def _panels(flat: Tensor, n: int) -> Iterator[tuple[int, Tensor]]:
    """(first column, view of shape (n − first column) × width) for each panel of a flat buffer."""
    offset = 0
    for start in range(0, n, PANEL):
        height, width = n - start, min(PANEL, n - start)
        yield start, flat[offset : offset + height * width].view(height, width)
        offset += height * width


def add_gram(flat: Tensor, rows: Tensor) -> None:
    """Add rowsᵀ rows to the panels in `flat` (`panels_numel(n)`, float32) in place; `rows` is (tokens × n)."""
    rows = rows.to(flat.dtype)
    for start, panel in _panels(flat, rows.shape[1]):
        panel.addmm_(rows[:, start:].T, rows[:, start : start + PANEL])


def from_panels(flat: Tensor, n: int) -> Tensor:
    """The full symmetric matrix (n × n) whose panels `add_gram` filled."""
    full = flat.new_empty(n, n)
    for start, panel in _panels(flat, n):
        width = panel.shape[1]
        full[start:, start : start + width] = panel
        full[start : start + width, start + width :] = panel[width:].T
        corner = full[start : start + width, start : start + width]
        corner.copy_(0.5 * (corner + corner.T))  # a product's two triangles may differ by rounding
    return full
