"""Reports as aligned text."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table

from gossamer.reports._amounts import counts, many, rate, size
from gossamer.reports._words import apart, became, judged, machine, timed, versions
from gossamer.vocabulary import Cost, Curve, Option, Report, Score, Site, Speed, counted, labelled

PAGE = "report.html"
UNLIMITED = 10_000
"""Columns of a pipe: what reads it finds a row on one line."""


def console() -> Console:
    """The standard output: as wide as the terminal, and never wrapped where there is none."""
    found = Console()
    return found if found.is_terminal else Console(width=UNLIMITED)


def line(text: str, console: Console, style: str | None = None) -> None:
    """Plain text, which the terminal wraps as it likes."""
    console.print(text, style=style, soft_wrap=True, highlight=False, markup=False)


def report(found: Report, console: Console) -> None:
    """The table at the end of `compress` and `apply`."""
    line(f"{found.model} → {found.out}", console)
    _notes(found.notes, console)
    table = Table()
    for heading in ("", "dense", "compressed", "kept"):
        table.add_column(heading, justify="left" if not heading else "right")
    table.add_column("", no_wrap=True)
    layers = counted(found.asked["settings"])
    _costs(table, layers, found.dense, found.small)
    _bits(table, layers, found.dense, found.small)
    _costs(table, "whole model", found.dense_total, found.small_total)
    _quality(table, found.score)
    _speed(table, found.speed)
    console.print(table)
    line(f"weights: {became(found.written)}", console)
    line(
        f"judged on {judged(found.score.protocol)}; allocation {found.allocator}, predicted loss "
        f"{found.predicted:.3f} ({found.unit}{_settled(found)}){_race(found)}",
        console,
    )
    line(f"tokens a second: {timed(asdict(found.speed))}", console)
    line(_spent(found.seconds, found.peak_memory), console)
    _page(found.out, console)
    samples(found.samples, console)


def _notes(notes: Sequence[str], console: Console) -> None:
    for note in notes:
        line(f"note: {note}", console, style="yellow")


def _page(out: str, console: Console) -> None:
    """Where the page is, if there is one."""
    if (Path(out) / PAGE).exists():
        line(f"page: {Path(out) / PAGE}", console)


def _spent(seconds: Mapping[str, float], peak: int) -> str:
    steps = ", ".join(f"{k} {v:.1f}" for k, v in seconds.items())
    return f"seconds: {steps}; total {sum(seconds.values()):.1f}; peak memory {peak / 1e9:.2f} GB"


def _settled(found: Report) -> str:
    """What the solvers made of the prediction, where they did not keep it to the digit."""
    return "" if f"{found.paid:.3f}" == f"{found.predicted:.3f}" else f"; {found.paid:.3f} as solved"


def _race(found: Report) -> str:
    if not found.rivals:
        return ""
    places = ", ".join(f"{name} {divergence:.4f}" for name, divergence in found.rivals.items())
    windows = "window" if found.rival_windows == 1 else f"{found.rival_windows} windows"
    what = "output error" if found.score.nats is None else "KL"
    return f"; {what} over the first {windows}: {places}"


def _costs(table: Table, name: str, dense: Cost, small: Cost) -> None:
    rows = (
        ("parameters", dense.params, small.params, many),
        ("multiply-adds a token", dense.macs, small.macs, many),
        ("bytes", dense.bytes, small.bytes, size),
    )
    for label, old, new, written in rows:
        table.add_row(f"{name}, {label}", written(old), written(new, old), f"{new / old:.3f}", _bar(new / old))


def _bar(share: float, width: int = 10) -> str:
    """A share as blocks, to an eighth of one."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def _bits(table: Table, name: str, dense: Cost, small: Cost) -> None:
    """What a weight of the dense layers takes on average, everything counted."""
    old, new = dense.bits / dense.params, small.bits / dense.params
    table.add_row(f"{name}, bits a weight", f"{old:.2f}", f"{new:.2f}", f"{new / old:.3f}")


def _quality(table: Table, score: Score) -> None:
    old, new = score.dense_perplexity, score.perplexity
    if old is not None and new is not None:
        table.add_row("perplexity", f"{old:.2f}", f"{new:.2f}", f"× {new / old:.3f}")
    table.add_row(apart(score.nats), "0", f"{score.divergence:.4f}", "")


def _speed(table: Table, speed: Speed) -> None:
    ratio = f"× {speed.compressed / speed.dense:.2f}"
    table.add_row("tokens a second, reading", rate(speed.dense), rate(speed.compressed), ratio)


