"""The page of a compressed model that was trained: what that brought, and all that was done to the model."""

from collections.abc import Mapping
from html import escape
from typing import Any

from gossamer.reports._amounts import amount, many, size
from gossamer.reports._page import document, facts, table
from gossamer.reports._words import apart, method, ran, text
from gossamer.vocabulary import perplexity

Json = Mapping[str, Any]
DONE = {"heal": "healed", "refine": "refined"}
"""What came of a training, by the name of its step."""


def page(verb: str, taught: Json) -> str:
    """The page, from `heal.json` or `refine.json` as read; `verb` is the file's name."""
    body = [
        f'<p class="lead">{escape(_lead(verb, taught))}</p>',
        _figures(verb, taught),
        _steps(taught),
        _provenance(taught),
    ]
    title = f"{taught['history'][0]['model']}, compressed and {DONE[verb]}"
    return document(title, "Training report", "\n".join(body), {"charts": {}})


def _lead(verb: str, taught: Json) -> str:
    before, after = taught["before"], taught["after"]
    return (
        f"{DONE[verb].capitalize()} on {taught['windows']} windows: {apart(after['nats'])}, from "
        f"{before['divergence']:.4f} to {after['divergence']:.4f}. The size stays."
    )


def _figures(verb: str, taught: Json) -> str:
    dense, small = taught["dense_total"], taught["small_total"]
    rows: list[tuple[str, ...]] = []
    for unit, what, written in (
        ("params", "parameters", many),
        ("macs", "multiply-adds a token", many),
        ("bytes", "size", size),
    ):
        now = written(small[unit], dense[unit])
        rows.append((f"whole model, {what}", written(dense[unit]), now, now))
    before, after = taught["before"], taught["after"]
    if after["nats"] is not None:
        nats = (after["dense_nats"], before["nats"], after["nats"])
        rows.append(("perplexity", *(f"{perplexity(x):.2f}" for x in nats)))
    rows.append((apart(after["nats"]), "0", f"{before['divergence']:.4f}", f"{after['divergence']:.4f}"))
    return f"<section><h2>What came out</h2>{table(('', 'dense', 'compressed', DONE[verb]), rows)}</section>"


def _steps(taught: Json) -> str:
    said = "".join(f"<li>{escape(_step(step))}</li>" for step in taught["history"])
    return (
        f"<section><h2>What was done</h2><ol>{said}</ol><p>What each weight became is on the page of the folder that "
        f"was trained, <code>{escape(taught['name'])}</code>: training leaves it as it was.</p></section>"
    )


def _step(step: Json) -> str:
    settings = step["settings"]
    if "budget" in step:
        unit, much = step["budget"]["unit"], step["budget"]["amount"]
        return f"{step['step']}: {amount(unit, much)}; {method(settings)}; {text(step['calibration'])}"
    return f"{step['step']}: rate {settings['rate']:g}, seed {settings['seed']}; {text(step['calibration'])}"


def _provenance(taught: Json) -> str:
    first, judged = taught["history"][0], taught["after"]["protocol"]
    found = {
        "model": f"{first['model']}, digest {first['digest']}",
        "judged on": f"{text(judged)}, {judged['dtype']}",
        **ran(taught),
    }
    return f"<section><h2>Provenance</h2>{facts(found)}</section>"
