"""What an error in a weight costs."""

from gossamer.metrics._base import DiagonalMetric as DiagonalMetric
from gossamer.metrics._base import InputMetric as InputMetric
from gossamer.metrics._base import KroneckerMetric as KroneckerMetric
from gossamer.metrics._base import Metric as Metric
from gossamer.metrics._base import metric as metric
from gossamer.metrics._base import times as times
from gossamer.metrics._table import TableMetric as TableMetric
