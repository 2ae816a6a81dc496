"""The page of `explore`: the same pictures, with a budget that moves. It asks the server it came from for plans."""

from collections.abc import Mapping, Sequence
from html import escape
from math import ceil, floor, log10
from typing import Any

from gossamer.reports import _charts
from gossamer.reports._amounts import axis, counts, many, size
from gossamer.reports._page import chart, document, note, table
from gossamer.reports._pictures import MAP, model_data
from gossamer.vocabulary import Cost, Unit

Json = Mapping[str, Any]
SCALE: Mapping[Unit, float] = {"params": 1.0, "macs": 1.0, "bytes": 1e6, "bits": 1.0}
"""What one step of the unit's number on the page stands for in a budget."""


def page(land: Json, *, layers: str, of: str, others: Mapping[str, str], token: str, unread: Sequence[str] = ()) -> str:
    """The page of the model `of`, priced for its `layers`; `others` are all that the working folder holds, by identity.

    `unread` says what it holds beside them that cannot be shown, and why.
    `token` proves to the server that a request to write comes from this page.
    """
    units = sliders(land["frontiers"], land["dense"], land["total"])
    data = model_data(land) | {"units": units, "of": of, "token": token, "frontiers": land["frontiers"]}
    for unit in (slider["name"] for slider in units):
        line, title = land["frontiers"][unit], axis(unit, layers)
        data["charts"][f"frontier {unit}"] = _charts.frontier(line, [], unit, f"loss, {land['unit']}", title)
    left_out = "".join(note(f"Left out: {why}") for why in unread)
    body = f"{left_out}{_board(units, layers, of, others)}{_now(land, layers)}{MAP}"
    return document(land["model"], "Explore budgets", body, data, asks=True)


def figures(dense: Cost, total: Cost, small: Cost) -> dict[str, list[str]]:
    """For each unit what the plan takes, the dense model takes, and is kept; `total` is the whole dense model's."""
    whole = total.bytes - dense.bytes + small.bytes
    return {
        "params": [many(small.params, dense.params), many(dense.params), f"{small.params / dense.params:.3f}"],
        "macs": [many(small.macs, dense.macs), many(dense.macs), f"{small.macs / dense.macs:.3f}"],
        "bytes": [size(whole, total.bytes), size(total.bytes), f"{whole / total.bytes:.3f}"],
        "bits": [f"{c.bits / dense.params:.2f}" for c in (small, dense)] + [f"{small.bytes / dense.bytes:.3f}"],
    }


def sliders(frontiers: Mapping[Unit, Any], dense: Json, total: Json) -> list[dict[str, Any]]:
    """The sliders of all units in which there is room below the dense model; the costs are JSON."""
    most = {"params": 1.0, "macs": 1.0, "bytes": total["bytes"] / 1e6, "bits": 8 * dense["bytes"] / dense["params"]}
    found = (_slider(unit, frontiers[unit][0][0] / SCALE[unit], most[unit]) for unit in SCALE)
    return [slider for slider in found if slider["min"] <= slider["max"]]


def _slider(unit: Unit, least: float, most: float) -> dict[str, Any]:
    """From the smallest plan there is to just below the dense model, beginning at three tenths of the way down."""
    step = {"bytes": 10.0 ** (floor(log10(most)) - 2), "bits": 0.05}.get(unit, 0.005)
    low, high = ceil(least / step + 1e-9), ceil(most / step) - 1
    return {
        "name": unit,
        "of": {"bytes": "MB", "bits": "bits"}.get(unit, ""),
        "scale": SCALE[unit],
        "min": round(low * step, 6),
        "max": round(high * step, 6),
        "step": step,
        "start": round((low + round(0.7 * (high - low))) * step, 6),
    }


def _board(units: Sequence[Json], layers: str, of: str, others: Mapping[str, str]) -> str:
    choice = "".join(f'<option value="{u["name"]}">{counts(u["name"], layers)}</option>' for u in units)
    models = "".join(
        f'<option value="{escape(key)}"{" selected" if key == of else ""}>{escape(name)}</option>'
        for key, name in others.items()
    )
    picker = f'<p><label>Priced model <select id="of-model">{models}</select></label></p>' if len(others) > 1 else ""
    return (
        f'{picker}<section class="board" aria-label="Budget"><div class="slide">'
        f'<label for="amount">Keep</label><input type="range" id="amount">'
        f'<input type="number" id="exact" aria-label="Budget, exactly"><span id="of"></span>'
        f'<select id="unit" aria-label="Unit of the budget">{choice}</select></div>'
        '<button type="button" class="do" id="write" disabled>Write plan file</button>'
        '<p class="now">Predicted loss <b id="predicted">…</b><span id="bound"></span></p>'
        '<output id="said" aria-live="polite"></output></section>'
    )


def _now(land: Json, layers: str) -> str:
    rows = [
        (label, *(f'<span id="figure-{name}-{i}">…</span>' for i in range(3)))
        for name, label in (
            ("params", f"parameters, {layers}"),
            ("macs", f"multiply-adds a token, {layers}"),
            ("bytes", "size, whole model"),
            ("bits", f"bits a weight, {layers}"),
        )
    ]
    place = chart("frontier", "Least predicted loss over the budget", "")
    return (
        f'<section class="figures"><h2>What a budget costs</h2><p>The line is the least predicted loss '
        f"({escape(land['unit'])}) of any plan; nothing here is measured.</p>"
        f'<div class="two">{place}<div>{table(("", "this plan", "dense", "kept"), rows)}</div></div></section>'
    )
