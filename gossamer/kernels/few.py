"""Whether vectors are few enough to be multiplied by a packed weight without making it dense."""

import torch
from torch import Tensor

FEW = 64
"""Vectors. Beyond, a dense weight and PyTorch's product take less time (lab/LOG.md)."""


def few(x: Tensor) -> bool:
    """Whether the kernels of this room are for x (…, n).

    Not for a compiler, which fuses the decoding by itself, nor where gradients are asked for.
    """
    return (
        not torch.compiler.is_compiling()
        and 0 < x.numel() <= FEW * x.shape[-1]
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and not torch.is_grad_enabled()
        and type(x) is Tensor
    )
