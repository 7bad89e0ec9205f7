"""Compilation of inner loops by numba, the same way everywhere."""

from __future__ import annotations

from numba import njit
from numba.core.errors import NumbaError


def compiled(signature):
    """Compile at once for one signature, without the GIL; kept on disk for the next process where there is a place for it."""

    def wrap(function):
        options = {"nogil": True, "fastmath": {"contract"}, "error_model": "numpy"}
        try:
            return njit(signature, cache=True, **options)(function)
        except (RuntimeError, OSError, NumbaError):  # a read-only installation and no home folder, or a full disk
            return njit(signature, **options)(function)

    return wrap
