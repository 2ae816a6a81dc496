"""Who gets how much: arithmetic on curves, without torch."""

from gossamer.budgets._base import Allocator as Allocator
from gossamer.budgets._base import allocator as allocator
from gossamer.budgets._bundles import Bundle as Bundle
from gossamer.budgets._bundles import Together as Together
from gossamer.budgets._bundles import alone as alone
from gossamer.budgets._bundles import joined as joined
from gossamer.budgets._bundles import spelled_out as spelled_out
from gossamer.budgets._bundles import tied as tied
