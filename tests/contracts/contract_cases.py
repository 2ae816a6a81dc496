"""Random weights with the statistics they would have been measured with, and expressions of every kind."""

import importlib.util
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from gossamer import discover, metrics, statistics, structures
from gossamer.expressions import Expression
from gossamer.expressions.affine import Affine
from gossamer.expressions.tensor_train import TensorTrain
from gossamer.metrics import Metric
from gossamer.statistics import Statistic
from gossamer.structures import RankStructure, Structure
from gossamer.vocabulary import Shape


def _tiny_models() -> ModuleType:
    """tests/conftest.py by its path: by its name another folder's may be found."""
    path = Path(__file__).parents[1] / "conftest.py"
    spec = importlib.util.spec_from_file_location("tiny_models", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny = _tiny_models()

STRUCTURES = discover.catalogue(structures, Structure)
RANK_STRUCTURES = {name: kind for name, kind in STRUCTURES.items() if issubclass(kind, RankStructure)}
METRICS = discover.catalogue(metrics, Metric)
STATISTICS = discover.catalogue(statistics, Statistic)


def normal(seed: int, *shape: int) -> Tensor:
    """Standard normal numbers in float64, the same for the same seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moments(names: Iterable[str], inputs: Tensor, gradients: Tensor) -> dict[str, Tensor]:
    """The named statistics of tokens with these inputs and gradients, as means in float64, by way of float32 sums."""
    shape = (gradients.shape[1], inputs.shape[1])
    found = {}
    for name in names:
        kind = STATISTICS[name]
        total = torch.zeros(kind.extent(shape))
        kind.add(total, inputs.float(), gradients.float())
        found[name] = kind.finished(total.double(), shape) / len(inputs)
    return found


def weigh(name: str, inputs: Tensor, gradients: Tensor, tokens: float = math.inf) -> Metric:
    """The metric with this name, of statistics measured on these tokens, taken for so many."""
    kind = METRICS[name]
    return kind((gradients.shape[1], inputs.shape[1]), moments(kind.needs, inputs, gradients), tokens)


def _plain(w: Tensor, x: Tensor, g: Tensor) -> None:
    pass


def _few_tokens(w: Tensor, x: Tensor, g: Tensor) -> None:
    keep = max(1, min(w.shape) // 2)
    x[keep:], g[keep:] = 0, 0


def _many_scales(w: Tensor, x: Tensor, g: Tensor) -> None:
    x.mul_(torch.logspace(-2, 2, x.shape[1], dtype=x.dtype))
    g.mul_(torch.logspace(-3, 1, g.shape[1], dtype=g.dtype))


def _dead_inputs(w: Tensor, x: Tensor, g: Tensor) -> None:
    x[:, ::3] = 0


def _silent_outputs(w: Tensor, x: Tensor, g: Tensor) -> None:
    g[:, ::3] = 0


def _zero_rows(w: Tensor, x: Tensor, g: Tensor) -> None:
    w[::2] = 0


def _rank_two(w: Tensor, x: Tensor, g: Tensor) -> None:
    w.copy_(w[:, :2] @ w[:2, :])


def _tiny_gradients(w: Tensor, x: Tensor, g: Tensor) -> None:
    g.mul_(1e-12)


CASES = {
    "plain": _plain,
    "few_tokens": _few_tokens,
    "many_scales": _many_scales,
    "dead_inputs": _dead_inputs,
    "silent_outputs": _silent_outputs,
    "zero_rows": _zero_rows,
    "rank_two": _rank_two,
    "tiny_gradients": _tiny_gradients,
}


def layer(shape: Shape, case: str = "plain", seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """(weight, inputs, gradients) of a layer whose inputs and gradients are correlated, with one peculiarity."""
    m, n = shape
    weight = normal(seed, m, n)
    inputs = normal(seed + 1, 200, n) @ normal(seed + 2, n, n)
    gradients = normal(seed + 3, 200, m) @ normal(seed + 4, m, m)
    CASES[case](weight, inputs, gradients)
    return weight, inputs, gradients


def svd_factors(weight: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Plain truncated SVD, as (left, right)."""
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    return u[:, :size] * s[:size], vh[:size]


TRAINS = [((3,), (4,)), ((2, 3), (3, 2)), ((5, 1), (1, 7)), ((2, 1, 3), (1, 4, 2)), ((1, 2, 2, 2), (2, 3, 1, 2))]
"""(row digits, column digits) of one to four cores."""


def _train(rows: tuple[int, ...], columns: tuple[int, ...]) -> TensorTrain:
    bonds = [1, *range(2, len(rows) + 1), 1]
    return TensorTrain([normal(k, bonds[k], i, columns[k], bonds[k + 1]) for k, i in enumerate(rows)])


def expressions_by_kind() -> Mapping[str, list[Expression]]:
    """Random float64 expressions of all kinds: trains, what rank structures build, a bias on it, and their parts."""
    found: dict[str, list[Expression]] = {"tensor_train": [_train(*digits) for digits in TRAINS]}
    for kind in RANK_STRUCTURES.values():
        for seed, (m, n, r) in enumerate([(5, 7, 3), (7, 4, 2), (6, 6, 5), (1, 5, 1), (4, 4, 4)]):
            whole = Affine(kind().express(normal(seed, m, r), normal(seed + 100, r, n)), normal(seed + 200, m))
            for part in whole.modules():
                if isinstance(part, Expression):
                    found.setdefault(part.kind, []).append(part)
    return found


def hessian(metric: Metric) -> Tensor:
    """The matrix (mn × mn) of a metric's quadratic form, read off by polarization."""
    m, n = metric.shape
    units = torch.eye(m * n, dtype=torch.float64).view(-1, m, n)
    single = [metric.error(unit) for unit in units]
    rows = [
        [metric.error(a + b) - metric.error(a - b) if i != j else 4 * single[i] for j, b in enumerate(units)]
        for i, a in enumerate(units)
    ]
    return torch.tensor(rows, dtype=torch.float64) / 2
