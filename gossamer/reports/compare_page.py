"""The page of a comparison: who wins at each budget, by how much, and how far the predictions can be trusted."""

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from gossamer.reports import _charts
from gossamer.reports._amounts import axis
from gossamer.reports._page import chart, document, note, table
from gossamer.reports._words import LOSS, judged, machine, versions
from gossamer.reports.terminal import layers_of, leads, measure, remarks, what_is_compared, winners
from gossamer.vocabulary import Unit, labelled

Json = Mapping[str, Any]

BEYOND = 20.0
"""Times the dense model's perplexity that a chart reaches to at most: what is worse would press all else together."""


def page(comparison: Json) -> str:
    """The page, from `compare.json` as read."""
    cells = comparison["cells"]
    done = {key: cell for key, cell in cells.items() if "failed" not in cell}
    body = [*map(note, remarks(cells)), _table(cells)]
    charts: dict[str, Any] = {}
    if done:
        body.insert(0, f'<p class="lead">{escape(_lead(cells))}</p>')
        body.append(_charted(done, charts))
        body.append(_protocol(next(iter(done.values()))))
    body.append(_failed(cells))
    return document("Methods side by side", "Comparison under one protocol", "\n".join(body), {"charts": charts})


def _failed(cells: Json) -> str:
    failed = {key: cell["failed"] for key, cell in cells.items() if "failed" in cell}
    said = "".join(f"<li>{escape(f'{key}: {why}')}</li>" for key, why in failed.items())
    return f"<section><h2>What failed</h2><ul>{said}</ul></section>" if said else ""


def _lead(cells: Json) -> str:
    return " ".join(f"At {budget}: {who} is best." for budget, who in winners(cells).items() if who)


def _table(cells: Json) -> str:
    rows, budgets = (list(dict.fromkeys(key.partition(" ")[i] for key in cells)) for i in (0, 2))
    best = winners(cells)
    written = [(escape(row), *(_cell(cells.get(f"{row} {b}"), best[b] == row) for b in budgets)) for row in rows]
    said = "".join(f"<li>{escape(line)}</li>" for line in leads(cells))
    caption = f"{what_is_compared(cells)}; ★ marks the best."
    return f"<section><h2>Who wins where</h2>{table(('method', *budgets), written, caption)}<ul>{said}</ul></section>"


def _cell(cell: Json | None, best: bool) -> str:
    if cell is None or "failed" in cell:
        return "–" if cell is None else "failed"
    what, value = measure(cell)
    return f"{'*' * best}{value:.2f}" if what == "perplexity" and value < 1000 else f"{'*' * best}{value:.3g}"


def _charted(done: Json, charts: dict[str, Any]) -> str:
    what, dense = measure(next(iter(done.values())))[0], next(iter(done.values()))["dense_perplexity"]
    order = list(dict.fromkeys(key.partition(" ")[0] for key in done))
    lines: dict[Unit, list[dict[str, Any]]] = {}
    for key, cell in done.items():
        unit = labelled(key.partition(" ")[2])
        lines.setdefault(unit, []).append(
            {"what": key.partition(" ")[0], "x": _taken(cell, unit), "y": measure(cell)[1]}
        )
    found, most = "", math.inf if dense is None else BEYOND * dense
    for unit, points in lines.items():
        name, title = f"methods, {unit}", axis(unit, layers_of(done))
        charts[name] = _charts.methods(points, what, dense, title, order, most)
        said = "" if dense is None else f"Dashed: the dense model, {dense:.2f}."
        above = dict.fromkeys(p["what"] for p in points if p["y"] > most)
        if above:
            said += f" Beyond the chart, at more than {BEYOND:.0f} times that: {', '.join(above)}."
        found += chart(name, f"{what} over {title}", said)
    pairs = [
        {"what": k.partition(" ")[0], "predicted": c["predicted"], "measured": c["divergence"]}
        for k, c in done.items()
        if c["unit"] == LOSS and c["predicted"] > 0 and c["divergence"] > 0
    ]
    if pairs:
        charts["against"] = _charts.against(pairs, LOSS, order, _charts.COLOURS)
        said = "Dashed: as predicted. Only methods whose metric predicts a loss are here."
        found += chart("against", "Predicted against measured loss", said)
    return f'<section><h2>Frontiers</h2><div class="two">{found}</div></section>'


def _taken(cell: Json, unit: Unit) -> float:
    """What a cell took of the unit that it was given a budget in."""
    name = "kept" if unit == "params" else unit
    return float(cell[name]) / (1e6 if unit == "bytes" else 1.0)


def _protocol(cell: Json) -> str:
    on = f"{machine(cell['machine'])}, {versions(cell['machine'])}"
    return (
        f"<section><h2>Protocol</h2><p>Judged on {escape(judged(cell['protocol']))}. {escape(on)}. Every "
        "figure is in compare.csv and, with its settings, in compare.json.</p></section>"
    )
