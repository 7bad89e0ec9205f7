"""What stands out in an analysis, in words: pure functions from arrays to sentences, each with
what to do about it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

# The limits are rules of thumb, not tests; a sentence gives its figure, so that a reader can judge.
# |r|: a quarter of a latent dimension's variance.
FOLLOWS_DEPTH = 0.5
# Below, no peak of a cluster can be judged.
FEW_CELLS = 10
# Silhouette of batches: at 0 they lie among one another.
APART = 0.1
# mean Jaccard index in subsamples: below, a cluster is not to be relied on (Hennig 2007)
NOT_STABLE = 0.6
# Silhouette of a cluster: its cells lie as near to another.
NOT_APART = 0.0
ONE_BATCH = 0.9
# Fall of the purity of clusters within a batch, as `train` warns about it.
MOST_BLURRED = 0.1
# Twice as deep as the others: union of two cells; half as deep: empty or dying.
DEPTH_RATIO = 2.0
LEFT_OUT = 0.3
UNDECIDED = 0.5
MANY_UNDECIDED = 0.2
OFF_CALIBRATION = 0.25
# Nats a hidden peak: a smaller rise is chance, as `train` has it.
RISE = 1e-3
# Silhouettes compare every two cells: a sample is as good.
MOST_CELLS = 4000


@dataclass(frozen=True)
class Finding:
    """One sentence for the reader.

    Attributes
    ----------
    level
        ``"warning"``: look before you trust the result; ``"note"``: good to know.
    text
        What was found, with its figure.
    do
        What to do about it; may be empty.
    """

    level: str
    text: str
    do: str = ""


def depth_correlations(latent: np.ndarray, n_open: np.ndarray) -> np.ndarray:
    """Pearson's r of each latent dimension with log10 of a cell's open peaks, (latent,); NaN
    where one of both is constant.
    """
    latent, depth = np.asarray(latent, float), np.log10(np.maximum(np.asarray(n_open, float), 1))
    x, y = latent - latent.mean(0), depth - depth.mean()
    scale = np.sqrt((x**2).sum(0) * (y**2).sum())
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(scale > 1e-12, (x * y[:, None]).sum(0) / scale, np.nan)


def of_depth(latent: np.ndarray, n_open: np.ndarray) -> list[Finding]:
    """Latent dimensions (cells × latent) that follow the number of open peaks (cells)."""
    r = depth_correlations(latent, n_open)
    return [
        Finding(
            "warning",
            f"latent dimension {number + 1} follows depth, r = {r[number]:.2f} with log10 of a "
            "cell's open peaks",
            "look at the embedding coloured by depth: groups along it may be depth, not biology",
        )
        for number in np.flatnonzero(np.abs(np.nan_to_num(r)) >= FOLLOWS_DEPTH)
    ]


def of_sizes(clusters: pd.Series) -> list[Finding]:
    """Clusters (a categorical) of fewer than ten cells."""
    sizes = clusters.value_counts()
    small = [f"{name} ({size})" for name, size in sizes.items() if size < FEW_CELLS]
    if not small:
        return []
    clusters_text = ", ".join(small[:8]) + (f" and {len(small) - 8} more" if len(small) > 8 else "")
    noun = "cluster has" if len(small) == 1 else "clusters have"
    do = "too few to judge their peaks; ask for fewer clusters (-k) or a lower --resolution"
    return [
        Finding("warning", f"{len(small)} {noun} fewer than {FEW_CELLS} cells: {clusters_text}", do)
    ]


def of_cluster_depth(clusters: pd.Series, n_open: np.ndarray) -> list[Finding]:
    """Clusters whose cells are at least twice or at most half as deep as all others, by medians."""
    n_open, findings = np.asarray(n_open, float), []
    for name in clusters.cat.categories:
        is_member = (clusters == name).to_numpy()
        if is_member.sum() < FEW_CELLS or (~is_member).sum() < FEW_CELLS:
            continue
        inside, outside = np.median(n_open[is_member]), np.median(n_open[~is_member])
        if outside > 0 and not 1 / DEPTH_RATIO < inside / outside < DEPTH_RATIO:
            deep = inside > outside
            do = "it may hold doublets" if deep else "it may hold empty or damaged cells"
            words = (
                f"cluster {name} is {'deeper' if deep else 'shallower'} than the rest: "
                f"{inside:,.0f} open peaks a cell"
            )
            findings.append(Finding("warning", f"{words} (median), the others {outside:,.0f}", do))
    return findings


def silhouettes(
    latent: np.ndarray, labels: np.ndarray, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Silhouette width of cells (at most 4,000, random ones) by their labels, and which cells those
    are.

    Rousseeuw (1987): (b - a) / max(a, b), with a and b the mean distances to the own and to the
    nearest other group.
    """
    from sklearn.metrics import silhouette_samples

    labels = np.asarray(labels)
    cells = np.arange(len(labels))
    if len(cells) > MOST_CELLS:
        cells = np.sort(np.random.default_rng(seed).choice(cells, MOST_CELLS, replace=False))
    n_groups = len(np.unique(labels[cells]))
    if not 2 <= n_groups < len(cells):
        return np.empty(0), np.empty(0, np.int64)
    return silhouette_samples(np.asarray(latent, float)[cells], labels[cells]), cells


