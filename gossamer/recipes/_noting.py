"""What is noted beside a result: the seconds of each step, where its text lies, and the settings it was made with."""

import os
import time
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

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


def located(text: str | None) -> str | None:
    """The full path of a text, where it is a file."""
    return str(Path(text).resolve()) if text is not None and os.path.isfile(text) else text


def recorded(step: Mapping[str, Any]) -> Settings:
    """The settings of a step of a folder's history."""
    known = {field.name for field in fields(Settings)}
    return Settings(**{name: value for name, value in step["settings"].items() if name in known})
