"""What the pages of one model share: the map with the weight that is picked on it, and their data."""

from collections.abc import Mapping
from typing import Any

from gossamer.reports import _charts, _layers

MAP = """
<section class="figures">
<h2>Where it goes</h2>
<p>Each cell is one weight: layers side by side, kinds of weights below each other. Pick one, by pointer or with the
arrow keys, to see its spectrum.</p>
<fieldset><legend>Colour by</legend>
<label><input type="radio" name="by" value="kept" checked> what is kept</label>
<label><input type="radio" name="by" value="loss"> predicted loss</label>
<label><input type="radio" name="by" value="structure"> structure</label>
</fieldset>
<div class="map" role="group" aria-label="Map of the model, layer by weight"></div>
<div class="key"></div>
<div class="picked two">
<div aria-live="polite"><h3></h3><dl></dl></div>
<figure><div class="chart" data-chart="spectrum" role="group" aria-label="Spectrum of the picked weight"></div>
<figcaption></figcaption></figure>
</div>
<details class="weights"><summary>All weights as a table</summary>
<div class="scroll"><table><thead><tr><th scope="col">weight</th><th scope="col">shape</th>
<th scope="col" class="text">structure</th><th scope="col">size</th><th scope="col">kept</th>
<th scope="col">predicted loss</th><th scope="col">share of it</th></tr></thead><tbody></tbody></table></div></details>
</section>
"""

NUMBERS = {"params": "parameters", "bytes": "bytes"}
"""What the pages call what is kept of a weight."""


def model_data(landscape: Mapping[str, Any]) -> dict[str, Any]:
    """What the script needs to draw the map, from a landscape as JSON."""
    rows, columns, where = _layers.place([weight["name"] for weight in landscape["weights"]])
    chosen = landscape["choices"]
    structures = ["dense", *sorted({way for weight in landscape["weights"] for way in weight["ways"]})]
    first = max(range(len(where)), key=lambda i: chosen[landscape["weights"][i]["name"]]["error"], default=0)
    ways = landscape["weights"][first]["ways"] if where else {}
    points = [
        {"structure": n, "size": s, "kept": k, "loss": y} for n, rows in ways.items() for s, k, y in rows if y > 0
    ]
    kept = NUMBERS[landscape["kept_in"]]
    return {
        "unit": landscape["unit"],
        "kept_in": landscape["kept_in"],
        "kept": kept,
        "rows": rows,
        "columns": columns,
        "weights": [{**w, "row": r, "column": c} for w, (r, c) in zip(landscape["weights"], where, strict=True)],
        "choices": chosen,
        "structures": structures,
        "first": first,
        "charts": {"spectrum": _charts.spectrum(landscape["unit"], kept, structures, points)},
    }
