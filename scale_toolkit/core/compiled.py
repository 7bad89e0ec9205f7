"""Compilation of inner loops by numba, the same way everywhere."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numba
from numba import njit, types
from numba.core.errors import NumbaError

Kernel = TypeVar("Kernel", bound=Callable[..., Any])
_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": {"contract"}, "error_model": "numpy"}


def readonly(dtype: types.Type, n_dim: int = 1) -> types.Array:
    """Return the type of an array, in rows, that a loop only reads: writable ones fit it too."""
    return types.Array(dtype, n_dim, "C", readonly=True)


def compiled(signature: Any) -> Callable[[Kernel], Kernel]:
    """Compile at once for one signature, without the GIL, and cache the result on disk if numba
    can.

    Parameters
    ----------
    signature
        Of numba: one signature, or a list of them.
    """
    build = _cached(njit, signature, _OPTIONS)

    def wrap(function: Kernel) -> Kernel:
        with _neighbours_in_one_register():
            return build(function)

    return wrap


def _cached(
    compile_function: Callable[..., Any], signature: Any, options: dict[str, Any]
) -> Callable[[Kernel], Kernel]:
    def wrap(function: Kernel) -> Kernel:
        try:
            kernel: Kernel = compile_function(signature, **options | {"cache": True})(function)
        except (RuntimeError, OSError, NumbaError):
            # a read-only installation without a home folder, or a full disk
            kernel = compile_function(signature, **options)(function)
        return kernel

    return wrap


def inlined(function: Kernel) -> Kernel:
    """A part of compiled loops, compiled with them for the types that they call it with."""
    compile_function: Callable[..., Any] = njit
    kernel: Kernel = compile_function(**_OPTIONS)(function)
    return kernel


@contextlib.contextmanager
def _neighbours_in_one_register() -> Iterator[None]:
    """Let LLVM put neighbouring values into one register (SLP), which numba leaves off."""
    settings: Any = numba.config
    usual = settings.SLP_VECTORIZE
    settings.SLP_VECTORIZE = 1
    try:
        yield
    finally:
        settings.SLP_VECTORIZE = usual


@contextlib.contextmanager
def _keep_signatures() -> Iterator[None]:
    """Cache on disk every function that a module compiles for given signatures when it is
    imported.
    """
    original = numba.njit

    def keep(*args: Any, **options: Any) -> Any:
        if len(args) == 1 and isinstance(args[0], (str, list)):
            return _cached(original, args[0], options)
        return original(*args, **options)

    numba.njit = keep
    try:
        yield
    finally:
        numba.njit = original


def keep_umaps() -> None:
    """Cache on disk what umap and pynndescent otherwise compile in each process; the results are
    the same.

    Without it, importing them takes 12 s of processor time, and each graph and layout seconds.
    """
    with warnings.catch_warnings():
        # for a feature of umap that is not used here
        warnings.filterwarnings("ignore", "Tensorflow not installed", ImportWarning)
        with _keep_signatures():
            import pynndescent  # noqa: F401
        from umap import layouts, umap_
    # the parallel form of the layout would share its name on disk; it is not used here
    for module, name in (
        (umap_, "smooth_knn_dist"),
        (umap_, "compute_membership_strengths"),
        (layouts, "_nb_optimize_layout_euclidean_single_epoch"),
    ):
        # another version of umap, or no folder for the cache
        with contextlib.suppress(AttributeError, RuntimeError, OSError):
            getattr(module, name).enable_caching()
