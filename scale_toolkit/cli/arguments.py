"""SCALE.py's spellings made plain: options with many values, and ``--gpu`` with or without a
number.

Typer has neither, so the argument list is rewritten before Typer reads it:

================================  ================================
``-d a.h5ad b.h5ad``              ``-d a.h5ad -d b.h5ad``
``--encode_dim 1024 128``         ``--encode-dim=1024,128``
``--decode_dim`` (and no value)   ``--decode-dim=``
``--gpu``, ``-g``                 ``--gpu=``
``--gpu 1``, ``-g 1``             ``--gpu=1``
================================  ================================

Everything else, and everything after ``--``, is left as it is. ``_`` for ``-`` is Typer's own doing
(`app.spelling`).
"""

from __future__ import annotations

import re

INPUTS = {"-d", "--data-list"}
WIDTHS = {"--encode-dim", "--decode-dim"}
GPU = {"-g", "--gpu"}

_VALUE = r"(?!-.).*"  # anything but an option; - is standard input
_NUMBER = r"[0-9]+"
_NUMBERS = r"[0-9]+(,[0-9]+)*"


def normalised(arguments: list[str]) -> list[str]:
    """Rewrite SCALE.py's spellings; a rewritten list is left alone by a second call.

    Parameters
    ----------
    arguments
        The words of the call, without the program's name.
    """
    rest, plain = list(arguments), []
    while rest:
        word = rest.pop(0)
        option = word.replace("_", "-") if word.startswith("--") else word
        if word == "--":
            return [*plain, word, *rest]
        if option in INPUTS:
            paths = _take(rest, _VALUE)
            plain += [part for path in paths for part in (word, path)] or [word]
        elif option in WIDTHS:
            widths = _take(rest, _VALUE, at_most=1)
            plain.append(
                f"{option}=" + ",".join(widths + (_take(rest, _NUMBERS) if widths else []))
            )
        elif option in GPU:
            plain.append("--gpu=" + "".join(_take(rest, _NUMBER, at_most=1)))
        else:
            plain.append(word)
    return plain


def _take(rest: list[str], pattern: str, at_most: int | None = None) -> list[str]:
    """Move the words at the head of `rest` that match `pattern` out of it."""
    taken: list[str] = []
    while rest and len(taken) != at_most and re.fullmatch(pattern, rest[0], re.DOTALL):
        taken.append(rest.pop(0))
    return taken
