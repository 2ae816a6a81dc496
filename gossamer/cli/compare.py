"""gossamer compare MODEL --methods a,b --keep 0.9,0.6 --test FILE --out DIR"""

from pathlib import Path
from typing import Annotated

import typer

from gossamer import discover, methods
from gossamer.cli import _options as o
from gossamer.cli import _printing as p
from gossamer.recipes.compare import compare, methods_for
from gossamer.reports import terminal
from gossamer.vocabulary import Settings


def run(
    model: o.Model,
    test: Annotated[str, typer.Option(help="Text to judge by: a UTF-8 file or a Hub data set.")],
    out: Annotated[Path, typer.Option(help="Folder for compare.json and compare.csv; an unfinished one is continued.")],
    names: Annotated[
        str | None,
        typer.Option(
            "--methods",
            help="Methods, by commas: files of gossamer/methods.",
            show_default="all that can keep to such a budget",
        ),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(help="Kept fractions of the linear layers' parameters, by commas.", show_default=o.KEEPS),
    ] = None,
    bytes: Annotated[str | None, typer.Option(help="Sizes of the weights on disk, by commas, as 120MB,90MB.")] = None,
    macs: Annotated[str | None, typer.Option(help="Kept fractions of their multiply-adds, by commas.")] = None,
    bits: Annotated[str | None, typer.Option(help="Bits a weight of the linear layers, by commas, as 4,3.3.")] = None,
    text: o.Text = None,
    tokens: o.Tokens = o.DEFAULTS.tokens,
    window: o.Window = o.DEFAULTS.window,
    test_tokens: Annotated[int, typer.Option(help="Tokens to judge by; 0 for the whole text.")] = 20_480,
    test_window: Annotated[int, typer.Option(help="Tokens in a window of the test text.")] = 1024,
    seed: o.Seed = o.DEFAULTS.seed,
    dtype: o.Dtype = o.DEFAULTS.dtype,
    tie: o.Tie = False,
    embeddings: o.Embeddings = False,
    work: o.Work = None,
    quiet: p.Quiet = False,
    json: p.Json = False,
) -> None:
    """Compare methods at several budgets under one protocol; interrupted, the same command goes on."""
    budgets = o.budgets(keep, bytes, macs, bits)
    chosen = methods_for({budget.unit for budget in budgets}) if names is None else o.names(names)
    left = [name for name in discover.names(methods) if names is None and name not in chosen]
    if left and not quiet:
        typer.echo(f"not compared, as what they save is bytes (give --bits or --bytes): {', '.join(left)}", err=True)
    cells = compare(
        model,
        chosen,
        budgets,
        out,
        Settings(text=text, tokens=tokens, window=window, seed=seed, dtype=dtype, tie=tie, embeddings=embeddings),
        test=test,
        test_tokens=test_tokens,
        test_window=test_window,
        work=work,
        progress=p.watcher(quiet),
    )
    p.show(lambda c: terminal.comparison(cells, str(out), c), lambda: cells, quiet=quiet, as_json=json)
    if all("failed" in cell for cell in cells.values()):
        typer.secho("error: Every method failed at every budget; the cells say why.", fg="red", err=True)
        raise typer.Exit(1)
