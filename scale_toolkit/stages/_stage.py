"""What every stage shares: options as a config or as keywords, threads, receipts and run time."""

from __future__ import annotations

import functools
import inspect
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scale_toolkit import __version__, keys
from scale_toolkit.errors import OptionError

# OpenMP threads that wait by spinning take the core their own main thread needs as soon as anything else runs on the
# machine: a training of 7 s took 30 to 54 s beside one busy process. Read once, when torch or scikit-learn is first loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

    from scale_toolkit.config import Config

#: ``progress(message, done, total)``: called now and then by a long stage; `done` and `total` in the stage's own steps.
Progress = Callable[[str, int, int], None]


def stage(
    name: str, config_class: type[Config], *, reads: tuple[keys.Slot | str, ...] = (), loads: tuple[str, ...] | Callable = ()
) -> Callable[[Callable[..., AnnData]], Callable[..., AnnData]]:
    """Turn ``run(adata, config, *, progress, **inputs) -> AnnData`` into a public stage.

    The stage can be called with a config or with its options as keywords, obeys ``n_threads``, and leaves a
    receipt in ``uns['scale']`` and its time and memory in ``uns['scale_runtime']``.

    Parameters
    ----------
    name
        The subcommand's name, for the receipts.
    config_class
        Its options.
    reads
        Slots that must be there (an error names the stage that makes them); with ``"X"``, what the input digest is made of.
    loads
        Libraries with threads of their own that the stage uses, or a function of the config that says them: loaded before
        the threads are limited, or their first use would escape the limit.
    """

    def wrap(run: Callable[..., AnnData]) -> Callable[..., AnnData]:
        @functools.wraps(run)
        def call(adata: Any, config: Config | None = None, *, progress: Progress | None = None, **keywords: Any) -> AnnData:
            inputs = {key: keywords.pop(key) for key in list(keywords) if key in _extra_inputs(run)}
            config = _config(config_class, config, keywords)
            for slot in reads:
                if isinstance(slot, keys.Slot):
                    slot.get(adata)
            if getattr(adata, "is_view", False):
                adata = adata.copy()  # a stage writes its results into what it was given
            before = digest(adata, reads)
            started = time.perf_counter()
            for library in loads(config) if callable(loads) else loads:
                import_module(library)
            with limited_threads(getattr(config, "n_threads", 0)) as threads:
                result = run(adata, config, progress=progress, **inputs)
            _append(
                result,
                keys.RECEIPTS,
                {
                    "stage": name,
                    "version": __version__,
                    "options": config.as_dict(),
                    "threads": threads,
                    "input": before,
                    "libraries": versions(),
                }
                | _notes(result),
            )
            _append(
                result,
                keys.RUNTIME,
                {
                    "stage": name,
                    "seconds": round(time.perf_counter() - started, 3),
                    "peak_memory_mb": round(_peak_memory_mb(), 1),
                    "host": platform.node(),
                },
            )
            return result

        call.__signature__ = _signature(run, config_class)  # type: ignore[attr-defined]
        call.config_class, call.reads = config_class, reads  # type: ignore[attr-defined]
        return call

    return wrap


def note(adata: AnnData, **facts: Any) -> None:
    """Leave facts (JSON values) for the receipt of the running stage: what was decided, merged, dropped."""
    adata.uns.setdefault(_NOTES, {}).update(facts)


_NOTES = "_scale_notes"


def _notes(adata: AnnData) -> dict[str, Any]:
    facts = adata.uns.pop(_NOTES, None)
    return {"notes": facts} if facts else {}


def receipts(adata: AnnData) -> list[dict[str, Any]]:
    """The receipts of every stage that has worked on `adata`, oldest first."""
    return json.loads(adata.uns.get(keys.RECEIPTS.name, "[]"))


