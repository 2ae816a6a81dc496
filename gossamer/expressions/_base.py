"""The promise of an expression, and how one is rebuilt from its JSON."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from gossamer import discover
from gossamer.errors import ModelError, PlanError
from gossamer.vocabulary import Shape


class Expression(nn.Module, ABC):
    """A weight W (m × n) written as a tree whose leaves are ordinary parameters.

    Subclasses live one to a file; the file's name is the node's `kind` in JSON.
    """

    shape: Shape

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """x (…, n) ↦ x Wᵀ (…, m)."""

    @abstractmethod
    def tree(self) -> dict[str, Any]:
        """The node as JSON; `read(tree)` gives an expression of the same form with parameters yet to be filled."""

    @classmethod
    @abstractmethod
    def empty(cls, tree: dict[str, Any]) -> "Expression":
        """The inverse of `tree`, up to the values of the parameters."""

    @abstractmethod
    def macs(self) -> int:
        """Multiply-adds to apply the expression to one vector."""

    def dense(self) -> Tensor:
        """The weight itself (m × n), computed by applying the expression to the unit vectors."""
        like = next(p for p in self.parameters() if p.is_floating_point())
        applied: Tensor = self(torch.eye(self.shape[1], dtype=like.dtype, device=like.device))
        return applied.T

    @property
    def kind(self) -> str:
        return type(self).__module__.rpartition(".")[2]


def read(tree: dict[str, Any]) -> Expression:
    """The expression a tree describes, with empty parameters; raises `ModelError` where the tree is not sound."""
    import gossamer.expressions as room

    try:
        return discover.load(room, tree["kind"], Expression).empty(tree)  # type: ignore[type-abstract]
    except (LookupError, TypeError, ValueError, RuntimeError, PlanError) as error:
        raise ModelError(f"The model's config describes a weight that cannot be: {tree!r} ({error}).") from error
