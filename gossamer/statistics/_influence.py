"""How much the blocks of a model change what passes through them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.sites import block_of, run
from gossamer.vocabulary import Progress, Site, silent


@torch.inference_mode()
def block_influence(
    model: nn.Module, sites: Sequence[Site], windows: Tensor, *, progress: Progress = silent
) -> dict[str, float]:
    """For each site 1 − E cos(x, y) over the inputs x and outputs y of the block that it lies in.

    A site outside of all blocks gets 1.
    Source: Men et al. 2024, "ShortGPT" (arXiv 2403.03853).
    """
    homes = {site.name: block_of(model, site.name) for site in sites}
    sums = {name: 0.0 for name in homes.values() if name}
    tokens = dict.fromkeys(sums, 0)

    def hook(name: str) -> Any:
        def seen(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            before = args[0] if args else next(iter(kwargs.values()))
            after = output[0] if isinstance(output, tuple) else output
            cosines = torch.cosine_similarity(before.float(), after.float(), dim=-1)
            sums[name] += float(cosines.sum(dtype=torch.float64))
            tokens[name] += cosines.numel()

        return seen

    handles = [model.get_submodule(name).register_forward_hook(hook(name), with_kwargs=True) for name in sums]
    try:
        for window in progress("influence", windows, len(windows)):
            run(model, window[None])
    finally:
        for handle in handles:
            handle.remove()
    return {site: 1 - sums[name] / tokens[name] if tokens.get(name) else 1.0 for site, name in homes.items()}