def digest(adata: Any, reads: tuple[keys.Slot | str, ...]) -> str:
    """BLAKE2b digest (32 hex digits) of what a stage reads: its slots, and X as open peaks and counts.

    Lists of AnnData are digested in order, mappings with their names. A CSR, CSC or dense X of the same counts give
    different digests.
    """
    state = blake2b(digest_size=16)
    if isinstance(adata, Mapping):
        state.update("\n".join(map(str, adata)).encode())
        adata = list(adata.values())
    for one in adata if isinstance(adata, (list, tuple)) else [adata]:
        if one is None:
            continue
        state.update("\n".join(map(str, one.shape)).encode())
        for slot in reads:
            _feed(state, one.X if slot == "X" else slot.get(one))
    return state.hexdigest()


def _feed(state: Any, value: Any) -> None:
    if sparse.issparse(value):
        for part in (value.indptr.astype(np.int64), value.indices.astype(np.int32, copy=False), value.data):
            state.update(np.ascontiguousarray(part))
    elif isinstance(value, dict):
        for key in sorted(value):
            state.update(key.encode())
            _feed(state, value[key])
    elif value is not None:
        array = np.asarray(value)
        state.update(np.ascontiguousarray(array) if array.dtype.kind in "biuf" else "\n".join(map(str, array.ravel())).encode())


@contextmanager
def limited_threads(n_threads: int) -> Iterator[int]:
    """Hold BLAS, OpenMP, numba and (where loaded) torch to `n_threads`, 0 for all this job may use; yields the number."""
    import sys

    from threadpoolctl import threadpool_limits

    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = n_threads or available
    restore = []
    if "numba" in sys.modules:
        import numba

        restore.append((numba.set_num_threads, numba.get_num_threads()))
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    if "torch" in sys.modules:
        import torch

        restore.append((torch.set_num_threads, torch.get_num_threads()))
        torch.set_num_threads(threads)
    try:
        with threadpool_limits(limits=threads):
            yield threads
    finally:
        for put_back, number in restore:
            put_back(number)


def _config(config_class: type[Config], config: Config | None, options: dict[str, Any]) -> Config:
    if config is None:
        known = set(config_class.__dataclass_fields__)
        for name in options:
            if name not in known:
                raise OptionError(f"there is no option {name!r}", "one of " + ", ".join(sorted(known)))
        return config_class(**options)
    if not isinstance(config, config_class):
        raise OptionError(f"got a {type(config).__name__}", f"a {config_class.__name__}")
    if options:
        raise OptionError("got a config and options", "one of the two", f"drop {', '.join(options)}")
    return config


def _extra_inputs(run: Callable) -> set[str]:
    """Keyword-only arguments of a stage besides its options: data such as a blacklist."""
    return {
        name
        for name, parameter in inspect.signature(run).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name != "progress"
    }


def _signature(run: Callable, config_class: type[Config]) -> inspect.Signature:
    own = list(inspect.signature(run).parameters.values())
    positional = [p for p in own if p.kind is p.POSITIONAL_OR_KEYWORD]
    positional[1] = positional[1].replace(default=None)
    options = [
        inspect.Parameter(spec.name, inspect.Parameter.KEYWORD_ONLY, default=spec.default, annotation=spec.type)
        for spec in config_class.__dataclass_fields__.values()
    ]
    return inspect.Signature(
        [*positional, *options, *(p for p in own if p.kind is p.KEYWORD_ONLY)],
        return_annotation=inspect.signature(run).return_annotation,
    )


def _append(adata: AnnData, slot: keys.Slot, entry: dict[str, Any]) -> None:
    entries = json.loads(adata.uns.get(slot.name, "[]"))
    adata.uns[slot.name] = json.dumps([*entries, entry], sort_keys=True)


def versions() -> dict[str, str]:
    """The versions of the libraries that results depend on."""
    return {name: version(name) for name in ("anndata", "numpy", "scanpy", "scipy", "torch")}


def _peak_memory_mb() -> float:
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)
