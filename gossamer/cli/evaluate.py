"""gossamer evaluate DIR"""

from pathlib import Path
from typing import Annotated

import typer

from gossamer.cli import _options as o
from gossamer.cli import _printing as p
from gossamer.recipes.evaluate import evaluate
from gossamer.reports import terminal


def run(
    model: Annotated[str, typer.Argument(metavar="DIR", help="A folder that gossamer wrote, or any model.")],
    text: Annotated[
        str | None, typer.Option(help="Text to judge by; by default the one used when compressing.")
    ] = None,
    tokens: Annotated[int, typer.Option(help="Tokens to judge by; 0 for the whole text.")] = 20_480,
    window: Annotated[int, typer.Option(help="Tokens in a window.")] = 1024,
    dense: o.DenseModel = None,
    tasks: Annotated[str | None, typer.Option(help="lm-evaluation-harness tasks, by commas.")] = None,
    limit: Annotated[int | None, typer.Option(help="Examples of each task; by default all.")] = None,
    task_folder: Annotated[
        Path | None, typer.Option(help="A folder of tasks of your own, beside the harness's.")
    ] = None,
    run_code: Annotated[
        bool, typer.Option("--run-code", help="Let tasks as humaneval run, confined, the code the model writes.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write the figures as JSON to this new file.")] = None,
    work: o.Work = None,
    quiet: p.Quiet = False,
    json: p.Json = False,
) -> None:
    """Judge a compressed model: perplexity, KL divergence to the dense one, a sample, and tasks when asked."""
    found = evaluate(
        model,
        text,
        tokens=tokens,
        window=window,
        dense=dense,
        task_names=o.names(tasks or ""),
        limit=limit,
        task_folder=task_folder,
        run_code=run_code,
        out=out,
        work=work,
        progress=p.watcher(quiet),
    )
    p.show(
        lambda c: terminal.evaluation(
            found.model, found.dense, found.score, found.samples, found.tasks, found.notes, c
        ),
        found.to_json,
        quiet=quiet,
        as_json=json,
    )