def of_batches(
    latent: np.ndarray, batch: pd.Series, clusters: pd.Series | None = None
) -> list[Finding]:
    """Batches (a categorical) that lie apart in the latent space, and clusters that are of one
    batch alone.
    """
    findings = []
    known = batch.notna().to_numpy()
    width, _ = silhouettes(np.asarray(latent)[known], batch[known].cat.codes.to_numpy())
    if len(width) and width.mean() > APART:
        text = (
            f"cells lie apart by batch: mean silhouette of the batches {width.mean():.2f} (0: "
            "mixed, 1: apart)"
        )
        do = (
            "where the batches hold the same kinds of cells, this is technical: take it out with "
            "`scale train --batch-key`"
        )
        findings.append(Finding("warning", text, do))
    share = batch[known].value_counts(normalize=True)
    alone = []
    for name in clusters.cat.categories if clusters is not None and len(share) > 1 else ():
        cluster_batches = batch[known & (clusters == name).to_numpy()]
        top = cluster_batches.value_counts(normalize=True)
        if (
            len(cluster_batches) >= FEW_CELLS
            and top.iloc[0] >= ONE_BATCH > share[top.index[0]] * 1.2
        ):
            alone.append((name, top.index[0], top.iloc[0]))
    do = "check that it is a kind of cell and not the batch"
    if len(alone) > 3:
        clusters_text = ", ".join(
            f"{name} ({top_share:.0%} {batch_name})" for name, batch_name, top_share in alone[:8]
        )
        findings.append(
            Finding(
                "warning",
                f"{len(alone)} clusters are of one batch almost alone: {clusters_text}",
                do.replace("it is", "each is"),
            )
        )
    else:
        for name, batch_name, top_share in alone:
            findings.append(
                Finding(
                    "warning",
                    f"cluster {name} is {top_share:.0%} batch {batch_name} "
                    f"({share[batch_name]:.0%} of all "
                    "cells)",
                    do,
                )
            )
    return findings


def of_batches_taken_out(report: Mapping[str, Any]) -> list[Finding]:
    """How batches mix before and after they were taken out, and what it cost within them
    (``uns['scale_batches']``).
    """
    if not np.any(report["spread"]):
        text = "the peaks of the batches differ by no more than chance: nothing was taken out"
        return [Finding("note", text)]
    sizes = np.asarray(report["n_cells"])
    mixing = [np.average(report[f"mixing_{when}"], weights=sizes) for when in ("before", "after")]
    findings = [
        Finding(
            "note",
            f"batches were taken out: mixing of neighbours {mixing[0]:.2f}, now {mixing[1]:.2f} "
            f"(1: as at random); the batch is predicted with an AUROC of "
            f"{report['auroc_before']:.2f}, now {report['auroc_after']:.2f} (0.5: chance)",
        )
    ]
    fall = np.asarray(report["purity_before"]) - np.asarray(report["purity_after"])
    for number in np.flatnonzero(fall > MOST_BLURRED):
        before_and_after = (report[f"purity_{when}"][number] for when in ("before", "after"))
        findings.append(
            Finding(
                "warning",
                f"clusters within batch {report['names'][number]} were blurred: neighbours of the "
                "same cluster {:.0%}, now {:.0%}".format(*before_and_after),
                "compare with a training without `--batch-key`: the batches may hold other types",
            )
        )
    return findings


def of_separation(width: np.ndarray, groups: np.ndarray) -> list[Finding]:
    """Clusters whose cells lie, on average, as near to another cluster (`width` and `groups` a
    cell).
    """
    names = [name for name in dict.fromkeys(groups) if np.mean(width[groups == name]) < NOT_APART]
    if not names:
        return []
    clusters_text = ", ".join(
        f"{name} ({np.mean(width[groups == name]):.2f})" for name in sorted(names, key=str)[:8]
    )
    text = (
        f"{len(names)} of {len(set(groups))} clusters are not set apart from the next (mean "
        f"silhouette below 0): {clusters_text}"
    )
    return [Finding("note", text, "their border is a choice; fewer clusters may hold as well")]


def of_stability(mean: pd.Series) -> list[Finding]:
    """Clusters that do not come back when a fifth of the cells is left out (`mean`: Jaccard
    index by cluster).
    """
    loose = mean[mean < NOT_STABLE].sort_values()
    if loose.empty:
        return []
    clusters_text = ", ".join(f"{name} ({value:.2f})" for name, value in loose.iloc[:8].items())
    text = (
        f"{len(loose)} of {len(mean)} clusters do not come back when a fifth of the cells is "
        f"left out: {clusters_text}"
    )
    return [
        Finding(
            "warning",
            text,
            "name none without marker peaks of its own; fewer clusters may hold better",
        )
    ]


