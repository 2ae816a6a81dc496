"""gossamer explore WORK"""

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from gossamer.recipes.explore import LOOPBACK, Desk, serve


def run(
    work: Annotated[Path, typer.Argument(metavar="WORK", help="The working folder of any plan, compress or compare.")],
    out: Annotated[Path, typer.Option(help="Folder for the plans that the page writes.")] = Path(),
    port: Annotated[int, typer.Option(help="Port on this machine; 0 for any that is free.")] = 0,
) -> None:
    """Move the budget by hand in a page on this machine, and see the plan, the map and the predicted loss follow."""
    with serve(Desk(work, out), port) as server, contextlib.suppress(KeyboardInterrupt):
        typer.echo(f"http://{LOOPBACK}:{server.server_port}/  (Ctrl-C ends it)")
        server.serve_forever()
