"""The model's own writing: calibration text that needs no download and no licence."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gossamer.errors import TextError
from gossamer.vocabulary import Progress, silent

BATCH = 64
"""Sequences written side by side."""


def generate(
    model: Any,
    count: int,
    length: int,
    *,
    seed: int,
    done: Tensor | None = None,
    keep: Callable[[Tensor], None] | None = None,
    progress: Progress = silent,
) -> Tensor:
    """`count` sequences of `length` ids, sampled from the model's BOS token at temperature one.

    The distribution is the model's own: nothing is cut off it, and an end-of-text token does not end a sequence but is
    followed by what the model puts after it. With `done` the writing goes on after these; `keep` gets all so far
    after each batch. Raises `TextError` for a model that cannot write.
    """
    config = model.config
    start = config.bos_token_id if config.bos_token_id is not None else config.eos_token_id
    if start is None or model.get_output_embeddings() is None or not model.can_generate():
        raise TextError(f"{type(model).__name__} cannot write its own calibration text; give one with --text FILE.")
    known = model.get_input_embeddings().weight.shape[0]
    if not 0 <= int(start) < known:
        raise TextError(
            f"{type(model).__name__} cannot write its own calibration text: it starts texts with token {start}, "
            f"and it knows {known}; mend bos_token_id in its config, or give a text with --text FILE."
        )
    written = [] if done is None else [done]
    first = 0 if done is None else len(done)
    starts = range(first, count, BATCH)
    steps = ((at, step) for at in starts for step in range(1, length))
    cache, rows = None, []
    generators: list[torch.Generator] = []
    for at, step in progress("write text", steps, len(starts) * (length - 1)):
        if step == 1:
            batch = range(at, min(at + BATCH, count))
            # One generator a sequence, so that what is written does not depend on how many are asked for.
            generators = [torch.Generator().manual_seed(seed * 1_000_003 + row) for row in batch]
            rows = [torch.full((len(batch), 1), int(start))]
            cache = None
        with torch.inference_mode():
            last = model(input_ids=rows[-1].to(model.device), past_key_values=cache, use_cache=True)
            cache = last.past_key_values
            chances = last.logits[:, -1].float().softmax(-1).cumsum(-1).cpu()
            draw = torch.cat([torch.rand(1, 1, generator=g) for g in generators]) * chances[:, -1:]
        rows.append(torch.searchsorted(chances, draw).clamp_max_(chances.shape[1] - 1))
        if step == length - 1:
            written.append(torch.cat(rows, 1))
            if keep:
                keep(torch.cat(written))
    return torch.cat(written)
