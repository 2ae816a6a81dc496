"""Budgets by hand: plans from the curves of a working folder, in a page served on this machine alone."""

import json
import os
import secrets
import shlex
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from gossamer.checkpoints import saving
from gossamer.checkpoints.store import write_json
from gossamer.errors import BudgetError, GossamerError, OutputError, WorkError
from gossamer.recipes.measuring import default_work
from gossamer.recipes.planning import Bundles, asked, landscape, make_plan, remembered
from gossamer.recipes.pricing import Offer
from gossamer.reports import explore_page
from gossamer.reports._amounts import OPTION
from gossamer.vocabulary import NO_COST, Budget, Plan, Settings, counted

LOOPBACK = "127.0.0.1"


class Desk:
    """Answers the page: the offers of the folder `work`, the plan for a budget, and a plan as a file in `out`.

    Raises `WorkError` where the folder holds no prices that can be read, and `OutputError` where `out` cannot be one.
    """

    def __init__(self, work: Path, out: Path) -> None:
        if not os.path.isdir(work):
            raise WorkError(f"There is no folder {work}; give the --work folder of a run of 'gossamer plan'.")
        saving.standing(out)
        self.work, self.out = work, out
        self.token = secrets.token_urlsafe()
        notes = (note for note in work.glob("curves-*/asked-*.json") if note.parent.suffix != ".partial")
        found = sorted(notes, key=lambda path: path.stat().st_mtime, reverse=True)
        if not found:
            raise WorkError(
                f"{work} holds no prices to plan with; give the --work folder of a run of 'gossamer plan' or "
                "'gossamer compress'."
            )
        self._notes: dict[str, Path] = {}
        for path in found:
            self._notes.setdefault(path.stem.removeprefix("asked-"), path)  # the newest of a name
        self._names: dict[str, str] = {}
        self._unread: list[str] = []
        for of, note in self._notes.items():
            with self._noting():
                self._names[of] = _said(*asked(note))
        self._busy = threading.Lock()  # planning silences the process's output meanwhile, so one at a time
        self.offer = lru_cache(maxsize=2)(self._offer)
        self._bundles = lru_cache(maxsize=2)(self._bundled)
        self._planned = lru_cache(maxsize=64)(self._plan)
        self._newest()  # a folder of which nothing can be read is refused before anything is served

    def _offer(self, of: str) -> Offer:
        if of not in self._names:
            raise WorkError("The working folder holds no such model any more; start 'gossamer explore' again.")
        return remembered(self._notes[of])

    def page(self, of: str | None = None) -> str:
        """The page of one offer, by default of the newest."""
        of = of or self._newest()
        offer = self.offer(of)
        first = self._planned(of, self._start(of))
        with self._busy:
            land = landscape(offer, [first], self._bundles(of)).to_json()
        layers = counted(asdict(offer.settings))
        return explore_page.page(
            land, layers=layers, of=of, others=dict(self._names), token=self.token, unread=tuple(self._unread)
        )

    def _newest(self) -> str:
        """The newest offer that can be read; those before it are noted, and offered no more."""
        with self._busy:
            for of in list(self._names):
                with self._noting():
                    self.offer(of)
                    return of
                del self._names[of]
        raise WorkError(self._unread[0])

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """What cannot be read is left out, and the page says so: older runs may lie beside newer ones."""
        try:
            yield
        except GossamerError as error:
            self._unread.append(str(error))

    def _bundled(self, of: str) -> Bundles:
        offer = self.offer(of)
        return Bundles(offer, offer.settings.allocator)

    def _start(self, of: str) -> Budget:
        """Where the page's first slider begins; raises `BudgetError` where there is none."""
        offer, bundles = self.offer(of), self._bundles(of)
        with self._busy:
            lines = {unit: bundles.frontier(unit) for unit in explore_page.SCALE}
        dense = sum((c.dense.cost for c in offer.curves), NO_COST)
        first = next(iter(explore_page.sliders(lines, asdict(dense), asdict(offer.total))), None)
        if first is None:
            raise BudgetError(f"Nothing that {offer.model} was priced for is smaller than the dense model.")
        return Budget(unit=first["name"], amount=first["start"] * first["scale"])

    def plan(self, wanted: Mapping[str, str]) -> Plan:
        """The plan that `gossamer plan` makes for this budget."""
        try:
            unit, number = wanted["unit"], float(wanted["amount"])
            amount = number * explore_page.SCALE[unit]  # type: ignore[index]
        except (KeyError, TypeError, ValueError):
            raise BudgetError("Asked for no budget; reload the page.") from None
        return self._planned(wanted["of"], Budget(unit=unit, amount=amount))  # type: ignore[arg-type]

    def _plan(self, of: str, budget: Budget) -> Plan:
        offer = self.offer(of)
        with self._busy:
            return make_plan(offer, budget, offer.settings.allocator, self._bundles(of))

    def answer(self, wanted: Mapping[str, str]) -> dict[str, Any]:
        """A plan as the page draws it."""
        found, offer = self.plan(wanted), self.offer(wanted["of"])
        dense = sum((c.dense.cost for c in offer.curves), NO_COST)
        small = sum((o.cost for o in found.choices.values()), NO_COST)
        unit = found.budget.unit
        fixed = offer.total.bytes - dense.bytes
        dense_of = dense.params if unit == "bits" else dense.of(unit)
        return {
            "choices": {name: asdict(option) for name, option in found.choices.items()},
            "predicted": found.predicted,
            "bound": found.bound,
            "x": (small.bytes + fixed) / 1e6 if unit == "bytes" else small.of(unit) / dense_of,
            "figures": explore_page.figures(dense, offer.total, small),
        }

    def write(self, wanted: Mapping[str, str]) -> dict[str, Any]:
        """Write the plan file, and say where it is."""
        found = self.plan(wanted)
        unit = found.budget.unit
        amount = f"{found.budget.amount / explore_page.SCALE[unit]:g}{'MB' * (unit == 'bytes')}"
        path = self.out / f"plan-{OPTION[unit]}-{amount}.json"
        if path.exists():
            raise OutputError(f"{path} exists; remove it, or start 'gossamer explore' with another --out.")
        write_json(path, found.to_json())
        where = [] if self.work.resolve() == default_work().resolve() else ["--work", str(self.work)]
        return {"path": str(path), "command": shlex.join(["gossamer", "apply", str(path), "--out", "DIR", *where])}


