"""Perplexity of methods by budgets under one protocol: the table in benchmarks/results/compare.md.

    python benchmarks/compare.py --calibration wiki.valid.raw --test wiki.test.raw [--rows two_sided,…] [--keep 0.9,0.8]

Every cell is measured on the first 20,480 tokens of the test text in disjoint windows of 1,024,
float32, every token but the first of each window scored. Cells are kept in compare.json as they are done, so an
interrupted run goes on; a method that fails says so in its cell.
"""

import argparse
import json
import math
import platform
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

import gossamer.recipes.compress as street
from gossamer import Budget, GossamerError, Settings, data
from gossamer.evaluation import fidelity
from gossamer.recipes.pricing import price_model
from gossamer.reports.progress import bar

HERE = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """One method: how weights are priced, what they may become, who shares out the budget."""

    what: str
    settings: Settings
    allocator: str = "knapsack"


TOKENS = 16_384
ROWS = {
    "svd": Row(
        "plain SVD, uniform ranks", Settings(metric="identity", structures=("low_rank",), tokens=TOKENS), "uniform"
    ),
    "svd_llm": Row(
        "input-only whitening, uniform ranks (SVD-LLM)",
        Settings(metric="activation", structures=("low_rank",), tokens=TOKENS),
        "uniform",
    ),
    "two_sided_uniform": Row(
        "two-sided metric, uniform ranks", Settings(structures=("low_rank",), tokens=TOKENS), "uniform"
    ),
    "two_sided": Row("two-sided metric, global plan", Settings(structures=("low_rank",), tokens=TOKENS)),
    "pivoted": Row("two-sided metric, global plan, pivoted factors (the default)", Settings(tokens=TOKENS)),
    "pivoted_all": Row("the same, calibrated on the whole text", Settings(tokens=0)),
    "pivoted_own": Row("the same, calibrated on 16,384 tokens of the model's own writing", Settings(tokens=TOKENS)),
}


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--model", default="smollm2-135m")
    ask.add_argument("--calibration", required=True)
    ask.add_argument("--test", required=True)
    ask.add_argument("--rows", default=",".join(ROWS))
    ask.add_argument("--keep", default="0.9,0.8,0.6")
    ask.add_argument("--work", type=Path, default=Path("work"))
    ask.add_argument("--out", type=Path, default=HERE / "compare.json")
    given = ask.parse_args()
    cells = json.loads(given.out.read_text()) if given.out.exists() else {}
    for name in given.rows.split(","):
        row = ROWS[name]
        text = None if name.endswith("_own") else given.calibration
        row = replace(row, settings=replace(row.settings, text=text))
        keeps = [k for k in map(float, given.keep.split(",")) if "perplexity" not in cells.get(f"{name} {k:g}", {})]
        if keeps:
            cells |= {f"{name} {k:g}": c for k, c in measured(given, row, keeps).items()}
            write(given.out, cells)
        for keep in map(float, given.keep.split(",")):
            found = cells[f"{name} {keep:g}"]
            print(name, keep, found.get("perplexity", found.get("failed")), flush=True)


def measured(given: argparse.Namespace, row: Row, keeps: list[float]) -> dict[float, dict[str, object]]:
    """One row's cells; its budgets share the statistics, the curves, and the dense model's passes."""
    started = time.monotonic()
    try:
        priced = price_model(given.model, row.settings, work=given.work, progress=bar)
        plans = [street.make_plan(priced, Budget(unit="params", amount=keep), row.allocator) for keep in keeps]
        small = street.build(priced, plans, progress=bar)
        windows = data.cut(data.read(given.test), Path(given.test).name, priced.opened.tokenizer, 1024)
        windows = replace(windows, ids=windows.ids[:20])
        scores = fidelity.compare(priced.opened.model, small, windows, progress=bar)
    except GossamerError as error:
        return {keep: {"what": row.what, "failed": str(error)} for keep in keeps}
    shared = {
        "what": row.what,
        "allocator": row.allocator,
        "calibration": {**priced.calibration, "source": Path(str(priced.calibration["source"])).name},
        "settings": {**asdict(row.settings), "text": row.settings.text and Path(row.settings.text).name},
        "seconds_for_the_row": round(time.monotonic() - started, 1),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
    }
    dense = sum(c.dense.cost.params for c in priced.curves)
    return {
        keep: {
            **shared,
            "kept": sum(o.cost.params for o in plan.choices.values()) / dense,
            "perplexity": math.exp(score.nats or math.nan),
            "dense_perplexity": math.exp(score.dense_nats or math.nan),
            "standard_error_nats": score.standard_error,
            "divergence": score.divergence,
            "predicted": plan.predicted,
            "bound": plan.bound,
            "unit": plan.unit,
            "protocol": dict(score.protocol),
        }
        for keep, plan, score in zip(keeps, plans, scores, strict=True)
    }


def write(path: Path, cells: dict[str, dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(cells, indent=1) + "\n")
    budgets = sorted({key.split()[1] for key in cells}, key=float, reverse=True)
    lines = ["| perplexity, by kept parameters of the linear layers | " + " | ".join(budgets) + " |"]
    lines.append("|---|" + "---|" * len(budgets))
    for name, row in ROWS.items():
        found = [cells.get(f"{name} {b}", {}) for b in budgets]
        if any(found):
            shown = [f"{f['perplexity']:.1f}" if "perplexity" in f else str(f.get("failed", "–")) for f in found]
            lines.append(f"| {row.what} | " + " | ".join(shown) + " |")
    done = next((c for c in cells.values() if "protocol" in c), None)
    if done:
        p, dense = done["protocol"], done["dense_perplexity"]
        lines += [
            "",
            f"Dense: {dense:.2f}. Text {p['source']} (sha256 {p['text_sha256']}…, scored ids {p['ids_sha256']}…), ",
        ]
        lines[-1] += (
            f"{p['scored_tokens']} tokens scored in windows of {p['window']}, {p['dtype']}, no special tokens; "
        )
        lines[-1] += f"{done['machine']}."
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
