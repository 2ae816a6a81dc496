"""Text from a file, or from a data set of the Hub."""

import os
from pathlib import Path

from gossamer.errors import TextError

LONGEST = 4096
"""Characters that a path may have on any system; whoever gives more has given the text itself."""


def read(source: str) -> str:
    """The text of a UTF-8 file, or of a Hub data set written `NAME`, `NAME:CONFIG` or `NAME:CONFIG:SPLIT`.

    Of a data set the column `text` is read, its rows joined by newlines, from the split `train` unless one is named.
    Raises `TextError` where there is nothing to read.
    """
    path = Path(source)
    if os.path.isfile(path):  # of a name that is too long Path's own would raise
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TextError(f"{source} cannot be read as UTF-8 text ({error}); give a plain text file.") from error
    elif len(source) > LONGEST:
        raise TextError(f"The name of the text is {len(source)} characters long; give the path of a UTF-8 text.")
    elif not source:
        raise TextError("The name of the text is empty; give the path of a UTF-8 text.")
    elif os.path.isdir(path):
        raise TextError(f"{source} is a folder; give the path of a UTF-8 text.")
    elif path.suffix in {".txt", ".raw", ".md", ".text"} or source.startswith((".", "/", "~")):
        raise TextError(f"There is no text file {source}; give the path of a UTF-8 text.")
    else:
        text = _from_hub(source)
    if not text.strip():
        raise TextError(f"{source} is empty; give a text with some thousands of words.")
    return text


def _from_hub(source: str) -> str:
    name, _, rest = source.partition(":")
    config, _, split = rest.partition(":")
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise TextError(
            f"There is no file {source}, and reading Hub data sets needs: pip install 'gossamer[hub]'."
        ) from error
    try:
        rows = load_dataset(name, config or None, split=split or "train")
        return "\n".join(rows["text"])
    except Exception as error:  # the data sets' own scripts and servers fail in their own ways
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TextError(
            f"{source} is neither a file nor a data set with a column 'text' that can be loaded: {reason}"
        ) from error
