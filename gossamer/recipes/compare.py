"""Many methods by many budgets under one protocol, each method in a process of its own."""

import csv
import io
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, replace
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from transformers.utils.logging import disable_progress_bar

from gossamer import data, discover, methods, metrics
from gossamer.checkpoints import saving
from gossamer.checkpoints.opening import Opened, open_model
from gossamer.checkpoints.store import read_json, write_json, write_text
from gossamer.data import Windows
from gossamer.errors import BudgetError, GossamerError, OutputError, TextError
from gossamer.evaluation import fidelity
from gossamer.evaluation.machine import machine
from gossamer.evaluation.memory import peak_bytes
from gossamer.recipes.building import build
from gossamer.recipes.compress import reachable
from gossamer.recipes.measuring import FORMAT, default_work, windows_of
from gossamer.recipes.menus import Narrowings, rewriting
from gossamer.recipes.planning import make_plan
from gossamer.recipes.prices import PRICES_FORMAT
from gossamer.recipes.pricing import Priced, price_model, remember
from gossamer.recipes.probing import probed
from gossamer.reports import compare_page
from gossamer.vocabulary import NO_COST, Budget, Plan, Progress, Score, Settings, Site, Unit, silent

T = TypeVar("T")
Cells = dict[str, dict[str, Any]]
"""`"method budget"` (see `Budget.label`) → what was measured, or `{"failed": why}`."""


def compare(
    model: str,
    names: Sequence[str],
    budgets: Budget | Sequence[Budget],
    out: Path | str,
    settings: Settings | None = None,
    *,
    test: str,
    test_tokens: int = 20_480,
    test_window: int = 1024,
    work: Path | str | None = None,
    progress: Progress = silent,
) -> Cells:
    """Perplexity and divergence of each method at each of the budgets, on the text `test`.

    All methods share one pass over the calibration text. `settings` says which text and how much of it; the methods'
    own choices replace its metric, structures and allocator; methods that choose alike are measured once. Cells are
    kept in `out` (compare.json, compare.csv) as they are done, so that the same call goes on where it stopped; a method
    that fails says so in its cell.
    Raises `OutputError` where `out` is no folder, or holds a comparison under another protocol.
    """
    saving.standing(Path(out))
    base = settings or Settings()
    rows = {name: methods.settings(name, **_open(base)) for name in dict.fromkeys(names)}
    several = budgets if isinstance(budgets, Sequence) else [budgets]
    for budget in several:
        Budget.check(budget)
    if test_tokens < 0 or test_window < 2:
        raise TextError("Judging needs --test-tokens of at least 0 (0 for all) and a --test-window of at least 2.")
    asked = {budget.label: budget for budget in several}
    if not rows or not asked:
        raise BudgetError("A comparison needs methods and budgets, as --methods svd,pivoted --keep 0.9,0.6.")
    work = Path(work or default_work())
    identity = _identity(model, base, test, test_tokens, test_window, work)
    out = Path(out)
    cells = _kept(out, identity)
    needs = sorted({need for row in rows.values() for need in metrics.metric(row.metric).needs})
    for name, row in rows.items():
        cells |= _from_twins(cells, name, [other for other in rows if rows[other] == row], asked)
        lacking = {key: b for key, b in asked.items() if "perplexity" not in cells.get(f"{name} {key}", {})}
        if lacking:
            watch = partial(_named, progress, name)
            ask = (model, row, list(lacking.values()), needs, test, test_tokens, test_window, work, watch)
            for key, cell in zip(lacking, _apart(*ask), strict=True):
                cells[f"{name} {key}"] = cell
        found = {"identity": identity, "cells": cells}
        write_json(out / "compare.json", found)
        write_text(out / "compare.csv", _csv(cells))
        write_text(out / "compare.html", compare_page.page(found))
    return {f"{name} {key}": cells[f"{name} {key}"] for name in rows for key in asked}


def _from_twins(cells: Cells, name: str, twins: Sequence[str], keys: Collection[str]) -> Cells:
    """A method's cells where another of the same settings, which is the same by a second name, has them already."""
    return {
        f"{name} {key}": cells[f"{twin} {key}"]
        for key in keys
        for twin in twins
        if "perplexity" in cells.get(f"{twin} {key}", {}) and "perplexity" not in cells.get(f"{name} {key}", {})
    }


def methods_for(units: Collection[Unit]) -> list[str]:
    """The methods to compare at budgets in these units: where none counts bytes, those that shorten no numbers.

    Whatever else such a method may choose, what it is for would go unseen.
    """
    return [name for name in discover.names(methods) if not {"params", "macs"}.issuperset(units) or not _shortens(name)]


def _shortens(name: str) -> bool:
    return any(form.shortens for form in rewriting(methods.method(name).structures))


def _open(base: Settings) -> dict[str, Any]:
    """What a method leaves open."""
    named = ("metric", "structures", "allocator")
    return {name: value for name, value in asdict(base).items() if name not in named}


def _identity(model: str, base: Settings, test: str, test_tokens: int, test_window: int, work: Path) -> dict[str, Any]:
    opened = open_model(model, work, base.dtype)
    windows = _windows(opened, test, test_tokens, test_window)
    text = None if base.text is None else data.digest(data.read(base.text))
    calibration = {**_open(base), "text": text}
    return {
        "format": FORMAT,
        "prices": PRICES_FORMAT,
        "digest": opened.digest,
        "calibration": calibration,
        "test": {**windows.identity(), "source": None},
    }


