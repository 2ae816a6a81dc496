"""Rows as sparse combinations of the atoms of one dictionary: Y ≈ S D with few entries in every row of S."""

import torch
from torch import Tensor

from gossamer.linalg.cholesky import safe_cholesky
from gossamer.linalg.pursuit import largest, pursue

NEGLIGIBLE = 1e-8
"""Of the largest singular value of the codes, their columns at length one: directions below it are not solved for."""

START = 8
"""Steps with orthogonal atoms: they are cheap and leave half the error of principal axes."""

ROUNDS = 20
"""CoSpaDi has 60. On layers of SmolLM2-135M at 0.6 and 0.8 of their numbers, 60 leave 1 to 4 % less error than 20; on
one of 1536 × 576, where 20 leave a third less than the start, 40 leave another 5 % less."""


def start_error(rows: Tensor, count: int, sparsity: int) -> float:
    """What the first `count` principal axes cost as atoms, for `rows` (m × d) in principal coordinates.

    Half the energy that the largest `sparsity` of the first `count` coordinates of each row do not capture.
    """
    head = rows[:, :count].square()
    dropped = head.topk(max(head.shape[1] - sparsity, 0), dim=1, largest=False).values
    return 0.5 * float(dropped.sum() + rows[:, count:].square().sum())


def sparse_codes(rows: Tensor, count: int, sparsity: int) -> Tensor:
    """Codes (m × count), `sparsity` in a row, for `rows` (m × d, float64) in principal coordinates, and any atoms.

    They are scaled as `_of_unit_size` scales the rows. Codes for all rows by pursuit and atoms for all codes by least
    squares, in turn, from orthonormal atoms. All rounds but the last are done in float32.
    """
    rows = _of_unit_size(rows)
    rough = rows.float()
    atoms = _start(rough, count, sparsity)
    codes = pursue(rough, atoms, rough.new_zeros(len(rows), count), sparsity)
    for _ in range(ROUNDS):
        atoms, codes = best_atoms(rough, codes)
        codes = pursue(rough, atoms, codes, sparsity)
    return pursue(rows, atoms.double(), codes.double(), sparsity)


def orthogonal_codes(rows: Tensor, count: int, sparsity: int, steps: int) -> Tensor:
    """As `sparse_codes`, and orthonormal atoms; all of the `steps` (one or more) but the last are done in float32."""
    rows = _of_unit_size(rows)
    atoms = orthonormal_atoms(rows.float(), count, sparsity, steps - 1).double()
    return largest(rows @ better_orthonormal(rows, atoms, sparsity).T, sparsity)


def _of_unit_size(rows: Tensor) -> Tensor:
    """The rows with a mean square of one, so that float32 holds them; the best atoms are the same."""
    return rows / rows.square().mean().sqrt().clamp_min(1e-300)


def _start(rows: Tensor, count: int, sparsity: int) -> Tensor:
    """Orthonormal atoms, and where dimensions are fewer than atoms the rows that these code worst."""
    atoms = orthonormal_atoms(rows, min(count, rows.shape[1]), sparsity, START)
    rest = rows - largest(rows @ atoms.T, sparsity) @ atoms
    return torch.cat([atoms, _badly_coded(rows, rest, count - len(atoms))])


def _badly_coded(rows: Tensor, rest: Tensor, count: int) -> Tensor:
    """The `count` rows (m × d) of which most is left in `rest`, at length one."""
    worst = rest.square().sum(1).argsort(descending=True)[:count]
    return torch.nn.functional.normalize(rows[worst], dim=1)


def best_atoms(rows: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """(atoms (k × d) of length one or zero, codes (m × k) scaled to them): the least squares atoms for these codes.

    The method of optimal directions (Engan, Aase & Husøy 1999). An atom that no row uses becomes a badly coded row.
    """
    lengths = codes.norm(dim=0)
    unused = lengths == 0
    codes = codes / lengths.where(~unused, 1.0)
    gram = codes.T @ codes
    gram.diagonal().add_(10 * torch.finfo(gram.dtype).eps)
    atoms = torch.cholesky_solve(codes.T @ rows, safe_cholesky(gram))
    if unused.any():
        atoms[unused] = _badly_coded(rows, rows - codes @ atoms, int(unused.sum()))
    return torch.nn.functional.normalize(atoms, dim=1), codes * atoms.norm(dim=1)


def orthonormal_atoms(rows: Tensor, count: int, sparsity: int, steps: int) -> Tensor:
    """Orthonormal atoms (count × d, count ≤ d), `sparsity` of which shall code each of `rows` (m × d).

    `rows` are in principal coordinates, whose axes are the start.
    """
    atoms = torch.eye(count, rows.shape[1], dtype=rows.dtype, device=rows.device)
    for _ in range(steps):
        atoms = better_orthonormal(rows, atoms, sparsity)
    return atoms


def better_orthonormal(rows: Tensor, atoms: Tensor, sparsity: int) -> Tensor:
    """Orthonormal atoms (k × d) that code `rows` (m × d) no worse: COMPOT's two closed forms (arXiv 2602.15200).

    For orthonormal atoms D the best codes keep the largest entries in every row of Y Dᵀ, and for codes S the best
    orthonormal atoms are U Vᵀ with Sᵀ Y = U Σ Vᵀ (Procrustes).
    """
    return nearest_orthonormal(largest(rows @ atoms.T, sparsity).T @ rows)


def nearest_orthonormal(matrix: Tensor) -> Tensor:
    """The matrix (k × d, k ≤ d) with orthonormal rows that is nearest to `matrix`, one of them where it lacks rank."""
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    nearest: Tensor = left @ right
    return nearest


def best_dictionary(codes: Tensor, weight: Tensor) -> Tensor:
    """D = S⁺ W (k × n) for codes S (m × k): the best for these codes in every input metric.

    The error tr((W − S D) A (W − S D)ᵀ) has its minimum where Sᵀ (W − S D) A = 0, and S⁺ W makes the first two factors
    zero already; so the metric's root, which codes were found with, need not be undone.
    """
    lengths = codes.norm(dim=0)
    lengths = torch.where(lengths > 0, lengths, 1.0)
    solved: Tensor = torch.linalg.lstsq(codes / lengths, weight, rcond=NEGLIGIBLE, driver="gelsd").solution
    return (solved / lengths[:, None]).contiguous()  # LAPACK's order would round differently than the file's
