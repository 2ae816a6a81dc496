"""What is noted beside a result: the seconds of each step, and where its text lies."""

import os
import time
from pathlib import Path


class Clock:
    """The seconds of each step, one after the other."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = now - self._last
        self._last = now


def located(text: str | None) -> str | None:
    """The full path of a text, where it is a file."""
    return str(Path(text).resolve()) if text is not None and os.path.isfile(text) else text
