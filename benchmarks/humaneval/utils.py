"""HumanEval: functions written from their signature and description, judged by running them.

With c of n completions of a problem right, the chance that one of k drawn from them is right is 1 - C(n-c, k) / C(n, k)
(Chen et al. 2021, "Evaluating Large Language Models Trained on Code", arXiv:2107.03374, equation 1).

What runs here was written by a model: `gossamer evaluate --run-code` confines the whole process. What is done below
keeps one program from disturbing the next, and is no wall.
"""

import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import comb
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

FILES = ("HumanEval.jsonl", "HumanEval.jsonl.gz")
SECONDS = 3.0
"""That a program may take."""
MEMORY, FILE = 2**32, 2**20
"""Bytes of addresses, and of any file, that it may take."""
REACHED = 73
"""The exit code of a program that came through its tests: one that merely ends has another."""
RUNNER = f"""
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY}))
resource.setrlimit(resource.RLIMIT_FSIZE, ({FILE}, {FILE}))
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def problems(folder: Path | None = None, **_: Any) -> Any:
    """The problems in the file that somebody put beside this one, as the harness wants them."""
    import datasets

    folder = folder or Path(__file__).parent
    path = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if path is None:
        raise FileNotFoundError(f"there is no {' or '.join(FILES)} in {folder}; copy it there")
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return {"test": datasets.Dataset.from_list([json.loads(line) for line in text.splitlines() if line.strip()])}


def judged(problem: Mapping[str, str], completions: Sequence[str]) -> dict[str, float]:
    """What the harness asks of one problem: pass@1, from however many completions there are."""
    right = sum(passes(problem, completion) for completion in completions)
    return {"pass@1": pass_at(1, len(completions), right)}


def pass_at(k: int, n: int, right: int) -> float:
    """The chance that one of `k` of `n` completions is right, `right` of them being so."""
    return 1 - comb(n - right, k) / comb(n, k)


def passes(problem: Mapping[str, str], completion: str, seconds: float = SECONDS) -> bool:
    """Whether the completed function passes the problem's tests, run in a process and an empty folder of its own."""
    check = f"{problem['test']}\ncheck({problem['entry_point']})\nraise SystemExit({REACHED})\n"
    with TemporaryDirectory(prefix="humaneval-", ignore_cleanup_errors=True) as folder:
        program = Path(folder) / "program.py"
        program.write_text(f"{problem['prompt']}{completion}\n{check}", encoding="utf-8", errors="replace")
        nothing = subprocess.DEVNULL
        words = [sys.executable, "-I", "-c", RUNNER, str(program)]
        with subprocess.Popen(
            words, cwd=folder, env={}, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True
        ) as started:
            try:
                return started.wait(seconds) == REACHED
            except subprocess.TimeoutExpired:
                return False
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(started.pid, signal.SIGKILL)  # what it may have started goes with it
