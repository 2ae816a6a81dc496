"""The page of one compressed model: what was asked, what came out, and where the loss goes."""

import shlex
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import PurePath
from typing import Any

from gossamer.errors import WorkError
from gossamer.reports import _charts
from gossamer.reports._amounts import OPTION, amount, axis, counts, many, rate, size
from gossamer.reports._layers import check
from gossamer.reports._page import chart, document, facts, note, table
from gossamer.reports._pictures import MAP, model_data
from gossamer.reports._words import LOSS, apart, became, method, ran, text, timed
from gossamer.vocabulary import Unit, counted, perplexity

Json = Mapping[str, Any]


def page(report: Any, landscape: Any | None, *, missing: str = "", beside: Mapping[str, Json] | None = None) -> str:
    """The page, from `report.json` and `landscape.json` as read.

    `beside` holds what was measured in the same way of other compressed forms of the model, by name: reports, or as
    much of one as there is (`asked`, `small_total` and `score` at least). Without a landscape the page says so, with
    the reason `missing`, and has no map and no frontier.
    Raises `WorkError` where they are not about the same model.
    """
    if landscape is not None and check(landscape)["digest"] != report["asked"]["digest"]:
        raise WorkError("landscape.json and report.json are not about the same model; compress it again.")
    asked = report["asked"]["budget"]
    body = [f'<p class="lead">{escape(_lead(report))}</p>', *map(note, report["notes"])]
    beside = beside or {}
    body.append(_figures(report, beside))
    data: dict[str, Any] = {"charts": {}}
    if landscape is None:
        body.append(note(f"No map and no frontier: {missing}"))
    else:
        data = model_data(landscape)
        body.append(_charted(report, landscape, beside, data["charts"]))
        body.append(MAP)
    body += [_samples(report["samples"]), _provenance(report, beside)]
    title = f"{report['model']} at {amount(asked['unit'], asked['amount'])}"
    return document(
        title,
        f"Compression report · {counts(asked['unit'], counted(report['asked']['settings']))}",
        "\n".join(body),
        data,
    )


def _lead(report: Json) -> str:
    score, kept = report["score"], report["small"]["params"] / report["dense"]["params"]
    whole = report["small_total"]["bytes"], report["dense_total"]["bytes"]
    said = (
        f"{100 * kept:.1f} % of the {counted(report['asked']['settings'])}’ parameters stay; "
        f"the weights take {size(whole[0])} instead of {size(whole[1])}."
    )
    if score["nats"] is not None:
        said += f" Perplexity goes from {perplexity(score['dense_nats']):.2f} to {perplexity(score['nats']):.2f}."
    what = apart(score["nats"])
    return f"{said} {what[0].upper()}{what[1:]}: {score['divergence']:.4f}."


def _figures(report: Json, beside: Mapping[str, Json]) -> str:
    """Dense and compressed side by side, and whatever is to stand beside them."""
    score, others = report["score"], list(beside.values())
    rows = []
    for name, old, key in (
        (counted(report["asked"]["settings"]), report["dense"], "small"),
        ("whole model", report["dense_total"], "small_total"),
    ):
        for unit, what, written in (
            ("params", "parameters", many),
            ("macs", "multiply-adds a token", many),
            ("bytes", "size", size),
        ):
            dense, small = old[unit], report[key][unit]
            more = [written(o[key][unit], dense) if _told(key, o, report) else "–" for o in others]
            rows.append((f"{name}, {what}", written(dense), written(small, dense), _bar(small / dense), *more))
    if score["nats"] is not None:
        old, new, *each = (perplexity(nats) for nats in (score["dense_nats"], *_each("nats", report, others)))
        rows.append(("perplexity", f"{old:.2f}", f"{new:.2f}", f"× {new / old:.3f}", *(f"{x:.2f}" for x in each)))
    mine, *theirs = (f"{x:.4f}" for x in _each("divergence", report, others))
    rows.append((apart(score["nats"]), "0", mine, "", *theirs))
    speed = report["speed"]
    fast = [rate(o["speed"]["compressed"]) if _same_machine(o, report) else "–" for o in others]
    ratio = f"× {speed['compressed'] / speed['dense']:.2f}"
    rows.append(("tokens a second, reading", rate(speed["dense"]), rate(speed["compressed"]), ratio, *fast))
    heads = ("", "dense", "compressed", "kept", *beside)
    said = f"Tokens a second: {timed(speed)}."
    if "–" in fast:
        said += " Where there is none (–), it was not measured, or elsewhere."
    if not all(_told("small", o, report) for o in others):
        said += " Of layers there is none (–) where it was not noted, or other weights were counted."
    shown = f'{table(heads, rows)}<p class="soft">{escape(said)}</p>{_wanted(report, beside)}'
    return f"<section><h2>What came out</h2>{shown}</section>"


