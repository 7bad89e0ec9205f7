"""``embed``: the latent space in two dimensions by UMAP (McInnes et al. 2018) or tSNE.

tSNE is that of van der Maaten & Hinton 2008, as scikit-learn computes it.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import scanpy as sc
from sklearn.manifold import TSNE

from scale_toolkit import keys
from scale_toolkit.config import EmbedConfig
from scale_toolkit.core.layout import lay_out, principal_start
from scale_toolkit.errors import InputError, warn
from scale_toolkit.stages._latent import latent_of, log, neighbor_graph
from scale_toolkit.stages.stage import Result, stage

if TYPE_CHECKING:
    from anndata import AnnData

    from scale_toolkit.stages.stage import Progress

#: Fewer cells than this start UMAP at random positions: the spectral start needs more cells than
#: dimensions.
SPECTRAL_FROM = 10
FEWEST_CELLS = 3

#: More cells than this are laid out by `core.layout`, on all cores and from their principal
#: coordinates: 20 s of processor time at 100,000 cells, where umap-learn's one thread takes 65 s
#: and its spectral start 29 s; the figures of such layouts are in benchmarks/RESULTS.md. It is
#: where umap-learn itself changes to 200 epochs.
LAYOUT_OF_UMAP_UP_TO = 10_000

#: Of UMAP: raised when its results change (`train.FAST_REVISION`).
UMAP_REVISION = 2

_GRAPH = (keys.NEIGHBORS, keys.DISTANCES, keys.CONNECTIVITIES)
_EMBED_GRAPH = (keys.EMBED_NEIGHBORS, keys.EMBED_DISTANCES, keys.EMBED_CONNECTIVITIES)


def _revision(config: EmbedConfig) -> int:
    return UMAP_REVISION if config.method == "umap" else 1


def check(adata: AnnData, config: EmbedConfig) -> None:
    """Raise `InputError` for fewer than three cells."""
    if adata.n_obs < FEWEST_CELLS:
        raise InputError(f"{adata.n_obs} cells", f"at least {FEWEST_CELLS} for two dimensions")


# A graph that is already in the file decides where UMAP's graph is stored, not what is computed:
# it is not part of the digest.
@stage(
    "embed",
    EmbedConfig,
    reads=(keys.LATENT,),
    requires=(keys.LATENT,),
    writes=(keys.UMAP, keys.TSNE, keys.UMAP_PARAMETERS, *_GRAPH, *_EMBED_GRAPH),
    check=check,
    loads=("numba",),
    revision=_revision,
)
def embed(adata: AnnData, config: EmbedConfig, *, progress: Progress | None = None) -> Result:
    """Embed the cells of the latent space in two dimensions; the same seed gives the same bytes.

    UMAP's layout is umap-learn's up to 10,000 cells, and that of `core.layout` above.

    Parameters
    ----------
    adata
        At least three cells with ``obsm['X_scale']``.
    config
        The options.
    progress
        Called before each step.

    Returns
    -------
    `adata`, with ``obsm['X_umap']`` or ``obsm['X_tsne']`` (cells × 2, float32), and by UMAP its
    neighbour graph: in scanpy's ``uns['neighbors']`` and ``obsp``, unless another graph is there
    already (by ``cluster`` or by hand: other neighbours, another latent space). That graph is kept,
    and UMAP's goes to ``uns['embed_neighbors']``, which scanpy reads with
    ``neighbors_key='embed_neighbors'``.

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
    report = progress or (lambda message, done, total: None)
    if config.method == "umap":
        result = _umap(adata, latent, config, report)
    else:
        report("tSNE of the latent space", 0, 2)
        result = _tsne(latent, config)
    report("embedded", 2, 2)
    return result


def _umap(adata: AnnData, latent: np.ndarray, config: EmbedConfig, report: Progress) -> Result:
    report("neighbours of the cells", 0, 2)
    graph = neighbor_graph(latent, config.n_neighbors, seed=config.seed, n_threads=config.n_threads)
    slots, name = _graph_slots(adata, graph)
    weights = keys.CONNECTIVITIES.get(graph)
    report("UMAP layout", 1, 2)
    if len(latent) > LAYOUT_OF_UMAP_UP_TO:
        slots |= _lay_out(weights, latent, config)
    else:
        slots |= _layout_of_umap(graph, config)
    n_neighbors = int(keys.NEIGHBORS.get(graph)["params"]["n_neighbors"])
    facts = {"n_neighbors": n_neighbors, "neighbors_key": name}
    return Result(slots, drops=_EMBED_GRAPH, facts=facts)


