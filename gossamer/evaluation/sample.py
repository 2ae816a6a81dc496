"""A short generation, for people to read."""

from typing import Any

import torch

TOKENS = 16


@torch.inference_mode()
def sample(model: Any, tokenizer: Any, prompt: str) -> str:
    """The most likely continuation of `prompt`, a sentence or so."""
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"].to(model.device)
    pad = model.config.eos_token_id if isinstance(model.config.eos_token_id, int) else 0
    written = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False, pad_token_id=pad
    )
    return str(tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True))
