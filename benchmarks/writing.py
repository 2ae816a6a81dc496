"""How fast compressed models write, token by token, and read, beside the dense model in the same run.

    python benchmarks/writing.py smollm2-135m small-in-4-bits small-with-zeros

Each is loaded in its turn, and the faster of two passes counts. Writing: so many tokens after a prompt, greedily,
with a cache of keys and values. Reading: one window of as many tokens at once.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

from gossamer.checkpoints.opening import open_model
from gossamer.evaluation.machine import machine

PROMPT, WRITTEN, READ = 16, 48, (8, 64, 256)


def timed(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


@torch.inference_mode()
def speeds(name: str, cache: Path) -> dict[str, float]:
    """Tokens a second."""
    model = open_model(name, cache).model.eval()
    ids = torch.randint(0, 1000, (1, max(READ)), generator=torch.Generator().manual_seed(0))
    model.generate(ids[:, :PROMPT], max_new_tokens=2, do_sample=False)
    passes: dict[str, tuple[int, Callable[[], object]]] = {
        "writing": (
            WRITTEN,
            lambda: model.generate(ids[:, :PROMPT], max_new_tokens=WRITTEN, min_new_tokens=WRITTEN, do_sample=False),
        )
    } | {f"reading {n}": (n, lambda n=n: model(ids[:, :n])) for n in READ}
    return {what: count / min(timed(each) for _ in range(2)) for what, (count, each) in passes.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="the dense model first")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/writing.json"))
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "gossamer")
    words = parser.parse_args()
    rows = {name: speeds(name, words.cache) for name in words.models}
    dense = rows[words.models[0]]
    for name, row in rows.items():
        print(name, *(f"{what} {each:.1f} (× {each / dense[what]:.2f})" for what, each in row.items()), sep="  ")
    kept = {"tokens a second": rows, "threads": torch.get_num_threads(), "machine": machine()}
    words.out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
