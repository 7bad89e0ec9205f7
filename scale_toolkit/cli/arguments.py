"""SCALE.py's spellings made plain: options with many values, and ``--gpu`` with or without a number.

Typer has neither, so the argument list is rewritten before Typer reads it:

================================  ================================
``-d a.h5ad b.h5ad``              ``-d a.h5ad -d b.h5ad``
``--encode_dim 1024 128``         ``--encode-dim=1024,128``
``--decode_dim`` (and no value)   ``--decode-dim=``
``--gpu``, ``-g``                 ``--gpu=``
``--gpu 1``, ``-g 1``             ``--gpu=1``
================================  ================================

Everything else, and everything after ``--``, is left as it is. ``_`` for ``-`` is Typer's own doing (`app.spelling`).
"""

from __future__ import annotations

import re

INPUTS = {"-d": "-d", "--data-list": "--data-list"}
WIDTHS = {"--encode-dim", "--decode-dim"}
GPU = {"-g", "--gpu"}


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
            paths = _take(rest, r"(?!-.).*")
            plain += [part for path in paths for part in (word, path)] or [word]
        elif option in WIDTHS:
            plain.append(f"{option}=" + ",".join(_take(rest, r"[0-9]+(,[0-9]+)*")))
        elif option in GPU:
            plain.append("--gpu=" + "".join(_take(rest, r"[0-9]+", at_most=1)))
        else:
            plain.append(word)
    return plain


def _take(rest: list[str], pattern: str, at_most: int | None = None) -> list[str]:
    """Move the words at the head of `rest` that match `pattern` out of it."""
    taken: list[str] = []
    while rest and len(taken) != at_most and re.fullmatch(pattern, rest[0], re.DOTALL):
        taken.append(rest.pop(0))
    return taken
