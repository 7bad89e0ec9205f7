"""Every AnnData slot that the stages read or write: the protocol of the pipe."""

from __future__ import annotations

from scale_toolkit.contrast_slots import CONTRAST as CONTRAST
from scale_toolkit.contrast_slots import CONTRAST_CLUSTERS as CONTRAST_CLUSTERS
from scale_toolkit.contrast_slots import CONTRAST_FDR as CONTRAST_FDR
from scale_toolkit.contrast_slots import CONTRAST_LOG_ODDS as CONTRAST_LOG_ODDS
from scale_toolkit.contrast_slots import CONTRAST_SCORE as CONTRAST_SCORE
from scale_toolkit.doublet_slots import DOUBLET_SCORE as DOUBLET_SCORE
from scale_toolkit.doublet_slots import DOUBLET_SITES as DOUBLET_SITES
from scale_toolkit.doublet_slots import DOUBLET_SITES_PADJ as DOUBLET_SITES_PADJ
from scale_toolkit.doublet_slots import DOUBLETS as DOUBLETS
from scale_toolkit.doublet_slots import PREDICTED_DOUBLET as PREDICTED_DOUBLET
from scale_toolkit.gene_slots import GENE_COUNTS as GENE_COUNTS
from scale_toolkit.gene_slots import GENE_PEAKS as GENE_PEAKS
from scale_toolkit.map_slots import MAPPING as MAPPING
from scale_toolkit.map_slots import NOT_IN_REFERENCE as NOT_IN_REFERENCE
from scale_toolkit.map_slots import NOVELTY as NOVELTY
from scale_toolkit.map_slots import NOVELTY_P as NOVELTY_P
from scale_toolkit.map_slots import label_slots as label_slots
from scale_toolkit.slot import Slot as Slot
from scale_toolkit.slot import column as column
from scale_toolkit.truth_slots import CELL_TYPE as CELL_TYPE
from scale_toolkit.truth_slots import DOUBLET_WITH as DOUBLET_WITH
from scale_toolkit.truth_slots import IS_DOUBLET as IS_DOUBLET
from scale_toolkit.truth_slots import PATH_FROM as PATH_FROM
from scale_toolkit.truth_slots import PATH_POSITION as PATH_POSITION
from scale_toolkit.truth_slots import PATH_TO as PATH_TO
from scale_toolkit.truth_slots import PROGRAM as PROGRAM
from scale_toolkit.truth_slots import TRUE_DEPTH as TRUE_DEPTH


def parse(path: str) -> Slot:
    """Return the slot at a path such as ``obsm/X_scale`` or ``X``, as receipts list them."""
    attribute, separator, name = path.partition("/")
    if not separator:
        attribute, name = "", path
    known = {slot.path: slot for slot in (*all_slots(), X, OBS_NAMES, VAR_NAMES)}
    return known.get(path) or column(attribute, name)


# what every stage is given
X = Slot(
    "", "X", "prepare", "cells × peaks", "CSR float32", "counts as read, never binarised in place"
)
OBS_NAMES = Slot("", "obs_names", "prepare", "cells", "str", "barcodes")
VAR_NAMES = Slot("", "var_names", "prepare", "peaks", "str", "names of the peaks")

# prepare
N_PEAKS = Slot(
    "obs", "n_peaks", "prepare", "cells", "int64", "open peaks of a cell, after filtering"
)
N_COUNTS = Slot(
    "obs",
    "n_counts",
    "prepare",
    "cells",
    "float64",
    "reads or fragments of a cell, after filtering",
)
N_CELLS = Slot(
    "var", "n_cells", "prepare", "peaks", "int64", "cells a peak is open in, after filtering"
)
BATCH = Slot(
    "obs",
    "batch",
    "prepare",
    "cells",
    "category",
    "the input a cell came from, where there were several",
)
QC = Slot(
    "uns",
    "scale_qc",
    "prepare",
    "",
    "dict",
    "how many input cells had each number of open peaks, and the limits set",
)

# select-peaks
PEAK_SCORE = Slot(
    "var", "peak_score", "select-peaks", "peaks", "float64", "the score peaks were ranked by"
)
SELECTED = Slot(
    "var", "selected", "select-peaks", "peaks", "bool", "whether the model sees the peak"
)

