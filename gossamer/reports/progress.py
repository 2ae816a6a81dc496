"""A progress bar with the time left, on a terminal; a line for each step in a pipe."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")


def bar(label: str, items: Iterable[T], total: int) -> Iterator[T]:
    """Hand the items on, drawing how far the loop has come."""
    console = Console(stderr=True)
    if not console.is_terminal:
        console.print(f"{label}: {total}", highlight=False)
        yield from items
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
