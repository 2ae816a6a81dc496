"""Quantized: rounding with error feedback on both sides of every weight, and one plan over all depths."""

from gossamer.methods._base import Method


class Quantized(Method):
    """What GPTQ does for the inputs is done for the outputs too; layers that matter keep more bits."""

    structures = ("trellis_256", "normal_64", "normal_128", "normal_256")
    metric = "kronecker_fisher"
    allocator = "knapsack"
