"""An AnnData as cellxgene and CELLxGENE Discover take it."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from scale_toolkit import keys
from scale_toolkit.errors import InputError, ScaleWarning

if TYPE_CHECKING:
    from anndata import AnnData

log = logging.getLogger("scale_toolkit")

#: Columns that CELLxGENE Discover's schema requires and only the experimenter knows.
CELLXGENE_ASKS = (
    "assay_ontology_term_id",
    "cell_type_ontology_term_id",
    "development_stage_ontology_term_id",
    "disease_ontology_term_id",
    "donor_id",
    "is_primary_data",
    "self_reported_ethnicity_ontology_term_id",
    "sex_ontology_term_id",
    "tissue_ontology_term_id",
    "tissue_type",
)
#: The same for the whole data set, in uns.
ORGANISM = "organism_ontology_term_id"
#: Columns that Discover makes itself from the terms; known labels under these names keep them with
#: ``_label`` added.
_RESERVED = (
    "assay",
    "cell_type",
    "development_stage",
    "disease",
    "organism",
    "self_reported_ethnicity",
    "sex",
    "tissue",
)


def for_cellxgene(adata: AnnData, matrix: sparse.csr_matrix) -> AnnData:
    """Return an AnnData that cellxgene accepts: raw counts as float32 CSR in X, plain embeddings,
    no missing or duplicated names.
    """
    from anndata import AnnData

    embeddings = {
        name: np.asarray(values, np.float32)
        for name, values in adata.obsm.items()
        if name.startswith("X_")
        and isinstance(values, np.ndarray)
        and values.ndim == 2
        and np.isfinite(values).all()
    }
    flat = [name for name, values in embeddings.items() if values.shape[1] >= 2]
    if not flat:
        raise InputError(
            "obsm has no embedding of two dimensions or more",
            "X_umap or X_tsne",
            "run `scale embed` on this file first: cellxgene draws the cells there",
        )
    for axis, names in (("cell", adata.obs_names), ("peak", adata.var_names)):
        if not names.is_unique:
            raise InputError(
                f"the {axis} name {names[names.duplicated()][0]!r} is duplicated",
                "unique names",
                "run `scale prepare`",
            )
    obs, var = adata.obs.copy(), adata.var.copy()
    new_names = {
        name: f"{name}_label" for name in _RESERVED if name in obs and f"{name}_label" not in obs
    }
    if new_names:
        obs = obs.rename(columns=new_names)
        log.info(
            "obs: %s, for Discover keeps the name",
            ", ".join(f"{a} is called {b}" for a, b in new_names.items()),
        )
    reserved = [
        str(name)
        for name in obs
        if str(name).startswith("_") or str(name).endswith(("_ontology_term",))
    ]
    if reserved:
        warnings.warn(
            f"dropped obs[{', '.join(reserved)}]: names that cellxgene keeps for itself",
            ScaleWarning,
            stacklevel=4,
        )
        obs = obs.drop(columns=reserved)
    for table in (obs, var):
        for name in table:
            # HDF5 stores one type of value in a column
            if table[name].dtype == object:
                table[name] = table[name].map(str, na_action="ignore").astype("category")
            elif table[name].dtype == np.float64:
                table[name] = table[name].astype(np.float32)
    if "suspension_type" not in obs:
        # the schema's only value for ATAC
        obs["suspension_type"] = pd.Categorical(["nucleus"] * len(obs))
    var["feature_is_filtered"] = False
    uns: dict[str, Any] = {
        "title": str(adata.uns.get("title", "scATAC-seq cells by scale_toolkit"))
    }
    uns["default_embedding"] = next(
        (name for name in (keys.UMAP.name, keys.TSNE.name) if name in flat), flat[0]
    )
    uns["X_approximate_distribution"] = "count"
    uns |= {name: adata.uns[name] for name in (keys.RECEIPTS.name, ORGANISM) if name in adata.uns}
    for name, values in adata.uns.items():
        column = name.removesuffix("_colors")
        column = new_names.get(column, column)
        if (
            name.endswith("_colors")
            and column in obs
            and isinstance(obs[column].dtype, pd.CategoricalDtype)
        ):
            colours = list(map(str, values))
            if len(colours) == len(obs[column].cat.categories):
                uns[f"{column}_colors"] = np.array(colours, dtype=object)
    counts = matrix.astype(np.float32)
    counts.eliminate_zeros()
    counts.sort_indices()
    return AnnData(counts, obs=obs, var=var, obsm=embeddings, uns=uns)