def _each(key: str, report: Json, others: Sequence[Json]) -> list[float]:
    return [o["score"][key] for o in (report, *others)]


def _told(key: str, other: Json, report: Json) -> bool:
    """Whether the other has this cost, and of the weights that the report counts."""
    alike = counted(other["asked"]["settings"]) == counted(report["asked"]["settings"])
    return key == "small_total" or (key in other and alike)


def _same_machine(one: Json, other: Json) -> bool:
    """Whether speeds were measured alike."""
    there = [
        (o["speed"]["window"], *(o["machine"][k] for k in ("system", "threads", "torch")))
        for o in (one, other)
        if "speed" in o
    ]
    return len(there) == 2 and there[0] == there[1]


def _wanted(report: Json, beside: Mapping[str, Json]) -> str:
    """How to put a quantized model beside, where nothing is and the report is not about one."""
    dense, small = report["dense"], report["small"]
    shorter = small["bytes"] * dense["params"] < dense["bytes"] * small["params"]
    if beside or shorter:
        return ""
    same = _words(report, ["--bytes", str(report["small_total"]["bytes"])], "quantized", ["--method", "gptq"])
    draw = shlex.join(["gossamer", "report", report["out"], "--beside", "quantized"])
    return (
        "<details><summary>No quantized model of at most this size stands beside it</summary><p>These "
        f"make one, and draw it here:</p><pre><code>{escape(shlex.join(same))}\n{escape(draw)}</code></pre></details>"
    )


def _bar(share: float) -> str:
    return f'{share:.3f}<span class="bar"><i style="width:{min(100, round(100 * share))}%"></i></span>'


def _charted(report: Json, landscape: Json, beside: Mapping[str, Json], charts: dict[str, Any]) -> str:
    asked, unit = report["asked"]["budget"], landscape["unit"]
    title = axis(asked["unit"], counted(report["asked"]["settings"]))
    x = _amount_used(report)
    marks, points = _measured(report, landscape, x)
    if unit == LOSS:
        marks += [
            {"x": _amount_used(report, other), "y": other["score"]["divergence"], "what": f"{name}, measured"}
            for name, other in beside.items()
            if _told("small_total" if asked["unit"] == "bytes" else "small", other, report)
        ]
    charts["frontier"] = _charts.frontier(
        landscape["frontiers"][asked["unit"]], marks, asked["unit"], f"loss, {unit}", title
    )
    said = "; ".join(_marked(mark, asked["unit"], x) for mark in marks)
    first = chart("frontier", "Least predicted loss over the budget", f"At {amount(asked['unit'], x)}: {said}.")
    head = f"<section><h2>What a budget costs</h2><p>The line is the least predicted loss ({escape(unit)}) of any plan."
    if unit != LOSS:
        return f"{head} This metric counts no loss of the model, so nothing measured is beside it.</p>{first}</section>"
    charts["against"] = _charts.against(points, LOSS)
    pairs = "; ".join(f"{p['what']}: predicted {p['predicted']:.4g}, measured {p['measured']:.4g}" for p in points)
    second = chart("against", "Predicted against measured loss", f"Dashed: as predicted. {pairs}.")
    return (
        f"{head} Points are plans of this run, as predicted and as measured by the divergence from the dense model on "
        f'held-out text.</p><div class="two">{first}{second}</div></section>'
    )


def _marked(mark: Json, unit: Unit, x: float) -> str:
    """A mark in words, with the amount where it is not the one of the caption."""
    said = f"{mark['what']} {mark['y']:.4g}"
    return said if mark["x"] == x else f"{said} at {amount(unit, mark['x'])}"


def _amount_used(report: Json, other: Json | None = None) -> float:
    """What a compressed model, by default the report's, takes in the unit of the report's budget."""
    unit, taken = report["asked"]["budget"]["unit"], other or report
    if unit == "bytes":
        return float(taken["small_total"]["bytes"])
    if unit == "bits":
        return float(8 * taken["small"]["bytes"] / report["dense"]["params"])
    return float(taken["small"][unit] / report["dense"][unit])


