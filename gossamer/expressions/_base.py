"""The promise of an expression, and how one is rebuilt from its JSON."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gossamer import discover
from gossamer.errors import ModelError, PlanError
from gossamer.vocabulary import Shape


class Expression(nn.Module, ABC):
    """A weight W (m × n) written as a tree whose leaves are ordinary parameters.

    Subclasses live one to a file; the file's name is the node's `kind` in JSON.
    """

    shape: Shape
    is_matrix: ClassVar[bool] = True
    """Whether `forward` is W and an offset; where something in between bends it, `dense` is the W without that."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """x (…, n) ↦ x Wᵀ (…, m), plus `offset` where the expression is affine."""

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
        """The weight W itself (m × n), computed by applying the expression to the unit vectors."""
        applied: Tensor = self(torch.eye(self.shape[1], **self._format())) - self.offset()
        return applied.T

    def offset(self) -> Tensor:
        """What is added to x Wᵀ (m), the answer to an input of zeros; zero unless the expression is affine."""
        added: Tensor = self(torch.zeros(self.shape[1], **self._format()))
        return added

    def packed(self) -> int:
        """How many numbers this node stores otherwise than as parameters, whatever their format."""
        return 0

    def check(self) -> None:
        """Raise `ValueError` where what this node read from a file cannot be, as an index out of range."""

    def rows(self, ids: Tensor) -> Tensor:
        """The rows of W for ids (…) as (…, n): a table of vectors looked up."""
        return F.embedding(ids, self.dense())

    def row_macs(self) -> int:
        """Multiply-adds to look one row up."""
        return self.macs()

    def _format(self) -> dict[str, Any]:
        # Buffers first: a leaf whose parameters have a format of their own has one that follows the model's.
        like = next(t for t in (*self.buffers(), *self.parameters()) if t.is_floating_point())
        return {"dtype": like.dtype, "device": like.device}

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
