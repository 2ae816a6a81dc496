"""Token windows for calibration and judging, each with the identity of the text it was cut from."""

from gossamer.data._windows import Windows as Windows
from gossamer.data._windows import cut as cut
from gossamer.data._windows import digest as digest
from gossamer.data._windows import frame as frame
from gossamer.data._windows import from_ids as from_ids
from gossamer.data.generated import generate as generate
from gossamer.data.text import read as read
