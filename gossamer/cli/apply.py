"""gossamer apply plan.json --out DIR"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gossamer.cli import _options as o
from gossamer.recipes.compress import apply
from gossamer.reports import terminal
from gossamer.reports.progress import bar


def run(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan written by `gossamer plan`, edited or not.")],
    out: o.Out,
    test: o.Test = None,
    work: o.Work = None,
) -> None:
    """Carry out a plan as it stands."""
    done = apply(plan, out, test=test, work=work, progress=bar)
    console = Console()
    terminal.report(done.report, console)
    terminal.samples(done.report.samples, console)
