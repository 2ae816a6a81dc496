"""Dictionary by K-SVD: any atoms, codes by orthogonal matching pursuit.

Source: CoSpaDi (Makhov et al. 2025, arXiv 2509.22075) with K-SVD (Aharon, Elad & Bruckstein 2006). In the whitened
space, two steps in turn: pursue codes for all rows, then give each atom and its entries in the codes the leading
singular pair of what the other atoms leave open on the rows that use it, by power iteration.
Beyond the paper: a row keeps its old code where the pursuit found a worse one, so the error never rises; an atom that
no row uses becomes a badly coded row; and the dictionary is at last fitted to the codes without inverting the
whitening. The start is the paper's variant by singular vectors, not by random columns: it needs no seed.
"""

import torch
from torch import Tensor

from gossamer.linalg.pursuit import largest, pursue
from gossamer.metrics import InputMetric, Metric
from gossamer.solvers._dictionary import DictionarySolver
from gossamer.structures import Structure
from gossamer.structures._dictionary import kept
from gossamer.structures.dictionary import Dictionary

ROUNDS = 8
"""The paper has 60, on an A100. On weights of 96 × 288 and 192 × 192 with falling spectra, 30 rounds left 1 to 2 % less
error than 8; where the rows lay near a union of subspaces, up to two thirds less."""

POWER_STEPS = 8
"""The paper's."""


class DictionaryKSVD(DictionarySolver):
    """Slow: most of the time goes into the pursuit, which grows with m·s³.

    At 0.7 of its numbers a 192 × 576 layer took about a second on one core, a 576 × 576 layer 20 to 30; reckoned from
    that, a model of 100 million parameters takes some hours. `dictionary_thresholding` is the quick relative.
    """

    def accepts(self, structure: type[Structure], metric: type[Metric]) -> bool:
        return issubclass(structure, Dictionary) and issubclass(metric, InputMetric)

    def codes(self, rows: Tensor, count: int) -> Tensor:
        atoms = torch.eye(count, rows.shape[1], dtype=rows.dtype, device=rows.device)
        codes = largest(rows @ atoms.T, kept(count))
        for _ in range(ROUNDS):
            atoms, codes = one_round(rows, atoms, codes, kept(count))
        return codes


def one_round(rows: Tensor, atoms: Tensor, codes: Tensor, sparsity: int) -> tuple[Tensor, Tensor]:
    """Better (atoms, codes) for `rows` (m × d): pursuit with `sparsity` atoms a row, then an update of every atom."""
    pursued = pursue(rows, atoms, sparsity)
    gain = (rows - codes @ atoms).square().sum(1) - (rows - pursued @ atoms).square().sum(1)
    return update_atoms(rows, atoms, torch.where(gain[:, None] > 0, pursued, codes))


def update_atoms(rows: Tensor, atoms: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """(atoms (k × d), codes (m × k)) after one pass over the atoms; the codes' support does not grow."""
    atoms, codes = atoms.clone(), codes.clone()
    rest = rows - codes @ atoms
    badly_coded = iter(rest.square().sum(1).argsort(descending=True).tolist())
    for j in range(len(atoms)):
        users = codes[:, j].nonzero()[:, 0]
        if not len(users):
            atoms[j] = _unit(rows[next(badly_coded)])
            continue
        atom = atoms[j]
        part = rest[users] + torch.outer(codes[users, j], atom)
        for _ in range(POWER_STEPS):
            atom = _unit((part @ atom) @ part)
        atoms[j], codes[users, j] = atom, part @ atom
        rest[users] = part - torch.outer(codes[users, j], atom)
    return atoms, codes


def _unit(vector: Tensor) -> Tensor:
    unit: Tensor = vector / vector.norm().clamp_min(1e-300)
    return unit
