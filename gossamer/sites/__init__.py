"""Where a weight lives in somebody's model: find it, read it, replace it."""

from gossamer.sites._base import Carrier as Carrier
from gossamer.sites._base import Host as Host
from gossamer.sites._base import TiedHead as TiedHead
from gossamer.sites._base import find as find
from gossamer.sites._base import host as host
from gossamer.sites._base import replace as replace
from gossamer.sites._base import tie as tie
from gossamer.sites._running import block_of as block_of
from gossamer.sites._running import frozen_twin as frozen_twin
from gossamer.sites._running import last_step as last_step
from gossamer.sites._running import output_of as output_of
from gossamer.sites._running import passes_dtype as passes_dtype
from gossamer.sites._running import run as run
from gossamer.sites._running import run_to_head as run_to_head
from gossamer.sites._stream import Layout as Layout
from gossamer.sites._stream import ShortcutCarrier as ShortcutCarrier
from gossamer.sites._stream import StreamNorm as StreamNorm
from gossamer.sites._stream import lay as lay
from gossamer.sites._stream import layout_of as layout_of
