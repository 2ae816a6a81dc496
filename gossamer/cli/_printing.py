"""What every command does with its result: tables for people, JSON for programs, or nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from gossamer.recipes._teaching import Taught
from gossamer.reports import terminal
from gossamer.reports.progress import bar
from gossamer.vocabulary import Progress, silent

Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress and no tables; errors are still said.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def watcher(quiet: bool) -> Progress:
    """What shows how far a command has come."""
    return silent if quiet else bar


def show(draw: Callable[[Console], None], found: Callable[[], Any], *, quiet: bool, as_json: bool) -> None:
    """Print a result: `found()` as JSON where that is asked for, else what `draw` draws, unless all is to be quiet."""
    if as_json:
        typer.echo(json.dumps(found(), indent=1, default=str))
    elif not quiet:
        draw(terminal.console())


def show_taught(how: str, model: str, out: Path, done: Taught, *, quiet: bool, as_json: bool) -> None:
    """Print what a training gained, and what it took."""
    show(
        lambda c: terminal.taught(how, model, str(out), done.before, done.after, done.seconds, done.peak_memory, c),
        done.to_json,
        quiet=quiet,
        as_json=as_json,
    )
