"""gossamer report DIR"""

from pathlib import Path
from typing import Annotated

import typer

from gossamer.recipes.report import report


def run(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that gossamer wrote.")],
    out: Annotated[Path | None, typer.Option(help="File for the page.", show_default="DIR/report.html")] = None,
    beside: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Another compressed form of the same model, to stand beside; repeatable."),
    ] = None,
) -> None:
    """Draw what is in DIR as one page for the browser, which needs no network."""
    typer.echo(str(report(folder, out, beside or ())))