def _lay_out(weights: Any, latent: np.ndarray, config: EmbedConfig) -> dict[keys.Slot, Any]:
    """Return the layout by `core.layout`, and its parameters as scanpy stores them."""
    from umap.umap_ import find_ab_params

    # 1 is scanpy's default
    a, b = (float(value) for value in find_ab_params(spread=1.0, min_dist=config.min_dist))
    start = principal_start(latent, config.seed)
    layout = lay_out(weights, start, a, b, seed=config.seed, n_threads=config.n_threads)
    parameters = {"params": {"a": a, "b": b, "random_state": config.seed}}
    return {keys.UMAP: layout, keys.UMAP_PARAMETERS: parameters}


def _layout_of_umap(graph: AnnData, config: EmbedConfig) -> dict[keys.Slot, Any]:
    """Return the layout by umap-learn, and its parameters."""
    # UMAP sets weak edges to 0 in the very arrays it is given
    keys.CONNECTIVITIES.set(graph, keys.CONNECTIVITIES.get(graph).copy())
    with warnings.catch_warnings():
        # UMAP lays out the components of a graph one by one, and scikit-learn places them
        warnings.filterwarnings(
            "ignore", message="Graph is not fully connected", category=UserWarning
        )
        sc.tl.umap(
            graph,
            min_dist=config.min_dist,
            random_state=config.seed,
            init_pos="spectral" if graph.n_obs >= SPECTRAL_FROM else "random",
        )
    layout = np.asarray(keys.UMAP.get(graph), dtype=np.float32)
    return {keys.UMAP: layout, keys.UMAP_PARAMETERS: keys.UMAP_PARAMETERS.get(graph)}


def _graph_slots(adata: AnnData, graph: AnnData) -> tuple[dict[keys.Slot, Any], str]:
    """Return the slots of UMAP's graph, and its name in ``uns``; another graph in `adata` is
    kept.
    """
    distances, weights = keys.DISTANCES.get(graph), keys.CONNECTIVITIES.get(graph)
    slots = _GRAPH
    if keys.NEIGHBORS.found_in(adata) and keys.NEIGHBORS.get(adata).get("stage") != "embed":
        if keys.CONNECTIVITIES.found_in(adata) and _equal(keys.CONNECTIVITIES.get(adata), weights):
            return {}, keys.NEIGHBORS.name
        log.info(
            "%s holds another graph and is kept; UMAP's goes to %s",
            keys.NEIGHBORS,
            keys.EMBED_NEIGHBORS,
        )
        slots = _EMBED_GRAPH
    names = {
        "distances_key": slots[1].name,
        "connectivities_key": slots[2].name,
        "stage": "embed",
    }
    description = keys.NEIGHBORS.get(graph) | names
    return dict(zip(slots, (description, distances, weights), strict=True)), slots[0].name


def _equal(first: Any, second: Any) -> bool:
    """Whether two sparse matrices hold the same values."""
    same_size = first.shape == second.shape and first.nnz == second.nnz
    return bool(same_size and (first != second).nnz == 0)


def _tsne(latent: np.ndarray, config: EmbedConfig) -> Result:
    perplexity = min(config.perplexity, max(1.0, (len(latent) - 1) / 3))
    if perplexity < config.perplexity:
        warn(
            f"`perplexity` {config.perplexity:g} is too large for {len(latent)} cells: "
            f"{perplexity:.3g} is used"
        )
    # principal components are the better start, but need two dimensions that differ
    n_varying = (latent != latent[0]).any(axis=0).sum()
    tsne = TSNE(
        perplexity=perplexity,
        init="pca" if n_varying >= 2 else "random",
        random_state=config.seed,
        n_jobs=config.n_threads or -1,
    )
    coordinates = np.asarray(tsne.fit_transform(latent), dtype=np.float32)
    return Result({keys.TSNE: coordinates}, facts={"perplexity": perplexity})
