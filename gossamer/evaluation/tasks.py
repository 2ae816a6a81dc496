"""Benchmark tasks, through lm-evaluation-harness."""

from collections.abc import Sequence
from typing import Any

from gossamer.errors import ModelError


def run(model: Any, tokenizer: Any, names: Sequence[str], limit: int | None) -> dict[str, Any]:
    """The harness's results for the named tasks, with its version; `limit` examples of each, or all.

    Raises `ModelError` where the harness is not installed or does not know a task.
    """
    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise ModelError("Tasks run through lm-evaluation-harness: pip install 'gossamer[tasks]'.") from error
    try:
        found = lm_eval.simple_evaluate(
            model=HFLM(pretrained=model, tokenizer=tokenizer), tasks=list(names), limit=limit, bootstrap_iters=100
        )
    except (KeyError, ValueError, OSError, ConnectionError) as error:
        raise ModelError(f"The harness could not run {', '.join(names)}: {error}") from error
    return {"lm_eval": getattr(lm_eval, "__version__", "unknown"), "limit": limit, "results": found["results"]}
