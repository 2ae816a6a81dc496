"""Charts as Vega-Lite specifications. Colours are the page's own, so that they follow light and dark."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

Spec = dict[str, Any]
Rows = Sequence[Mapping[str, Any]]

COLOURS = [f"var(--s{i})" for i in range(1, 8)]
PLANS = ["var(--ink)", "var(--warm)", "var(--grey)", "var(--s3)"]
SHAPES = ["circle", "diamond", "square", "triangle-up", "cross", "triangle-down", "triangle-right"]
AXIS = {
    "labelColor": "var(--soft)",
    "titleColor": "var(--soft)",
    "gridColor": "var(--line)",
    "domainColor": "var(--line)",
    "tickColor": "var(--line)",
    "labelFontSize": 12,
    "titleFontSize": 13,
    "titleFontWeight": "normal",
    "titlePadding": 8,
}
CONFIG = {
    "background": None,
    "font": "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif",
    "view": {"stroke": None},
    "axis": AXIS,
    "legend": {
        "labelColor": "var(--ink)",
        "titleColor": "var(--soft)",
        "titleFontWeight": "normal",
        "labelFontSize": 13,
        "labelLimit": 260,
        "orient": "top",
        "direction": "horizontal",
        "columns": 2,
        "title": None,
        "symbolSize": 90,
        "symbolStrokeWidth": 2,
    },
}
HEIGHT = 250
"""Of what is inside the axes: legends, of which some have many lines, come on top."""


def _spec(layers: Sequence[Spec], **more: Any) -> Spec:
    return {
        "width": "container",
        "height": HEIGHT,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "config": CONFIG,
        "layer": list(layers),
        **more,
    }


def _number(name: str, title: str, domain: Sequence[float] | None = None, log: bool = False) -> Spec:
    """A quantitative channel; a logarithmic one has lines at few numbers of each decade."""
    scale: Spec = {"type": "log"} if log else {"zero": False}
    axis: Spec = {"tickCount": 6}
    if domain is not None:
        scale["domain"] = list(domain)
    if log:
        axis = {"values": _ticks(domain), "format": "~g", "labelOverlap": "greedy"}
    lines = title.replace(", ", ",\n", 1).split("\n") if len(title) > 36 else title
    return {"field": name, "type": "quantitative", "title": lines, "scale": {"nice": False, **scale}, "axis": axis}


def _ticks(domain: Sequence[float] | None) -> list[float]:
    """Lines on a logarithmic axis: decades, some in each where there are few, and equal steps within less than one."""
    if domain is not None and domain[1] < 10 * domain[0]:
        rough = (domain[1] - domain[0]) / 6
        step = min((k * 10.0 ** math.floor(math.log10(rough)) for k in (1, 2, 5, 10)), key=lambda s: abs(s - rough))
        return [round(k * step, 12) for k in range(math.ceil(domain[0] / step), math.floor(domain[1] / step) + 1)]
    each = (1, 2, 5) if domain is not None and domain[1] <= 100 * domain[0] else (1,)
    return [k * 10.0**e for e in range(-15, 12) for k in each]


def _decades(values: Sequence[float], below: float = 1.0) -> list[float]:
    """Whole decades around positive values; `below` is how many of them more to show under the least one."""
    logs = [math.log10(v) for v in values if v > 0] or [0.0]
    return [10.0 ** (math.floor(min(logs)) - below + 1), 10.0 ** math.ceil(max(logs) + 1e-9)]


def frontier(line: Sequence[tuple[float, float]], marks: Rows, unit: str, loss: str, axis: str) -> Spec:
    """Least predicted loss over the budget, with plans on it; `marks` have x, y and what they are."""
    scale = 1e6 if unit == "bytes" else 1.0
    shown = [{"x": x / scale, "y": y} for x, y in line if y > 0]
    marked = [{**m, "x": m["x"] / scale} for m in marks]
    top = max([p["y"] for p in shown] + [m["y"] for m in marked], default=1.0)
    low = min([m["y"] for m in marked if m["y"] > 0], default=top / 1e3)
    ends = [max(low / 10, top / 1e6), top]
    kinds = [m["what"] for m in marked] or ["this plan"]
    x = _number("x", axis, [0, max([*(p["x"] for p in shown), *(1.03 * m["x"] for m in marked)], default=1.0)])
    y = _number("y", loss, _decades(ends), log=True)
    return _spec(
        [
            {
                "data": {"name": "line", "values": shown},
                "mark": {"type": "line", "color": "var(--accent)", "strokeWidth": 2, "clip": True},
                "encoding": {"x": x, "y": y},
            },
            {
                "data": {"name": "marks", "values": marked[::-1]},  # the first mark lies on top
                "mark": {"type": "point", "size": 130, "filled": True, "opacity": 1, "clip": True},
                "encoding": {
                    "x": x,
                    "y": y,
                    **_kinds(kinds, PLANS, kinds),
                    "tooltip": _tips(what="", x=axis, y=loss),
                },
            },
        ]
    )


def against(points: Rows, loss: str, kinds: Sequence[str] = (), colours: Sequence[str] = PLANS) -> Spec:
    """Predicted against measured loss, with the line on which they agree; `kinds` fix the order of the colours."""
    ends = _decades([p[k] for p in points for k in ("predicted", "measured")])
    x = _number("predicted", f"predicted loss, {loss}", ends, log=True)
    y = _number("measured", f"measured KL, {loss}", ends, log=True)
    shown = [p["what"] for p in points]
    return _spec(
        [
            {
                "data": {"values": [{"predicted": e, "measured": e} for e in ends]},
                "mark": {"type": "line", "color": "var(--grey)", "strokeDash": [4, 4], "strokeWidth": 1.5},
                "encoding": {"x": x, "y": y},
            },
            {
                "data": {"values": list(points)},
                "mark": {"type": "point", "size": 110, "filled": True, "opacity": 1},
                "encoding": {
                    "x": x,
                    "y": y,
                    **_kinds(kinds or shown, colours, shown),
                    "tooltip": _tips(what="", predicted="", measured=""),
                },
            },
        ]
    )


def spectrum(loss: str, kept: str, structures: Sequence[str], points: Rows) -> Spec:
    """What is lost over what is kept of one weight, in the numbers called `kept`.

    `structures` are in the order of their colours, dense first.
    """
    x = _number("kept", f"kept {kept} of this weight")
    x["scale"] = {"zero": True, "nice": False}  # what holds a part for others may keep more than all of itself
    x["axis"] = {"format": ".0%", "tickCount": 6}
    y = _number("loss", f"predicted loss, {loss}", log=True)
    y["axis"]["format"] = "~e"
    colours = [f"var(--s{i % 8})" for i in range(1, len(structures))]
    scale = {"domain": list(structures[1:]), "range": colours}
    colour = {"field": "structure", "type": "nominal", "scale": scale}
    shape = {"field": "structure", "type": "nominal", "scale": {**scale, "range": SHAPES}}
    tips = _tips(structure="", size="", kept="", loss="")
    return _spec(
        [
            {
                "data": {"name": "points", "values": list(points)},
                "mark": {"type": "line", "strokeWidth": 1.5},
                "encoding": {"x": x, "y": y, "color": colour},
            },
            {
                "data": {"name": "dots", "values": list(points)},
                "mark": {"type": "point", "filled": True, "size": 36, "opacity": 1},
                "encoding": {"x": x, "y": y, "color": colour, "shape": shape, "tooltip": tips},
            },
            {
                "data": {"name": "chosen", "values": []},
                "mark": {"type": "point", "shape": "circle", "size": 190, "color": "var(--ink)", "strokeWidth": 2.5},
                "encoding": {"x": x, "y": y, "tooltip": tips},
            },
        ]
    )


def methods(
    cells: Rows, measure: str, dense: float | None, axis: str, order: Sequence[str], most: float = math.inf
) -> Spec:
    """One line a method: `measure` (y) of each cell over what it took (x), up to `most`; dashed the dense model's.

    `order` of the methods fixes their colours.
    """
    values = [c["y"] for c in cells if c["y"] <= most] + ([] if dense is None else [dense])
    low, high = (end(c["x"] for c in cells) for end in (min, max))
    room = 0.06 * (high - low) or 0.02 * high
    x = _number("x", axis, [low - room, high + room])
    y = _number("y", measure, [0.9 * min(values), 1.1 * max(values)], log=min(values) > 0)
    encoding = {"x": x, "y": y, **_kinds(order, COLOURS, [c["what"] for c in cells if c["y"] <= most])}
    dots = {"type": "point", "size": 80, "filled": True, "opacity": 1, "clip": True}
    layers: list[Spec] = [
        {"mark": {"type": "line", "strokeWidth": 2, "clip": True}, "encoding": encoding},
        {"mark": dots, "encoding": {**encoding, "tooltip": _tips(what="", x=axis, y=measure)}},
    ]
    if dense is not None:
        rule = {"type": "rule", "strokeDash": [4, 4], "color": "var(--grey)"}
        layers.append({"data": {"values": [{"y": dense}]}, "mark": rule, "encoding": {"y": y}})
    return _spec(layers, data={"values": list(cells)}, height=HEIGHT + 80)


def _kinds(kinds: Sequence[str], colours: Sequence[str], shown: Sequence[str]) -> Spec:
    """Colour and shape for each kind, and a legend of those that are shown, where they are several.

    The colours begin again with other shapes when they are used up.
    """
    kinds, shown, n = list(dict.fromkeys(kinds)), list(dict.fromkeys(shown)), len(colours)
    legend = {"values": shown} if len(shown) > 1 else None

    def channel(drawn: Sequence[str]) -> Spec:
        scale = {"domain": kinds, "range": list(drawn)}
        return {"field": "what", "type": "nominal", "scale": scale, "legend": legend}

    return {
        "color": channel([colours[i % n] for i in range(len(kinds))]),
        "shape": channel([SHAPES[(i + i // n) % len(SHAPES)] for i in range(len(kinds))]),
    }


def _tips(**fields: str) -> list[Spec]:
    return [
        {"field": name, "title": title or name, **({} if name in ("what", "structure") else {"format": ".4~g"})}
        for name, title in fields.items()
    ]
