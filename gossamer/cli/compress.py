"""gossamer compress MODEL --keep 0.6 --out DIR"""

from rich.console import Console

from gossamer.cli import _options as o
from gossamer.recipes.compress import compress
from gossamer.reports import terminal
from gossamer.reports.progress import bar


def run(
    model: o.Model,
    out: o.Out,
    keep: o.Keep = None,
    bytes: o.Bytes = None,
    macs: o.Macs = None,
    text: o.Text = None,
    test: o.Test = None,
    tokens: o.Tokens = o.DEFAULTS.tokens,
    window: o.Window = o.DEFAULTS.window,
    seed: o.Seed = o.DEFAULTS.seed,
    method: o.Method = o.METHOD,
    metric: o.Metric = None,
    structures: o.Structures = None,
    allocator: o.Allocator = None,
    dtype: o.Dtype = o.DEFAULTS.dtype,
    tie: o.Tie = False,
    work: o.Work = None,
) -> None:
    """Compress MODEL to a budget and save it as a folder that loads with `import gossamer`."""
    done = compress(
        model,
        o.budget(keep, bytes, macs),
        out,
        o.settings(
            method,
            metric,
            structures,
            allocator,
            text=text,
            tokens=tokens,
            window=window,
            seed=seed,
            dtype=dtype,
            tie=tie,
        ),
        test=test,
        work=work,
        progress=bar,
    )
    console = Console()
    terminal.report(done.report, console)
    terminal.samples(done.report.samples, console)
