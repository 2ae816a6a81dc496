"""What a weight is: a tree of factors that applies itself, knows its shape, and reads and writes itself as JSON."""

from gossamer.expressions._base import Expression as Expression
from gossamer.expressions._base import read as read
from gossamer.expressions._pinned import PINNED as PINNED
from gossamer.expressions._pinned import Pinned as Pinned
