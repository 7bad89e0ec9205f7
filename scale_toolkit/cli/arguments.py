"""Rewrite SCALE.py's spellings: options with several values, and ``--gpu`` with or without a
number.

Typer has neither, so the argument list is rewritten before Typer reads it:

================================  ================================
``-d a.h5ad b.h5ad``              ``-d a.h5ad -d b.h5ad``
``--encode_dim 1024 128``         ``--encode-dim=1024,128``
``--decode_dim`` (and no value)   ``--decode-dim=``
``--gpu``, ``-g``                 ``--gpu=``
``--gpu 1``, ``-g 1``             ``--gpu=1``
================================  ================================

Everything else, and everything after ``--``, is not changed. Typer itself reads ``_`` as ``-``
(`app.spelling`).
"""

from __future__ import annotations

import re

INPUTS = {"-d", "--data-list"}
WIDTHS = {"--encode-dim", "--decode-dim"}
GPU = {"-g", "--gpu"}

# Anything but an option; - is standard input.
_VALUE = r"(?!-.).*"
_NUMBER = r"[0-9]+"
_NUMBERS = r"[0-9]+(,[0-9]+)*"


def normalised(arguments: list[str]) -> list[str]:
    """Rewrite SCALE.py's spellings; a second call does not change a rewritten list.

    Parameters
    ----------
    arguments
        The words of the call, without the program's name.
    """
    remaining = list(arguments)
    plain: list[str] = []
    while remaining:
        word = remaining.pop(0)
        option = word.replace("_", "-") if word.startswith("--") else word
        if word == "--":
            return [*plain, word, *remaining]
        if option in INPUTS:
            paths = _take(remaining, _VALUE)
            plain += [word_or_path for path in paths for word_or_path in (word, path)] or [word]
        elif option in WIDTHS:
            widths = _take(remaining, _VALUE, at_most=1)
            plain.append(
                f"{option}=" + ",".join(widths + (_take(remaining, _NUMBERS) if widths else []))
            )
        elif option in GPU:
            plain.append("--gpu=" + "".join(_take(remaining, _NUMBER, at_most=1)))
        else:
            plain.append(word)
    return plain


def _take(rest: list[str], pattern: str, at_most: int | None = None) -> list[str]:
    """Move the words at the head of `rest` that match `pattern` out of it."""
    values: list[str] = []
    while rest and len(values) != at_most and re.fullmatch(pattern, rest[0], re.DOTALL):
        values.append(rest.pop(0))
    return values
