"""When the kernels of this room are the way: to a product with a packed weight, and to the dense weight."""

import torch
from torch import Tensor, nn

FEW = 32
"""Vectors that are multiplied without making a weight dense. Beyond, that and PyTorch's product take less time
(lab/LOG.md)."""


def few(x: Tensor) -> bool:
    """Whether the kernels of this room are for products with x (…, n)."""
    return 0 < x.numel() <= FEW * x.shape[-1] and decodable(x)


def decodable(like: Tensor) -> bool:
    """Whether they are for making a weight dense that is to be as `like`.

    Not for a compiler, which fuses the decoding by itself, nor where gradients are asked for.
    """
    return (
        not torch.compiler.is_compiling()
        and like.device.type == "cpu"
        and like.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and not torch.is_grad_enabled()
        and type(like) in (Tensor, nn.Parameter)
    )