def _measured(report: Json, landscape: Json, x: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(marks for the frontier, points for predicted against measured)."""
    chosen, loss = report["allocator"], report["score"]["divergence"]
    marks = [{"x": x, "y": report["predicted"], "what": f"{chosen}, predicted"}]
    points = [{"predicted": report["predicted"], "measured": loss, "what": f"{chosen}, on all held-out windows"}]
    if landscape["unit"] == LOSS:
        marks.append({"x": x, "y": loss, "what": f"{chosen}, measured"})
    windows = report["rival_windows"]
    on = f"on the first {windows} windows" if windows > 1 else "on the first window"
    for name, predicted in landscape["predicted"].items():
        measured = report["rivals"].get(name)
        if name != chosen:
            marks.append({"x": x, "y": predicted, "what": f"{name}, predicted"})
        if measured is not None:
            points.append({"predicted": predicted, "measured": measured, "what": f"{name}, {on}"})
    return marks, [p for p in points if p["predicted"] > 0 and p["measured"] > 0]


def _samples(texts: Json) -> str:
    if not texts:
        return ""
    prompt = escape(texts.get("prompt", "").lstrip())
    sides = "".join(
        f"<div><h3>{escape(name)}</h3><blockquote>{prompt}<b>{escape(text)}</b></blockquote></div>"
        for name, text in texts.items()
        if name != "prompt"
    )
    return (
        "<section><h2>How it writes</h2><p>The same beginning, continued (bold) by each model with its likeliest "
        f'tokens.</p><div class="two">{sides}</div></section>'
    )


def _provenance(report: Json, beside: Mapping[str, Json]) -> str:
    asked, score = report["asked"], report["score"]
    found = {
        "model": f"{report['model']}, digest {asked['digest']}",
        "calibrated on": text(asked["calibration"]),
        "judged on": f"{text(score['protocol'])}, {score['protocol']['dtype']}",
        "method": method(asked["settings"]),
        "weights": became(report["written"]),
        **{f"beside, {name}": _other(other) for name, other in beside.items()},
        "plan": f"{report['allocator']}, predicted loss {report['predicted']:.4g}, {report['unit']}",
        "seed": str(asked["settings"]["seed"]),
        **ran(report),
    }
    return (
        f"<section><h2>Provenance</h2>{facts(found)}<p>The same again:</p>"
        f"<pre><code>{escape(command(report))}</code></pre></section>"
    )


def _other(other: Json) -> str:
    asked = other["asked"]
    unit, much = asked["budget"]["unit"], asked["budget"]["amount"]
    then = "".join(f"; then {step}" for step in other.get("then", ()))
    return f"{amount(unit, much)}; {method(asked['settings'])}{then}"


def command(report: Json) -> str:
    """The command line that asks for the same, in another folder: a plan that was applied is still in the first."""
    if report["asked"].get("applied"):
        words = ["gossamer", "apply", str(PurePath(report["out"]) / "plan.json"), "--out", "again"]
        return shlex.join([*words, *_test(report["asked"])])
    settings, budget = report["asked"]["settings"], report["asked"]["budget"]
    option = f"--{OPTION[budget['unit']]}"
    how = ["--metric", settings["metric"], "--structures", ",".join(settings["structures"])]
    how += ["--allocator", settings["allocator"], *(["--tie"] if settings["tie"] else [])]
    return shlex.join(_words(report, [option, f"{budget['amount']:.12g}"], "again", how))


def _words(report: Json, budget: Sequence[str], out: str, how: Sequence[str]) -> list[str]:
    """A command line that judges under the same protocol."""
    settings = report["asked"]["settings"]
    words = ["gossamer", "compress", report["model"], *budget, "--out", out]
    if settings["text"] is not None:
        words += ["--text", settings["text"]]
    words += _test(report["asked"])
    words += ["--tokens", str(settings["tokens"]), "--window", str(settings["window"]), "--seed", str(settings["seed"])]
    words += [*how, "--dtype", settings["dtype"], *(["--embeddings"] if settings["embeddings"] else [])]
    return words


def _test(asked: Json) -> list[str]:
    """What names the text that judged, where one was given."""
    return [] if asked["test"] is None else ["--test", asked["test"]]
