"""Sequential rounding: entries go to a grid one after another, and those to come make good the error of each.

In the identity metric nothing is correlated and it is round-to-nearest. In the metrics of inputs alone it is GPTQ
(Frantar et al. 2022, arXiv 2210.17323) with the order of falling second moments and with scales that are fixed before,
so that no order of columns has to be stored. In the Kronecker Fisher metric errors are passed on to later rows too, by
the outputs' curvature, as they are to later columns by the inputs': the two-sided form of GPTQ.
"""

from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

from torch import Tensor

from gossamer.expressions import Expression
from gossamer.linalg.feedback import ROWS, Side, passed_on, rounded, side
from gossamer.linalg.grid import on_grid, row_grid, spread, stored, unit
from gossamer.linalg.quotes import quoted
from gossamer.metrics import KroneckerMetric, Metric
from gossamer.metrics._base import regularized
from gossamer.solvers._base import Solver
from gossamer.solvers._estimate import estimated
from gossamer.structures import QuantizedStructure, Structure

DAMPING = 0.01
"""Of the inputs' mean diagonal, GPTQ's own. The metric with an output side has a prior instead."""


class SequentialRounding(Solver):
    """The prices are estimates: the rounding error of a sample of rows, without any feedback, at the cost that feedback
    leaves to each of its entries.

    An entry's own rounding error is all that remains of it (see `linalg/feedback`), so what it costs is known before
    any weight is rounded: the product of the two sides' diagonals. The grids of all depths are fitted to the sample.
    """

    exact = False
    fed_back = True

    def accepts(self, structure: type[Structure], metric: type[Metric]) -> bool:
        return issubclass(structure, QuantizedStructure) and issubclass(metric, KroneckerMetric)

    def kept_as(self, structure: Structure) -> str:
        return f"{self.name}-{structure.name}"

    def prepare(self, weight: Tensor, structure: Structure, metric: Metric) -> dict[str, Tensor]:
        """`sizes` the structure offers for this weight, and their `errors`."""
        assert isinstance(structure, QuantizedStructure) and isinstance(metric, KroneckerMetric)
        inputs, outputs = sides(metric)
        m, n = weight.shape
        columns, rows = costs(inputs, n, weight), costs(outputs, m, weight)
        return estimated(
            weight,
            rows[:, None] * columns,
            structure.sizes((m, n)),
            lambda part, _, bits: plain(part, structure, bits, columns),
        )

    def prices(self, prepared: Mapping[str, Tensor], sizes: Sequence[int]) -> list[float]:
        return quoted(prepared, sizes)

    def solve(
        self, weight: Tensor, structure: Structure, size: int, metric: Metric, prepared: Mapping[str, Tensor]
    ) -> Expression:
        assert isinstance(structure, QuantizedStructure) and isinstance(metric, KroneckerMetric)
        return quantized(weight, structure, size, *sides(metric))

    def matrix(
        self, weight: Tensor, structure: Structure, size: int, metric: Metric, prepared: Mapping[str, Tensor]
    ) -> Tensor:
        """Not the very matrix of `solve`, but one whose errors are of the same kind, without its loop."""
        assert isinstance(structure, QuantizedStructure) and isinstance(metric, KroneckerMetric)
        inputs, outputs = sides(metric)
        own = weight - plain(weight, structure, size, costs(inputs, weight.shape[1], weight))
        return weight - passed_on(own, inputs, outputs)


def quantized(
    weight: Tensor, structure: QuantizedStructure, bits: int, inputs: Side | None, outputs: Side | None
) -> Expression:
    """The weight rounded with feedback on both sides."""
    m, n = weight.shape
    length = structure.length((m, n))
    levels, counts = structure.levels(bits), costs(inputs, n, weight)
    size = unit(weight)
    own = (weight / size).float()
    scales, points = row_grid(own, (counts / counts.max()).float(), length, levels, zeros=structure.zeros)
    # Codes are for the scales that will be stored, which for the smallest weights are others.
    scales = stored(scales.double() * size)
    codes = rounded(own, spread(scales / size, length, n), spread(points, length, n), levels, inputs, outputs)
    return structure.express(codes, scales, points, bits)


def sides(metric: KroneckerMetric, *, in_turn: bool = False) -> tuple[Side | None, Side | None]:
    """The metric's inputs and outputs for feedback, worked out once for every metric.

    In the order of falling second moments and for blocks of rows, or `in_turn`, one index after another.
    """
    kept = _SIDES.setdefault(metric, {})
    if in_turn not in kept:
        damping = DAMPING if metric.output is None else 0.0
        inputs = None if metric.input is None else side(regularized(metric.input, damping), in_turn=in_turn)
        outputs = None if metric.output is None else side(metric.output, 1 if in_turn else ROWS, in_turn=in_turn)
        kept[in_turn] = inputs, outputs
    return kept[in_turn]


_SIDES: WeakKeyDictionary[KroneckerMetric, dict[bool, tuple[Side | None, Side | None]]] = WeakKeyDictionary()


def costs(one: Side | None, count: int, like: Tensor) -> Tensor:
    """What the errors of each of `count` indices cost."""
    return like.new_ones(count) if one is None else one.cost


def plain(weight: Tensor, structure: QuantizedStructure, bits: int, costs: Tensor) -> Tensor:
    """The weight rounded to nearest, on grids that count an error by its column's cost."""
    m, n = weight.shape
    length = structure.length((m, n))
    levels = structure.levels(bits)
    scales, points = row_grid(weight, costs, length, levels, zeros=structure.zeros)
    return on_grid(weight, spread(scales, length, n), spread(points, length, n), levels)
