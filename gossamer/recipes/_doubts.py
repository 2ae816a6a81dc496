"""What is wrong with the statistics of single layers: found while they are weighed, kept, and said beside a result."""

from collections.abc import Mapping
from pathlib import Path

from gossamer.checkpoints.store import identity_digest, read_json, write_json
from gossamer.errors import WorkError
from gossamer.metrics import Metric
from gossamer.recipes.menus import some
from gossamer.vocabulary import Site

Doubts = dict[str, tuple[bool, float]]
"""Layer → (whether an input or output is dead, what its roots need beyond the damping); see `Metric`."""


def doubt(site: Site, ruler: Metric) -> tuple[bool, float]:
    """What there is to say of a site that the text reached."""
    # A head's outputs are tokens, most of which are never near.
    return site.role == "layer" and ruler.dead(), ruler.lifted()


def keep(path: Path, doubts: Doubts) -> None:
    write_json(path, {"digest": identity_digest(doubts), "doubts": doubts})


def kept(path: Path) -> Doubts:
    """What `keep` wrote; raises `WorkError` where it is not as it was written."""
    found = read_json(path)
    doubts = found.get("doubts") if isinstance(found, dict) else None
    if not isinstance(doubts, dict) or found.get("digest") != identity_digest(doubts):
        raise WorkError(f"{path} is damaged: its checksum does not match; delete it and run again.")
    return doubts


def told(doubts: Mapping[str, tuple[bool, float]]) -> tuple[str, ...]:
    """A note for each kind of doubt, with the layers that it is about."""
    dead = [name for name, (lacks, _) in doubts.items() if lacks]
    lifted = {name: share for name, (_, share) in doubts.items() if share}
    notes = []
    if dead:
        notes.append(
            "An input or an output was zero on every token of the text, so nothing is known of its weights "
            f"{some(dead)}"
        )
    if lifted:
        notes.append(
            "Statistics are not positive definite, so roots of them are taken with up to "
            f"{max(lifted.values()):.0e} of their mean diagonal added {some(list(lifted))}"
        )
    return tuple(notes)
