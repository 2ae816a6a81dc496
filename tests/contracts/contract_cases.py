"""Random weights with the statistics they would have been measured with, and expressions of every kind."""

import contextlib
import copy
import importlib.util
import math
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from gossamer import discover, metrics, solvers, statistics, structures
from gossamer.errors import PlanError
from gossamer.expressions import Expression
from gossamer.expressions.picked_columns import PickedColumns
from gossamer.expressions.placed_rows import PlacedRows
from gossamer.expressions.shared_row import SharedRow
from gossamer.metrics import Metric
from gossamer.statistics import Statistic
from gossamer.structures import RankStructure, ShorterStructure, Structure
from gossamer.vocabulary import Cost, Shape


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
SHORTER = {name for name, kind in STRUCTURES.items() if issubclass(kind, ShorterStructure)}
"""Those whose numbers are shorter than the dense weight's, not fewer."""
ROUNDED = {*SHORTER, "quantized_low_rank"}
"""Those whose prices count on means over many roundings."""
OTHER_STRUCTURES = {name: kind for name, kind in STRUCTURES.items() if name not in {*RANK_STRUCTURES, "dense"}}
"""Those that no two factors of a rank give: samples of them come from their solvers."""
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


def metrics_for(structure: str) -> list[str]:
    """The metrics in which some solver fits a structure."""
    found = []
    for name, metric in METRICS.items():
        with contextlib.suppress(PlanError):
            solvers.choose(STRUCTURES[structure], metric)
            found.append(name)
    return found


@cache
def solved(structure: str, shape: Shape, size: int, seed: int = 0) -> Expression:
    """A random layer written in a structure, in the first metric that has a solver for it; not to be changed."""
    weight, inputs, gradients = layer(shape, seed=seed)
    form, metric = STRUCTURES[structure](), metrics_for(structure)[0]
    solver, ruler = solvers.choose(type(form), METRICS[metric]), weigh(metric, inputs, gradients)
    return solver.solve(weight, form, size, ruler, solver.prepare(weight, form, ruler))


def sample(structure: str, shape: Shape, size: int) -> Expression:
    """A random float64 expression of a structure; factors of exactly this rank where it takes factors."""
    if structure not in RANK_STRUCTURES:
        return copy.deepcopy(solved(structure, shape, size))
    return RANK_STRUCTURES[structure]().express(normal(size, shape[0], size), normal(size + 100, size, shape[1]))


def expressions_by_kind() -> Mapping[str, list[Expression]]:
    """Random float64 expressions of all the kinds that the structures build with, the parts of each included."""
    wholes = [
        sample(name, (m, n), r)
        for name in RANK_STRUCTURES
        for m, n, r in [(5, 7, 3), (7, 4, 2), (6, 6, 5), (1, 5, 1), (4, 4, 4)]
    ]
    for name, kind in OTHER_STRUCTURES.items():
        for shape in [(5, 7), (9, 6), (8, 8), (12, 18)]:
            sizes = kind().sizes(shape)
            wholes += [sample(name, shape, size) for size in {*sizes[:1], *sizes[-1:]}]
    for m, n, places in [(5, 7, [0, 3, 4]), (8, 3, [7]), (4, 4, [0, 1, 2, 3])]:  # what bottlenecks build with
        wholes.append(PlacedRows(normal(m, len(places), n), torch.tensor(places), m))
        wholes.append(PickedColumns(normal(n, n, len(places)), torch.tensor(places), m))
    for shape, size in [((9, 5), 3), ((4, 6), 2)]:  # what tables are written with
        left, right = normal(1, shape[0], size), normal(2, size, shape[1])
        wholes += [SharedRow(form().express(left, right), normal(3, shape[1])) for form in RANK_STRUCTURES.values()]
    found: dict[str, list[Expression]] = {}
    for part in (part for whole in wholes for part in whole.modules()):
        if isinstance(part, Expression):
            found.setdefault(part.kind, []).append(part)
    return found


def stored(expression: Expression) -> Cost:
    """What an expression costs as it is."""
    parameters, buffers = list(expression.parameters()), list(expression.buffers())
    packed = sum(part.packed() for part in expression.modules() if isinstance(part, Expression))
    return Cost(
        params=sum(p.numel() for p in parameters) + packed,
        bytes=sum(t.numel() * t.element_size() for t in [*parameters, *buffers]),
        macs=expression.macs(),
    )


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