# train
LATENT = Slot(
    "obsm", "X_scale", "train", "cells × latent", "float32", "posterior mean of z, not a sample"
)
LATENT_SCALE = Slot(
    "obsm",
    "latent",
    "train",
    "cells × latent",
    "float32",
    "the same array under the name SCALE used",
)
HIDDEN = Slot(
    "obsm",
    "scale_hidden",
    "train",
    "cells × hidden",
    "float32",
    "the decoder's last hidden layer, where it has one",
)
DECODER = Slot(
    "varm",
    "scale_decoder",
    "train",
    "peaks × latent",
    "float32",
    "loadings w_j; 0 where not modelled",
)
BIAS = Slot(
    "var",
    "scale_bias",
    "train",
    "peaks",
    "float32",
    "intercept b_j of a peak's logit; NaN where not modelled",
)
OFFSET = Slot(
    "obs", "scale_offset", "train", "cells", "float32", "depth offset s_i of a cell's logits"
)
MEDIAN_OFFSET = Slot(
    "uns",
    "scale_median_offset",
    "train",
    "",
    "float",
    "depth offset s̄ of a cell of median depth: values at equal depth",
)
CELL_OPEN_RATE = Slot(
    "obs", "scale_open_rate", "train", "cells", "float64", "share of modelled peaks open in a cell"
)
PEAK_OPEN_RATE = Slot(
    "var", "scale_open_rate", "train", "peaks", "float64", "share of cells a peak is open in"
)
POSTERIOR = Slot(
    "obsm", "scale_posterior", "train", "cells × components", "float32", "mixture responsibilities"
)
COMPONENT = Slot(
    "obs", "scale_component", "train", "cells", "category", "the most responsible component"
)
BATCH_OFFSET = Slot(
    "varm",
    "scale_batch_offset",
    "train",
    "peaks × batches",
    "float32",
    "shift of a peak's logit in each batch, of `--batch-key`; NaN where not modelled",
)
BATCHES = Slot("uns", "scale_batches", "train", "", "dict", "batches before and after training")
MIXTURE = Slot(
    "uns",
    "scale_mixture",
    "train",
    "",
    "dict",
    "weights (k), means and variances (k × latent) of the prior",
)
HISTORY = Slot(
    "uns",
    "scale_history",
    "train",
    "",
    "dict",
    "learning curves, one array a quantity, one value an epoch",
)

# impute
IMPUTED = Slot(
    "obsm",
    "imputed",
    "impute",
    "cells × peaks",
    "float32, float16 or uint8",
    "probability that a peak is open",
)
IMPUTED_STEP = Slot(
    "uns",
    "scale_imputed_step",
    "impute",
    "",
    "float",
    "probability that 1 stands for where it is uint8",
)
BINARY = Slot(
    "obsm",
    "binary",
    "impute",
    "cells × peaks",
    "uint8 CSR",
    "imputed, thresholded by the cell's and the peak's rate",
)
BINARY_PACKED = Slot(
    "obsm",
    "binary_packed",
    "impute",
    "cells × peaks / 8",
    "uint8",
    "the same, peak 8 k + l in bit l of byte k",
)
GROUP_MEANS = Slot(
    "varm",
    "imputed_groups",
    "impute",
    "peaks × groups",
    "float32",
    "mean probability that a peak is open in each group",
)
IMPUTED_PEAKS = Slot(
    "uns",
    "scale_imputed_peaks",
    "impute",
    "peaks",
    "str",
    "peak names of the columns (or bits) of these",
)

# impute --validate
VALIDATION = Slot(
    "uns",
    "scale_validation",
    "impute --validate",
    "",
    "str",
    "JSON: how well hidden open peaks are recovered",
)
CELL_RECOVERY = Slot(
    "obs",
    "scale_recovery",
    "impute --validate",
    "cells",
    "float64",
    "AUROC of hidden peaks against matched closed ones",
)
PEAK_RECOVERY = Slot(
    "var",
    "scale_recovery",
    "impute --validate",
    "peaks",
    "float64",
    "AUROC of hidden entries within the peak",
)
FALSE_SIGN_RATE = Slot(
    "var",
    "scale_false_sign_rate",
    "impute --validate",
    "peaks",
    "float64",
    "chance that frequency alone does as well",
)
TRUST = Slot(
    "var",
    "scale_trust",
    "impute --validate",
    "peaks",
    "bool",
    "recovered better than frequency alone predicts",
)
VERDICT = (VALIDATION, CELL_RECOVERY, PEAK_RECOVERY, FALSE_SIGN_RATE, TRUST)