def _windows(opened: Opened, test: str, tokens: int, window: int) -> Windows:
    windows = windows_of(opened, data.read(test), Path(test).name, window)
    return replace(windows, ids=windows.ids[: max(1, tokens // windows.ids.shape[1])]) if tokens else windows


def _kept(out: Path, identity: Mapping[str, Any]) -> Cells:
    """The cells that an earlier call with the same protocol left in `out`."""
    path = out / "compare.json"
    if not path.exists():
        if out.is_dir() and any(out.iterdir()):
            raise OutputError(f"{out} is not empty and holds no comparison; give --out a new folder.")
        return {}
    found = read_json(path)
    if not isinstance(found, dict) or found.get("identity") != identity:
        raise OutputError(
            f"{path} compares under another protocol (model, texts, settings or version of gossamer); give --out a new "
            "folder."
        )
    return dict(found["cells"])


def _apart(model: str, row: Settings, budgets: list[Budget], *ask: Any) -> list[dict[str, Any]]:
    """One method's cells, computed in a fresh process: its peak memory is its own, and it cannot take others along."""
    try:
        with ProcessPoolExecutor(1, get_context("spawn"), _begin) as pool:
            return pool.submit(_cells, model, row, budgets, *ask).result()
    except BrokenProcessPool:
        why = "its process ended early: most often too little memory, or a script that lacks the __main__ guard"
        return [{"failed": why}] * len(budgets)
    except Exception as error:  # whatever is wrong with one method must not take the others along
        return [{"failed": f"{type(error).__name__}: {error}"}] * len(budgets)


def _named(progress: Progress, name: str, label: str, items: Iterable[T], total: int) -> Iterator[T]:
    return progress(f"{name}: {label}", items, total)


def _begin() -> None:
    """In the fresh process: no bars of its own, and no life beyond that of the process that asked, however it ends."""
    disable_progress_bar()
    Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _cells(
    model: str,
    row: Settings,
    budgets: list[Budget],
    needs: Sequence[str],
    test: str,
    test_tokens: int,
    test_window: int,
    work: Path,
    progress: Progress,
) -> list[dict[str, Any]]:
    beyond: dict[Budget, str] = {}

    def check(opened: Opened, found: Sequence[Site], groups: Narrowings) -> None:
        for budget in budgets:
            try:
                reachable(opened, found, groups, row, budget)
            except BudgetError as error:
                beyond[budget] = str(error)
        if len(beyond) == len(budgets):
            raise BudgetError("All budgets are out of reach.")

    try:
        priced = price_model(model, row, work=work, also=needs, check=check, progress=progress)
        priced = probed(priced, progress=progress)
        remember(priced)
        plans = [beyond.get(budget) or _planned(priced, budget) for budget in budgets]
        started = time.monotonic()
        small = build(priced, [plan for plan in plans if isinstance(plan, Plan)], progress=progress)
        solved = time.monotonic()
        windows = _windows(priced.opened, test, test_tokens, test_window)
        scores = fidelity.compare(priced.recalled, small, windows, progress=progress) if small else []
    except GossamerError as error:
        return [{"failed": beyond.get(budget, str(error))} for budget in budgets]
    seconds = {
        **priced.seconds,
        "solve, all budgets": solved - started,
        "judge, all budgets": time.monotonic() - solved,
    }
    # Texts by the names of their files: a table travels, and where they lay on this machine says nothing.
    text, source = row.text and Path(row.text).name, Path(priced.calibration.source).name
    shared = {
        "settings": {**asdict(row), "text": text},
        "calibration": {**priced.calibration.identity(), "source": source},
        "seconds": {step: round(lap, 1) for step, lap in seconds.items()},
        "peak_memory": peak_bytes(),
        "machine": machine(),
        "notes": list(priced.notes),
    }
    left = iter(scores)
    return [
        {**_figures(priced, plan, next(left)), **shared} if isinstance(plan, Plan) else {"failed": plan}
        for plan in plans
    ]


def _planned(priced: Priced, budget: Budget) -> Plan | str:
    """The plan, or why there is none: one budget out of reach leaves the others."""
    try:
        return make_plan(priced.offer, budget, priced.settings.allocator)
    except BudgetError as error:
        return str(error)


def _figures(priced: Priced, plan: Plan, score: Score) -> dict[str, Any]:
    dense = sum((curve.dense.cost for curve in priced.curves), NO_COST)
    small = sum((option.cost for option in plan.choices.values()), NO_COST)
    return {
        "kept": small.params / dense.params,
        "macs": small.macs / dense.macs,
        "bits": small.bits / dense.params,
        "bytes": priced.total.bytes - dense.bytes + small.bytes,
        "perplexity": score.perplexity,
        "dense_perplexity": score.dense_perplexity,
        "standard_error_nats": score.standard_error,
        "divergence": score.divergence,
        "predicted": plan.predicted,
        "unit": plan.unit,
        "by_window": list(score.by_window),
        "protocol": dict(score.protocol),
    }


def _csv(cells: Cells) -> str:
    columns = (
        "kept",
        "macs",
        "bits",
        "bytes",
        "perplexity",
        "dense_perplexity",
        "standard_error_nats",
        "divergence",
        "predicted",
        "unit",
    )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("method", "asked", *columns, "peak_memory", "failed"))
    for key, cell in cells.items():
        writer.writerow((*key.split(" ", 1), *(cell.get(c, "") for c in (*columns, "peak_memory", "failed"))))
    return text.getvalue()