def of_posterior(posterior: np.ndarray) -> list[Finding]:
    """Cells (cells × components) that no component claims, and components without cells."""
    best, n_used = posterior.max(1), len(np.unique(posterior.argmax(1)))
    findings = []
    unsure = float((best < UNDECIDED).mean())
    if unsure > MANY_UNDECIDED:
        text = (
            f"the mixture is undecided about {unsure:.0%} of the cells (no component above "
            f"{UNDECIDED:.0%})"
        )
        findings.append(
            Finding(
                "note",
                text,
                "the clusters by Leiden or k-means do not depend on it; --method gmm does",
            )
        )
    if n_used < posterior.shape[1]:
        findings.append(
            Finding(
                "note", f"{n_used} of the mixture's {posterior.shape[1]} components hold a cell"
            )
        )
    return findings


def of_training(
    history: Mapping[str, Any], notes: Mapping[str, Any], options: Mapping[str, Any]
) -> list[Finding]:
    """How the training ended: curves, notes of its receipt, and its options with the preset's
    values filled in.
    """
    findings = []
    if notes.get("stopped"):
        findings.append(
            Finding(
                "warning",
                f"training was cut short: {notes['stopped']}",
                "a lower --lr may go further",
            )
        )
    held_out = np.asarray(history.get("held_out", ()), float)
    epochs, best, patience = (
        notes.get("epochs"),
        notes.get("best_epoch"),
        options.get("patience") or 0,
    )
    if len(held_out) < 2 or not patience or epochs is None:
        return findings
    if held_out.argmax() == 0:
        text = "the likelihood of peaks hidden from training never rose above its start"
        findings.append(
            Finding(
                "warning",
                text,
                "check the input: counts, enough open peaks a cell, peaks that vary",
            )
        )
    elif len(held_out) <= patience or held_out[-1] > held_out[:-patience].max() + RISE:
        text = (
            "the likelihood of peaks hidden from training was still rising at the end (epoch "
            f"{epochs})"
        )
        findings.append(Finding("note", text, "a longer training may gain: raise --max-iter"))
    else:
        text = (
            f"training ended after {epochs} epochs, when peaks hidden from it were no longer "
            "found better"
        )
        findings.append(
            Finding("note", text + (f"; epoch {best} was kept" if best is not None else ""))
        )
    return findings


def of_preparation(notes: Mapping[str, Any]) -> list[Finding]:
    """A filter that left much out (notes of the receipt of `prepare`)."""
    findings = []
    for kind in ("cells", "peaks"):
        n_before, n_after = notes.get(f"{kind}_before"), notes.get(kind)
        if n_before and n_after is not None and 1 - n_after / n_before > LEFT_OUT:
            option = "--min-peaks" if kind == "cells" else "--min-cells"
            text = (
                f"{1 - n_after / n_before:.0%} of the {kind} were left out ({n_before - n_after:,} "
                "of "
                f"{n_before:,})"
            )
            findings.append(
                Finding("warning", text, f"look at the knee below; {option} sets the limit")
            )
    return findings


def of_encoding(notes: Mapping[str, Any]) -> list[Finding]:
    """Cells encoded by a model trained elsewhere (notes of the receipt of `train`)."""
    missing = notes.get("peaks_missing") or 0
    if not notes.get("pretrained") or not missing:
        return []
    text = (
        f"{missing:,} of the pretrained model's peaks are not in this file and were taken as closed"
    )
    return [Finding("warning", text, "count these cells over the model's peaks")]


def of_validation(report: Mapping[str, Any]) -> list[Finding]:
    """What `impute --validate` found that a reader of imputed values should know."""
    findings = []
    matched = report["matched"]
    scores = {
        name: matched[name]["auprc"] for name in matched if matched[name]["auprc"] is not None
    }
    better = [
        name for name in scores if name != "model" and scores[name] > scores.get("model", np.inf)
    ]
    if better:
        text = (
            "hidden peaks are found better by "
            + " and ".join(better)
            + (f" than by the model (AUPRC {scores['model']:.3f})")
        )
        findings.append(Finding("warning", text, "imputed values add little here"))
    ratio = np.asarray(report["calibration"]["ratio"], float)
    ratio = ratio[np.isfinite(ratio)]
    if len(ratio) and np.abs(ratio - 1).max() > OFF_CALIBRATION:
        text = (
            f"imputed probabilities differ by up to {np.abs(ratio - 1).max():.0%} (seen over "
            f"predicted {ratio.min():.2f} to"
        )
        findings.append(
            Finding(
                "warning", f"{text} {ratio.max():.2f})", "use them as ranks, not as probabilities"
            )
        )
    if "optimistic" in str(report["way"]):
        findings.append(
            Finding(
                "note",
                "the imputation was validated on peaks the decoder had seen: "
                "its figures are optimistic",
            )
        )
    return findings


def in_order(found: Sequence[Finding]) -> list[Finding]:
    """Warnings first, else as they came."""
    return sorted(found, key=lambda one: one.level != "warning")
