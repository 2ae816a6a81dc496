"""Text cut into disjoint windows of tokens."""

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gossamer.errors import TextError


@dataclass(frozen=True)
class Windows:
    """`ids` (windows × length, int64) and where they came from."""

    ids: Tensor
    source: str
    text_sha256: str
    special_tokens: bool

    def identity(self) -> dict[str, Any]:
        """What makes two sets of windows the same: the text, the very tokens, and how they were cut."""
        return {
            "source": self.source,
            "text_sha256": self.text_sha256,
            "ids_sha256": hashlib.sha256(self.ids.contiguous().numpy().tobytes()).hexdigest()[:16],
            "windows": len(self.ids),
            "window": self.ids.shape[1],
            "stride": self.ids.shape[1],
            "special_tokens": self.special_tokens,
        }


def frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The ids that an encoder's tokenizer puts before and after a text; a causal model's windows take none."""
    if getattr(tokenizer, "cls_token_id", None) is None or getattr(tokenizer, "sep_token_id", None) is None:
        return [], []
    return [tokenizer.cls_token_id], [tokenizer.sep_token_id]


def cut(text: str, source: str, tokenizer: Any, length: int) -> Windows:
    """Tokenize the whole text and cut it into disjoint windows of `length`, dropping the rest.

    Raises `TextError` where not even one window comes out.
    """
    head, tail = frame(tokenizer)
    room = length - len(head) - len(tail)
    if room < 2:
        raise TextError(f"A window of {length} tokens leaves no room for text; give a longer one with --window.")
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    count = len(ids) // room
    if not count:
        raise TextError(f"{source} has {len(ids)} tokens, fewer than one window of {room}; give a longer text.")
    body = torch.tensor(ids[: count * room], dtype=torch.int64).view(count, room)
    parts = [torch.tensor(x, dtype=torch.int64).expand(count, len(x)) for x in (head, tail)]
    return Windows(torch.cat([parts[0], body, parts[1]], 1), source, digest(text), bool(head or tail))


def digest(text: str) -> str:
    """A short name for a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def from_ids(ids: Tensor, source: str) -> Windows:
    """Windows of ids that never were text."""
    return Windows(ids, source, hashlib.sha256(ids.contiguous().numpy().tobytes()).hexdigest()[:16], False)
