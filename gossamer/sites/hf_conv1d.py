"""transformers' Conv1D (GPT-2 and its kin): a linear layer whose weight is stored transposed, (n × m)."""

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from gossamer.sites._base import Host


class HFConv1D(Host):
    """Fused or not, it is one weight with its own outputs."""

    @staticmethod
    def matches(module: nn.Module) -> bool:
        return type(module) is Conv1D

    @staticmethod
    def weight(module: nn.Module) -> Tensor:
        weight: Tensor = module.weight  # type: ignore[assignment]
        return weight.T
