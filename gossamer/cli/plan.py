"""gossamer plan MODEL --keep 0.6 --out plan.json"""

from pathlib import Path
from typing import Annotated

import typer

from gossamer.checkpoints.saving import new_file
from gossamer.checkpoints.store import write_json
from gossamer.cli import _options as o
from gossamer.cli import _printing as p
from gossamer.recipes.compress import plan
from gossamer.reports import terminal


def run(
    model: o.Model,
    out: Annotated[Path, typer.Option(help="New file for the plan.")],
    keep: o.Keep = None,
    bytes: o.Bytes = None,
    macs: o.Macs = None,
    bits: o.Bits = None,
    text: o.Text = None,
    tokens: o.Tokens = o.DEFAULTS.tokens,
    window: o.Window = o.DEFAULTS.window,
    seed: o.Seed = o.DEFAULTS.seed,
    method: o.Method = o.METHOD,
    metric: o.Metric = None,
    structures: o.Structures = None,
    allocator: o.Allocator = None,
    dtype: o.Dtype = o.DEFAULTS.dtype,
    tie: o.Tie = False,
    embeddings: o.Embeddings = False,
    work: o.Work = None,
    quiet: p.Quiet = False,
    json: p.Json = False,
) -> None:
    """Write the plan for a budget as JSON, to read, edit and carry out with `gossamer apply`."""
    new_file(out)
    made = plan(
        model,
        o.budget(keep, bytes, macs, bits),
        o.settings(
            method,
            metric,
            structures,
            allocator,
            text=text,
            tokens=tokens,
            window=window,
            seed=seed,
            dtype=dtype,
            tie=tie,
            embeddings=embeddings,
        ),
        work=work,
        progress=p.watcher(quiet),
    )
    write_json(out, made.to_json())
    rewritten = sum(option.structure != "dense" for option in made.choices.values())
    bound = f", no plan within the budget below {made.bound:.4f}" if made.bound else ""
    said = (
        f"{rewritten} of {len(made.choices)} layers rewritten, predicted loss {made.predicted:.4f} {made.unit}{bound}"
    )
    p.show(lambda c: terminal.line(f"{out}: {said}", c), made.to_json, quiet=quiet, as_json=json)
