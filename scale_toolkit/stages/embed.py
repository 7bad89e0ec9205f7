"""A picture of the latent space in two dimensions: UMAP (McInnes et al. 2018) or tSNE (van der Maaten & Hinton 2008)."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import scanpy as sc
from sklearn.manifold import TSNE

from scale_toolkit import keys
from scale_toolkit.config import EmbedConfig
from scale_toolkit.errors import InputError, ScaleWarning
from scale_toolkit.stages._latent import latent_of, log, neighbor_graph
from scale_toolkit.stages._stage import note, stage

if TYPE_CHECKING:
    from anndata import AnnData

    from scale_toolkit.stages._stage import Progress

#: Fewer cells than this start UMAP at random places: its spectral start needs more of them than dimensions.
SPECTRAL_FROM = 10


@stage("embed", EmbedConfig, reads=(keys.LATENT,), requires=(keys.LATENT,), loads=("numba",))
def embed(adata: AnnData, config: EmbedConfig, *, progress: Progress | None = None) -> AnnData:
    """Embed the cells of the latent space in two dimensions; the same seed gives the same bytes.

    Parameters
    ----------
    adata
        At least three cells with ``obsm['X_scale']``.
    config
        The options.
    progress
        Called before and after.

    Returns
    -------
    `adata`, with ``obsm['X_umap']`` or ``obsm['X_tsne']`` (cells × 2, float32), and by UMAP its neighbour graph:
    in scanpy's ``uns['neighbors']`` and ``obsp`` unless another graph is there already, made by ``cluster`` or by hand
    (other neighbours, another latent space); that one is left alone, and the graph goes to ``uns['embed_neighbors']``, where
    scanpy finds it by ``neighbors_key='embed_neighbors'``.

    Raises
    ------
    MissingSlotError
        No latent space.
    InputError
        Fewer than three cells, or a latent space that is not finite.

    Warns
    -----
    ScaleWarning
        Fewer cells than neighbours, or than the perplexity needs.
    """
    latent = latent_of(adata)
    if len(latent) < 3:
        raise InputError(f"{len(latent)} cells", "at least 3 to draw a picture of")
    report = progress or (lambda message, done, total: None)
    if config.method == "umap":
        keys.UMAP.set(adata, _umap(adata, latent, config, report))
    else:
        report("tSNE of the latent space", 0, 2)
        keys.TSNE.set(adata, _tsne(adata, latent, config))
    report("embedded", 2, 2)
    return adata


def _umap(adata: AnnData, latent: np.ndarray, config: EmbedConfig, report: Progress) -> np.ndarray:
    report("neighbours of the cells", 0, 2)
    graph = neighbor_graph(latent, config.n_neighbors, seed=config.seed, n_threads=config.n_threads)
    key = _store(adata, graph)
    # UMAP sets weak edges to 0 in the very arrays it is given
    graph.obsp[keys.CONNECTIVITIES.name] = graph.obsp[keys.CONNECTIVITIES.name].copy()
    init = "spectral" if len(latent) >= SPECTRAL_FROM else "random"
    report("UMAP layout", 1, 2)
    with warnings.catch_warnings():
        # UMAP lays out the parts of a graph one by one, and asks scikit-learn to place the parts
        warnings.filterwarnings("ignore", message="Graph is not fully connected", category=UserWarning)
        sc.tl.umap(graph, min_dist=config.min_dist, random_state=config.seed, init_pos=init)
    adata.uns["umap"] = graph.uns["umap"]  # scanpy's own record of a, b and the seed
    note(adata, n_neighbors=int(graph.uns["neighbors"]["params"]["n_neighbors"]), neighbors_key=key)
    return np.asarray(graph.obsm[keys.UMAP.name], dtype=np.float32)


def _store(adata: AnnData, graph: AnnData) -> str:
    """Put the neighbour graph into `adata` without overwriting one that is not ours; returns its name in ``uns``."""
    for slot in (keys.EMBED_NEIGHBORS, keys.EMBED_DISTANCES, keys.EMBED_CONNECTIVITIES):
        slot.drop(adata)
    weights = graph.obsp[keys.CONNECTIVITIES.name]
    places = (keys.NEIGHBORS, keys.DISTANCES, keys.CONNECTIVITIES)
    if keys.NEIGHBORS.found_in(adata) and keys.NEIGHBORS.get(adata).get("stage") != "embed":
        if _same(adata.obsp.get(keys.CONNECTIVITIES.name), weights):
            return keys.NEIGHBORS.name
        log.info("%s holds another graph and is kept; UMAP's goes to %s", keys.NEIGHBORS, keys.EMBED_NEIGHBORS)
        places = (keys.EMBED_NEIGHBORS, keys.EMBED_DISTANCES, keys.EMBED_CONNECTIVITIES)
    described, distances, connectivities = places
    told = {"distances_key": distances.name, "connectivities_key": connectivities.name, "stage": "embed"}
    described.set(adata, graph.uns["neighbors"] | told)
    distances.set(adata, graph.obsp[keys.DISTANCES.name])
    connectivities.set(adata, weights)
    return described.name


def _same(one: object, other: object) -> bool:
    return one is not None and one.shape == other.shape and one.nnz == other.nnz and (one != other).nnz == 0


def _tsne(adata: AnnData, latent: np.ndarray, config: EmbedConfig) -> np.ndarray:
    perplexity = min(config.perplexity, max(1.0, (len(latent) - 1) / 3))
    if perplexity < config.perplexity:
        warnings.warn(
            f"perplexity {config.perplexity:g} is too much for {len(latent)} cells: {perplexity:.3g} is used",
            ScaleWarning,
            stacklevel=4,
        )
    note(adata, perplexity=perplexity)
    # principal components are the better start, but need two dimensions that differ
    init = "pca" if (latent != latent[0]).any(axis=0).sum() >= 2 else "random"
    tsne = TSNE(perplexity=perplexity, init=init, random_state=config.seed, n_jobs=config.n_threads or -1)
    return np.asarray(tsne.fit_transform(latent), dtype=np.float32)
