"""Running sums for all sites, in memory while they grow and in a folder once they rest."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gossamer import discover
from gossamer.checkpoints.store import beside, read_tensors, write_tensors
from gossamer.errors import NumericsError
from gossamer.statistics._base import GRADIENTS, INPUTS, Statistic
from gossamer.vocabulary import Site


def statistic(name: str) -> type[Statistic]:
    """The statistic with this name."""
    import gossamer.statistics as room

    return discover.load(room, name, Statistic)  # type: ignore[type-abstract]


def statistic_at(name: str, site: Site) -> type[Statistic]:
    """What stands for the statistic `name` at a site: its diagonal on a side that is as wide as the vocabulary."""
    kind = statistic(name)
    wide = {"embedding": INPUTS, "head": GRADIENTS}.get(site.role)
    return statistic(kind.diagonal) if kind.diagonal and kind.reads == wide else kind


def owner(name: str, site: Site) -> str:
    """The site under whose name a statistic of `site` is kept."""
    return site.reads if statistic(name).reads == INPUTS else site.name


@dataclass
class Sums:
    """`totals[statistic][owner]`, the tokens that reached each owner in `counts`, and the tokens read in all.

    Sums merge by addition, so text can be split over runs and machines. A statistic of inputs alone is divided by
    the tokens that reached the layer, others by all tokens read: ½ tr(G ΔW A ΔWᵀ) then counts nats per token of
    text also for a layer that only some tokens pass.
    """

    totals: dict[str, dict[str, Tensor]]
    counts: dict[str, int]
    tokens: int = 0
    windows: int = 0

    @classmethod
    def zero(cls, sites: Sequence[Site], needs: Sequence[str], device: torch.device) -> "Sums":
        totals: dict[str, dict[str, Tensor]] = {}
        for name in needs:
            owners = {owner(name, site): statistic_at(name, site).extent(site.applied) for site in sites}
            totals[name] = {o: torch.zeros(extent, device=device) for o, extent in owners.items()}
        return cls(totals=totals, counts={site.name: 0 for site in sites})

    def merge(self, other: "Sums") -> None:
        """Add another run's sums over other text of the same model, in place."""
        for name, owners in self.totals.items():
            for site, total in owners.items():
                total.add_(other.totals[name][site].to(total.device))
        self.counts = {site: count + other.counts[site] for site, count in self.counts.items()}
        self.tokens += other.tokens
        self.windows += other.windows

    def save(self, folder: Path) -> None:
        """One file for each sum; `folder` appears whole or not at all, and is left as it is where there is one."""
        partial = beside(folder)
        partial.mkdir(parents=True)
        try:
            for name, owners in self.totals.items():
                for site, total in owners.items():
                    facts = {"count": str(self.counts[site]), "tokens": str(self.tokens), "windows": str(self.windows)}
                    write_tensors(partial / name / f"{site}.safetensors", {"sum": total}, facts)
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():  # else a run that shares the working folder was faster, with the same sums
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    @classmethod
    def restore(cls, folder: Path, sites: Sequence[Site], needs: Sequence[str]) -> "Sums":
        """The sums that `save` wrote, to go on from."""
        totals: dict[str, dict[str, Tensor]] = {}
        sums = cls(totals=totals, counts={})
        for name in needs:
            totals[name] = {}
            for site in sites:
                key = owner(name, site)
                if key not in totals[name]:
                    tensors, facts = read_tensors(folder / name / f"{key}.safetensors")
                    totals[name][key] = tensors["sum"]
                    sums.counts[key] = int(facts["count"])
                    sums.tokens, sums.windows = int(facts["tokens"]), int(facts["windows"])
        for site in sites:
            sums.counts.setdefault(site.name, sums.counts.get(site.reads, 0))
        return sums


class SumsFolder:
    """Finished sums on disk, a folder for each statistic, read one at a time.

    The last of each statistic is remembered: it is looked at more than once, and sites that share one come in a row.
    """

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self.folders = folders
        self._last: dict[str, tuple[Path, Tensor]] = {}

    def moments(self, site: Site, needs: Sequence[str]) -> Mapping[str, Tensor]:
        """The statistics of one site as means, in float64, each read when it is first looked at."""
        return _Moments(self, site, needs)

    def mean(self, name: str, site: Site) -> Tensor:
        """One statistic of one site.

        Raises `WorkError` where its file is missing or damaged, `NumericsError` where the sum overflowed.
        """
        path = self.folders[name] / f"{owner(name, site)}.safetensors"
        last = self._last.get(name)  # looked up once: another thread may put its own there
        if last is not None and last[0] == path:
            return last[1]
        tensors, facts = read_tensors(path)
        count = int(facts["count"] if statistic(name).reads == INPUTS else facts["tokens"])
        mean = statistic_at(name, site).finished(tensors["sum"], site.applied).double().div_(max(count, 1))
        if not torch.isfinite(mean.sum()):
            raise NumericsError(
                f"{site.name}: its {name} is too large to add up in float32; check the model's weights."
            )
        self._last[name] = (path, mean)
        return mean


class _Moments(Mapping[str, Tensor]):
    def __init__(self, folder: SumsFolder, site: Site, needs: Sequence[str]) -> None:
        self._folder, self._site, self._needs = folder, site, needs

    def __getitem__(self, name: str) -> Tensor:
        return self._folder.mean(name, self._site)

    def __iter__(self) -> Iterator[str]:
        return iter(self._needs)

    def __len__(self) -> int:
        return len(self._needs)
