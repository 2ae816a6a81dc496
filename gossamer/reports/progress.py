"""How far a loop has come and the time left: a bar on a terminal, lines now and then in a log."""

import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")

PAUSE = 30.0
"""Seconds between lines of a log about the same loop."""


def bar(label: str, items: Iterable[T], total: int) -> Iterator[T]:
    """Hand the items on, drawing how far the loop has come."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield from _logged(label, items, total, console)
        return
    columns = (
        TextColumn("{task.description:>12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(label, total=total)
        for item in items:
            yield item
            progress.advance(task)


def _logged(label: str, items: Iterable[T], total: int, console: Console) -> Iterator[T]:
    console.print(f"{label}: {total}", highlight=False)
    started = said = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - said > PAUSE and done < total:
            left = timedelta(seconds=round((now - started) / done * (total - done)))
            console.print(f"{label}: {done} of {total}, {left} left", highlight=False)
            said = now
