"""Who gets how much: arithmetic on curves, without torch."""

from gossamer.budgets._base import Allocator as Allocator
from gossamer.budgets._base import tied as tied
from gossamer.budgets._base import untied as untied
