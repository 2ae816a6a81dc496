"""gossamer inspect MODEL"""

from rich.console import Console

from gossamer.cli import _options as o
from gossamer.recipes.pricing import price_model
from gossamer.reports import terminal
from gossamer.reports.progress import bar

SHARES = (75, 50, 25)


def run(
    model: o.Model,
    text: o.Text = None,
    tokens: o.Tokens = o.DEFAULTS.tokens,
    window: o.Window = o.DEFAULTS.window,
    seed: o.Seed = o.DEFAULTS.seed,
    method: o.Method = o.METHOD,
    metric: o.Metric = None,
    structures: o.Structures = None,
    dtype: o.Dtype = o.DEFAULTS.dtype,
    work: o.Work = None,
) -> None:
    """Show every layer of MODEL: its shape, what cutting its rank would cost, and its spectrum."""
    settings = o.settings(
        method, metric, structures, None, text=text, tokens=tokens, window=window, seed=seed, dtype=dtype
    )
    priced = price_model(model, settings, work=work, progress=bar)
    console = Console()
    for note in priced.notes:
        console.print(f"note: {note}", soft_wrap=True)
    terminal.sites(priced.sites, priced.curves, SHARES, priced.metric.unit, console)
