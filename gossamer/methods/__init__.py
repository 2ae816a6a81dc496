"""Published methods, each a choice among the other rooms: what weights become, what an error costs, who allocates."""

from gossamer.methods._base import Method as Method
from gossamer.methods._base import method as method
from gossamer.methods._base import settings as settings
