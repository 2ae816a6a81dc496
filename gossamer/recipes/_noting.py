"""What is noted beside a result: the seconds of each step, and where its text lies."""

import time
from dataclasses import replace
from pathlib import Path

from gossamer.vocabulary import Settings


class Clock:
    """The seconds of each step, one after the other."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = now - self._last
        self._last = now


def located(settings: Settings) -> Settings:
    """The same with the full path of the text, where it is a file."""
    text = settings.text
    return replace(settings, text=str(Path(text).resolve())) if text is not None and Path(text).is_file() else settings
