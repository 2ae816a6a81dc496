"""SVD-LLM: whitening by the inputs' second moment, uniform ranks (Wang et al. 2024, arXiv 2403.07378).

The whitening alone; the paper's later LoRA training is not part of it.
"""

from gossamer.methods._base import Method


class SVDLLM(Method):
    """The best low-rank layer outputs on the calibration text, every layer kept to the same share."""

    structures = ("low_rank",)
    metric = "activation"
    allocator = "uniform"
