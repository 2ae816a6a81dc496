"""gossamer export DIR --to dense --out NEW"""

from typing import Annotated

import typer

from gossamer.checkpoints.export import to_dense
from gossamer.checkpoints.opening import open_model
from gossamer.cli import _options as o
from gossamer.errors import OutputError
from gossamer.recipes.measuring import default_work


def run(
    model: Annotated[str, typer.Argument(metavar="DIR", help="A folder that gossamer wrote.")],
    out: o.Out,
    to: Annotated[str, typer.Option(help="What to write: dense, a stock model for any tool.")] = "dense",
) -> None:
    """Write a compressed model in a form that needs no gossamer."""
    if to != "dense":
        raise OutputError(f"Nothing can be written as {to!r}; give --to dense, a stock model for any tool.")
    opened = open_model(model, default_work())
    to_dense(opened.model, opened.tokenizer, out)
    typer.echo(f"{out}: every expression multiplied out; it is as large and as fast as the dense model was")
