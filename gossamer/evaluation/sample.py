"""Short generations, for people to read."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

PROMPT = 24
TOKENS = 16


def samples(models: Mapping[str, Any], tokenizer: Any, ids: Tensor) -> dict[str, str]:
    """The text of the first `ids` (length) as "prompt", and how each model goes on; empty where they do not write."""
    if tokenizer is None or not all(model.can_generate() for model in models.values()):
        return {}
    prompt = tokenizer.decode(ids[:PROMPT], skip_special_tokens=True)
    return {"prompt": prompt, **{name: sample(model, tokenizer, prompt) for name, model in models.items()}}


@torch.inference_mode()
def sample(model: Any, tokenizer: Any, prompt: str) -> str:
    """The most likely continuation of `prompt`, a sentence or so."""
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"].to(model.device)
    pad = model.config.eos_token_id if isinstance(model.config.eos_token_id, int) else 0
    written = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False, pad_token_id=pad
    )
    return str(tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True))
