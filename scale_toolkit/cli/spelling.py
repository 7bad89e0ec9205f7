"""Keywords in messages, as they are typed on the command line.

A stage names a Python keyword in backticks: "lower `min_cells`", "use `method=variability`". On the
command line the same message reads "lower --min-cells", "use --method variability".
"""

from __future__ import annotations

import re
from collections.abc import Mapping

#: Inputs of a stage besides its options -> the flag that names the file.
INPUTS = {
    "blacklist": "--blacklist",
    "cells": "--cells",
    "genes": "--gtf",
    "model": "--model",
    "motifs": "--motifs",
    "original": "--input",
    "sequences": "--genome",
}

_KEYWORD = re.compile(r"`([a-z][a-z0-9_]*)(?:=([^`]*))?`")


def as_typed(message: str, spellings: Mapping[str, str]) -> str:
    """Return a message with the keywords in backticks that `spellings` knows as options of the
    command line.

    Parameters
    ----------
    message
        Text of an error or a warning.
    spellings
        Keyword to flag.
    """

    def flag(match: re.Match[str]) -> str:
        name, value = match.groups()
        if name not in spellings:
            return match[0]
        if value in (None, "True"):
            return spellings[name]
        return f"{spellings[name]} {value.strip(chr(39) + chr(34))}"

    return _KEYWORD.sub(flag, message)
