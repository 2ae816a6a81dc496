"""What was seen: sums over calibration tokens that stream, merge and save."""

from gossamer.statistics._base import Statistic as Statistic
from gossamer.statistics._gather import gather as gather
from gossamer.statistics._sums import Sums as Sums
from gossamer.statistics._sums import SumsFolder as SumsFolder
