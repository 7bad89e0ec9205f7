"""Compilation of inner loops by numba, the same way everywhere."""

from __future__ import annotations

import contextlib
import warnings

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


def keep_umaps() -> None:
    """Keep on disk what umap compiles anew in each process: seconds of every graph and layout, and the results are the same."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Tensorflow not installed", ImportWarning)  # for a part of umap that nobody asked for
        from umap import layouts, umap_
    # the layout's other form, the parallel one, would share its name on disk; none of ours uses it
    for module, name in (
        (umap_, "smooth_knn_dist"),
        (umap_, "compute_membership_strengths"),
        (layouts, "_nb_optimize_layout_euclidean_single_epoch"),
    ):
        with contextlib.suppress(AttributeError, RuntimeError, OSError):  # another umap, or no place for it
            getattr(module, name).enable_caching()
