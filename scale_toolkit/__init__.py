"""SCALE for single-cell ATAC-seq: cluster and impute cells with a Gaussian-mixture variational
autoencoder.

Each stage is a function on an AnnData, with its options as keywords::

    import scale_toolkit as scale

    cells = scale.prepare(anndata.read_h5ad("counts.h5ad"))
    cells = scale.train(cells, n_components=6)
    cells = scale.cluster(cells, n_clusters=6)

The same in scanpy's manner, on the AnnData in place: `scale.pp`, `scale.tl`, `scale.pl`; and as an
object with `train()`, `predict()` and `save()`: `scale.SCALE`.

Importing the package loads neither torch nor scanpy; the first stage called does.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from scale_toolkit._version import full_version

__version__ = full_version(__file__)

_STAGES = {
    "prepare": "prepare",
    "select_peaks": "select_peaks",
    "train": "train",
    "encode": "encode",
    "impute": "impute",
    "imputed": "imputed",
    "embed": "embed",
    "annotate": "annotate",
    "choose_k": "choose_k",
    "doublets": "doublets",
    "genes": "genes",
    "map": "map",
    "cluster": "cluster",
    "markers": "markers",
    "simulate": "simulate",
    "unpack_binary": "unpack",
    "unpack_numeric": "unpack",
    "receipts": "receipts",
    "verify": "verify",
}

_MODULES = {
    "get": "get",
    "pl": "plot",
    "plot": "plot",
    "pp": "pp",
    "report": "report",
    "tl": "tl",
    "utils": "utils",
}

# With their types in __init__.pyi.
__all__ = ["SCALE", "__version__", *_MODULES, *_STAGES]


def __getattr__(name: str) -> Any:
    if name in _STAGES:
        return getattr(import_module(f"{__name__}.stages.{_STAGES[name]}"), name)
    if name in _MODULES:
        return import_module(f"{__name__}.{_MODULES[name]}")
    if name == "SCALE":
        return import_module(f"{__name__}.api").SCALE
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