def evaluation(
    model: str,
    dense: str | None,
    score: Score,
    texts: Mapping[str, str],
    tasks: Mapping[str, Any],
    notes: Sequence[str],
    console: Console,
) -> None:
    """The figures of `evaluate`; without a dense model to compare with, only the model's own."""
    title = f"{model}, compared with {dense}" if dense else model
    line(title, console)
    _notes(notes, console)
    table = Table()
    for heading in ("", "dense", "compressed", "ratio") if dense else ("", "model"):
        table.add_column(heading, justify="left" if not heading else "right")
    if dense:
        _quality(table, score)
    elif score.nats is not None:
        table.add_row("perplexity", f"{score.perplexity:.4f}")
        table.add_row("nats a token", f"{score.nats:.5f}")
    console.print(table)
    for key, value in score.protocol.items():
        line(f"{key:>14}: {value}", console)
    samples(texts, console)
    if tasks:
        console.print_json(json.dumps(tasks, default=str))


def taught(
    how: str, name: str, out: str, before: Score, after: Score, cost: Mapping[str, float], peak: int, c: Console
) -> None:
    """What a training gained (`how` heads its column), and what it took."""
    line(f"{name} → {out}", c)
    table = Table()
    for heading in ("", "dense", "compressed", how):
        table.add_column(heading, justify="left" if not heading else "right")
    if before.perplexity is not None and after.perplexity is not None:
        table.add_row(
            "perplexity", f"{before.dense_perplexity:.2f}", f"{before.perplexity:.2f}", f"{after.perplexity:.2f}"
        )
    table.add_row(apart(after.nats), "0", f"{before.divergence:.4f}", f"{after.divergence:.4f}")
    c.print(table)
    line(f"judged on {judged(after.protocol)}", c)
    line(_spent(cost, peak), c)
    _page(out, c)


def samples(texts: Mapping[str, str], console: Console) -> None:
    """The dense model's continuation beside the compressed one's."""
    for name, text in texts.items():
        line(f"{name}: {text!r}", console)


def sites(
    found: Sequence[Site], curves: Sequence[Curve], ranks: Sequence[int], unit: str, notes: Sequence[str], c: Console
) -> None:
    """`inspect`: one row a layer, with its predicted loss when a half, a quarter … of its rank is kept.

    On a narrow terminal what all names begin with is said once, and the spectra are shorter.
    """
    longest = max((len(site.name) for site in found), default=0)
    narrow = c.width < longest + 12 * len(ranks) + 40
    shared = _shared([site.name for site in found]) if narrow else ""
    line(f"predicted loss by kept rank, {unit}", c)
    _notes(notes, c)
    table = Table()
    table.add_column(f"{shared}…" if shared else "layer", overflow="fold")
    table.add_column("shape", justify="right", no_wrap=True)
    for share in ranks:
        table.add_column(f"{share}% rank", justify="right", no_wrap=True)
    table.add_column("spectrum", no_wrap=True)
    for site, curve in zip(found, curves, strict=True):
        options = _by_size(curve)
        full = min(site.shape)
        near = [_nearest(options, full * share / 100) for share in ranks] if options else []
        table.add_row(
            site.name.removeprefix(shared),
            f"{site.shape[0]}×{site.shape[1]}",
            *(f"{o.error:.3g}" for o in near) if near else ("–" for _ in ranks),
            _spark([o.error for o in options], 8 if narrow else 16),
        )
    c.print(table)


def _shared(names: Sequence[str]) -> str:
    """The dotted parts that all names begin with."""
    parts = zip(*(name.split(".")[:-1] for name in names), strict=False)
    return "".join(f"{each[0]}." for each in takewhile(lambda each: len(set(each)) == 1, parts))


def _by_size(curve: Curve) -> list[Option]:
    return sorted((o for o in curve.options if o.structure != "dense"), key=lambda o: o.size)


