"""Sentences about values that pages and tables share."""

from collections.abc import Mapping
from typing import Any

from gossamer.reports._amounts import size

Json = Mapping[str, Any]
LOSS = "nats per token"
"""The unit of a predicted loss that measured losses have too."""


def timed(speed: Mapping[str, Any]) -> str:
    """How a speed was measured."""
    return (
        f"read on this machine in windows of {speed['window']}, the fastest of a few passes; writing token by token is "
        "another matter"
    )


def judged(p: Mapping[str, Any]) -> str:
    """What a score rests on."""
    return f"{p['source']}: {p['windows']} windows of {p['window']} tokens, ids {p['ids_sha256']}, {p['dtype']}"


def apart(nats: float | None) -> str:
    """What a score's `divergence` counts; an encoder, whose score has no `nats`, is judged by how far off it is."""
    return "half the squared output error over its variance" if nats is None else "KL divergence, nats a token"


def became(written: Mapping[str, int]) -> str:
    """How many weights became what."""
    if len(written) == 1:
        return f"all {sum(written.values())} are {next(iter(written))}"
    return ", ".join(f"{count} {name}" for name, count in written.items())


def text(p: Json) -> str:
    """The windows that were read of a text."""
    windows = f"{p['windows']} windows of {p['window']} tokens, stride {p['stride']}"
    return f"{p['source']}: {windows}, text {p.get('text_sha256')}, ids {p['ids_sha256']}"


def method(settings: Json) -> str:
    """What stands for a method's name: it may have been put together by hand."""
    tied = "; layers that share an input tied" if settings["tie"] else ""
    return (
        f"metric {settings['metric']}; structures {', '.join(settings['structures'])}; "
        f"allocator {settings['allocator']}{tied}"
    )


def ran(found: Json) -> dict[str, str]:
    """How long something took, and on what."""
    return {
        "seconds": ", ".join(f"{k} {v:.1f}" for k, v in found["seconds"].items()),
        "peak memory": size(found["peak_memory"]),
        "machine": machine(found["machine"]),
        "versions": versions(found["machine"]),
    }


def machine(on: Json) -> str:
    """What figures were measured on."""
    return f"{on['system']}, threads: {on['threads']}"


def versions(on: Json) -> str:
    """Of what computed there."""
    return ", ".join(f"{name} {value}" for name, value in on.items() if name not in ("system", "threads"))
