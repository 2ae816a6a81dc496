"""nn.Linear, the weight stored as (m × n)."""

from torch import Tensor, nn

from gossamer.sites._base import Host


class Linear(Host):
    """Exactly `nn.Linear`: subclasses may compute something else."""

    @staticmethod
    def matches(module: nn.Module) -> bool:
        return type(module) is nn.Linear

    @staticmethod
    def weight(module: nn.Module) -> Tensor:
        assert isinstance(module, nn.Linear)
        return module.weight