def layers(found: Sequence[Site], curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """What `inspect` knows, for programs: every layer with all that it could become."""
    return [
        {**asdict(site), "options": [asdict(option) for option in curve.options]}
        for site, curve in zip(found, curves, strict=True)
    ]


def _nearest(options: Sequence[Option], size: float) -> Option:
    return min(options, key=lambda o: abs(o.size - size))


def _spark(errors: Sequence[float], width: int) -> str:
    """The predicted loss over rising rank as a row of bars, on a logarithmic scale of six decades."""
    if not errors:
        return ""
    top = max(errors) or 1.0
    picked = [errors[i * (len(errors) - 1) // (width - 1)] for i in range(width)]
    heights = [0.0 if e <= 0 else max(0.0, 1 + math.log10(e / top) / 6) for e in picked]
    return "".join("▁▂▃▄▅▆▇█"[min(7, int(h * 8))] for h in heights)


def comparison(cells: Mapping[str, Mapping[str, Any]], out: str, console: Console) -> None:
    """`compare`: a row a method, a column a budget; who wins each budget, and how far behind the others are."""
    rows = list(dict.fromkeys(key.partition(" ")[0] for key in cells))
    best = winners(cells)
    budgets = list(best)
    line(what_is_compared(cells), console)
    _notes(remarks(cells), console)
    table = Table()
    table.add_column("method")
    for budget in budgets:
        table.add_column(budget, justify="right")
    for row in rows:
        table.add_row(row, *(_cell(cells[f"{row} {b}"], best[b] == row) for b in budgets))
    console.print(table)
    for lead in leads(cells):
        line(lead, console)
    failed = {key: cell["failed"] for key, cell in cells.items() if "failed" in cell}
    for key, why in failed.items():
        line(f"{key} failed: {why}", console, style="yellow")
    done = next((cell for cell in cells.values() if "protocol" in cell), None)
    if done is not None:
        dense = "" if done["dense_perplexity"] is None else f"dense {done['dense_perplexity']:.2f}; "
        on = done["machine"]
        line(f"{dense}judged on {judged(done['protocol'])}; {machine(on)}, {versions(on)}", console)
    line(f"page: {Path(out) / 'compare.html'}", console)


def what_is_compared(cells: Mapping[str, Mapping[str, Any]]) -> str:
    """What stands in the cells, and what their columns count."""
    units = dict.fromkeys(labelled(key.partition(" ")[2]) for key in cells)
    done = next((measure(cell)[0] for cell in cells.values() if "failed" not in cell), "perplexity")
    return f"{done} by {', by '.join(counts(unit, layers_of(cells)) for unit in units)}"


def remarks(cells: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Every note of the cells once, behind the methods that it is about: "all" where those are more than one."""
    about: dict[str, list[str]] = {}
    done = list(dict.fromkeys(key.partition(" ")[0] for key, cell in cells.items() if "failed" not in cell))
    for key, cell in cells.items():
        for note in cell.get("notes", ()):
            about.setdefault(note, []).append(key.partition(" ")[0])
    named = {note: list(dict.fromkeys(methods)) for note, methods in about.items()}
    return [f"{'all' if len(done) > 1 and at == done else ', '.join(at)}: {note}" for note, at in named.items()]


def measure(cell: Mapping[str, Any]) -> tuple[str, float]:
    """(what a cell is ranked by, its figure): an encoder, which predicts no tokens, has no perplexity."""
    if cell["perplexity"] is None:
        return "divergence from the dense model", cell["divergence"]
    return "perplexity", cell["perplexity"]


def layers_of(cells: Mapping[str, Mapping[str, Any]]) -> str:
    """The layers that budgets of these cells are about."""
    return counted(next((cell["settings"] for cell in cells.values() if "settings" in cell), {}))


def winners(cells: Mapping[str, Mapping[str, Any]]) -> dict[str, str | None]:
    """Budget → the method that is best there, None where all failed."""
    columns: dict[str, dict[str, Mapping[str, Any]]] = {}
    for key, cell in cells.items():
        method, _, budget = key.partition(" ")
        columns.setdefault(budget, {})[method] = cell
    return {budget: _best(column) for budget, column in columns.items()}


def leads(cells: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """For each budget who is best, and by how much."""
    return [_lead(winner, budget, cells) for budget, winner in winners(cells).items() if winner is not None]


def _best(column: Mapping[str, Mapping[str, Any]]) -> str | None:
    done = {row: measure(cell)[1] for row, cell in column.items() if "failed" not in cell}
    return min(done, key=lambda row: done[row]) if done else None


def _cell(cell: Mapping[str, Any], best: bool) -> str:
    if "failed" in cell:
        return "failed"
    shown = f"KL {cell['divergence']:.4f}" if cell["perplexity"] is None else _short(cell["perplexity"])
    return f"[bold]{shown} *[/bold]" if best else shown


def _short(perplexity: float) -> str:
    return f"{perplexity:.2f}" if perplexity < 1000 else f"{perplexity:.1e}"


def _lead(winner: str, budget: str, cells: Mapping[str, Mapping[str, Any]]) -> str:
    """The others' mean loss above the winner's, the nearest first, with the standard error over windows, in pairs."""
    mine = cells[f"{winner} {budget}"].get("by_window") or []
    behind: dict[str, list[float]] = {}
    for key, cell in cells.items():
        theirs = cell.get("by_window") or []
        method, _, at = key.partition(" ")
        if at == budget and method != winner and len(theirs) == len(mine) > 1:
            behind[method] = [b - a for a, b in zip(mine, theirs, strict=True)]
    told = ", ".join(
        f"{method} +{fmean(rises):.3f} ± {stdev(rises) / math.sqrt(len(rises)):.3f}"
        for method, rises in sorted(behind.items(), key=lambda each: fmean(each[1]))
    )
    return f"{budget}: {winner} is best" + (f"; nats a token above it: {told}" if told else "")