# embed
UMAP = Slot("obsm", "X_umap", "embed", "cells × 2", "float32", "UMAP of the latent space")
TSNE = Slot("obsm", "X_tsne", "embed", "cells × 2", "float32", "tSNE of the latent space")
UMAP_PARAMETERS = Slot("uns", "umap", "embed", "", "dict", "scanpy's record of a, b and the seed")
EMBED_NEIGHBORS = Slot(
    "uns",
    "embed_neighbors",
    "embed",
    "",
    "dict",
    "UMAP's graph, where uns['neighbors'] holds another",
)
EMBED_DISTANCES = Slot(
    "obsp", "embed_neighbors_distances", "embed", "cells × cells", "float64 CSR", "its distances"
)
EMBED_CONNECTIVITIES = Slot(
    "obsp", "embed_neighbors_connectivities", "embed", "cells × cells", "float32 CSR", "its weights"
)

# cluster
CLUSTER = Slot(
    "obs",
    "scale_cluster",
    "cluster",
    "cells",
    "category",
    "the cluster of a cell, by the method chosen last",
)
LEIDEN = Slot("obs", "leiden", "cluster", "cells", "category", "clusters by Leiden")
KMEANS = Slot("obs", "kmeans", "cluster", "cells", "category", "clusters by k-means")
GMM = Slot("obs", "gmm", "cluster", "cells", "category", "clusters by the Gaussian mixture")
CLUSTER_REPORT = Slot(
    "uns",
    "scale_cluster_report",
    "cluster",
    "",
    "dict",
    "agreement of scale_cluster with known labels",
)
CLUSTER_STABILITY = Slot(
    "uns",
    "scale_cluster_stability",
    "cluster --stability",
    "clusters × figures",
    "DataFrame",
    "Jaccard index in subsamples",
)
CHOICE_OF_K = Slot(
    "uns",
    "scale_choose_k",
    "choose-k",
    "",
    "dict",
    "readings for each number of clusters, and the recommended one",
)
NEIGHBORS = Slot(
    "uns", "neighbors", "cluster", "", "dict", "scanpy's description of the neighbour graph"
)
DISTANCES = Slot(
    "obsp",
    "distances",
    "cluster",
    "cells × cells",
    "float64 CSR",
    "distance of each cell to its neighbours",
)
CONNECTIVITIES = Slot(
    "obsp",
    "connectivities",
    "cluster",
    "cells × cells",
    "float32 CSR",
    "weights of the neighbour graph",
)

# markers
MARKERS = Slot(
    "uns",
    "scale_markers",
    "markers",
    "markers × figures",
    "DataFrame",
    "marker peaks, cluster by cluster, best first",
)
MARKER_SCORE = Slot(
    "varm",
    "scale_marker_score",
    "markers",
    "peaks × clusters",
    "float32",
    "z of each cluster against the rest",
)
MARKER_FDR = Slot(
    "varm",
    "scale_marker_fdr",
    "markers",
    "peaks × clusters",
    "float64",
    "Benjamini-Hochberg p-value",
)
SPECIFICITY = Slot(
    "varm",
    "scale_specificity",
    "markers",
    "peaks × clusters",
    "float32",
    "SCALE's specificity, 0.167 to 1",
)
WEIGHT_PEAKS = Slot(
    "varm",
    "scale_weight_peaks",
    "markers",
    "peaks × latent",
    "int8",
    "1, −1 where the decoder loading is far above, below the mean",
)
NEAREST_GENE = Slot(
    "var",
    "nearest_gene",
    "markers --gtf",
    "peaks",
    "str",
    "gene whose start is nearest; empty where there is none",
)
TSS_DISTANCE = Slot(
    "var",
    "tss_distance",
    "markers --gtf",
    "peaks",
    "float64",
    "bases from that start to the peak, below 0 upstream of the gene",
)
MOTIFS = Slot(
    "uns",
    "scale_motifs",
    "markers --motifs",
    "tests × figures",
    "DataFrame",
    "motif enrichment of each cluster's markers",
)

# annotate
TYPE = Slot("obs", "scale_type", "annotate", "cells", "category", "type of the cell's cluster")
ANNOTATION = Slot(
    "uns", "scale_annotation", "annotate", "clusters × figures", "DataFrame", "types of clusters"
)

# every stage
RECEIPTS = Slot(
    "uns",
    "scale",
    "any stage",
    "",
    "str",
    "JSON list: stage, version, options, seed, threads, input digest",
)
RUNTIME = Slot(
    "uns",
    "scale_runtime",
    "any stage",
    "",
    "str",
    "JSON list: seconds, peak memory, host; differs between equal runs",
)

#: Elements larger than a stage after `train` needs: copied from file to file, never loaded.
LARGE = ("X", "layers", "raw", IMPUTED.path, BINARY.path, BINARY_PACKED.path)


def all_slots() -> list[Slot]:
    """Return every slot of the contract except X and the names, in the order in which stages
    write them.
    """
    return [value for value in globals().values() if isinstance(value, Slot) and value.where]
