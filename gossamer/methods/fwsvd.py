"""FWSVD: input features weighted by the root of their Fisher information (Hsu et al. 2022, arXiv 2207.00112).

Truncation of W D with D = diag(√f) and f_j = Σ_i F_ij. Three things differ from the paper. It fine-tunes the factors on
the labelled task that gave the Fisher information; here labels are drawn from the model and nothing is trained, which
on a language model is far from enough. Its samples are whole labelled examples; here every token is a sample, so what
the gradients of two tokens of one sequence have in common is left out of F. And f is damped by 1e-5 of its mean, where
others add 1e-5 of its maximum: only features that have next to no information notice.
"""

from gossamer.methods._base import Method


class FWSVD(Method):
    """One number a feature; the other side of the weight is not weighted."""

    structures = ("low_rank",)
    metric = "row_fisher"
    allocator = "uniform"