def _said(model: str, s: Settings) -> str:
    return f"{model}, {s.text or 'own writing'}, {s.metric}, {'+'.join(s.structures)}, {s.allocator}"


def serve(desk: Desk, port: int) -> ThreadingHTTPServer:
    """A server for the desk on the loopback address, 0 for a free port; raises `OutputError` where that is taken."""
    try:
        return ThreadingHTTPServer((LOOPBACK, port), type("Handler", (_Handler,), {"desk": desk}))
    except (OSError, OverflowError) as error:
        raise OutputError(f"Port {port} cannot be used ({error}); give --port another, or 0 for any.") from error


class _Handler(BaseHTTPRequestHandler):
    desk: Desk

    def do_GET(self) -> None:
        if not self._for_us():
            return
        path, asked = self._target()
        if path == "/":
            try:
                self._send(200, "text/html", self.desk.page(asked.get("of")))
            except GossamerError as error:
                self._send(500, "text/plain", f"{error}\n")
        elif path == "/plan":
            self._json(lambda: self.desk.answer(asked))
        else:
            self._send(404, "text/plain", "There is nothing here.\n")

    def do_POST(self) -> None:
        if not self._for_us():
            return
        if not secrets.compare_digest(self.headers.get("X-Gossamer", "").encode(), self.desk.token.encode()):
            self._send(403, "text/plain", "Only the page itself may write; reload it.\n")
        elif self._target()[0] != "/write":
            self._send(404, "text/plain", "There is nothing here.\n")
        else:
            self._json(lambda: self.desk.write(json.loads(self._body())))

    def _target(self) -> tuple[str, dict[str, str]]:
        """The path that is asked for and what is asked of it; of what is no address an empty one."""
        try:
            found = urlsplit(self.path)
        except ValueError:
            return "", {}
        return found.path, {name: values[0] for name, values in parse_qs(found.query).items()}

    def _body(self) -> bytes:
        """At most 10 kB; raises `ValueError` where the request does not say how much there is."""
        return self.rfile.read(min(abs(int(self.headers.get("Content-Length", ""))), 10_000))

    def _for_us(self) -> bool:
        """Refuse what another site's page sends here under a name of its own."""
        name = self.headers.get("Host", "").partition(":")[0]  # port 80 is not said
        if name not in (LOOPBACK, "localhost"):
            self._send(403, "text/plain", f"Open this page as http://{LOOPBACK}.\n")
        return name in (LOOPBACK, "localhost")

    def _json(self, make: Any) -> None:
        try:
            found = make()
        except GossamerError as error:
            found = {"error": str(error)}
        except (ValueError, KeyError, TypeError, RecursionError):
            found = {"error": "The request was not understood; reload the page."}
        self._send(200, "application/json", json.dumps(found))

    def _send(self, code: int, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the terminal quiet."""
