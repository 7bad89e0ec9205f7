"""``markers --contrast``: conditions compared within clusters, and what cannot be compared."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.special import expit
from scipy.stats import false_discovery_control, kstest

import scale_toolkit as scale
from scale_toolkit import keys
from scale_toolkit.core import differential
from scale_toolkit.errors import (
    InputError,
    MissingSlotError,
    NothingLeftError,
    OptionError,
    ScaleWarning,
)
from scale_toolkit.stages.receipts import receipts

N_PEAKS = 800
#: Peaks that are more open in "sick" in cluster "b": the first 40; and less: the next 40.
UP, DOWN = slice(0, 40), slice(40, 80)


def make(n_samples=6, n_each=80, effect=1.5, sd=0.25, seed=0) -> anndata.AnnData:
    """Cells of two clusters in samples of two conditions; the difference is in cluster b alone."""
    rng = np.random.default_rng(seed)
    sample = np.repeat(np.arange(n_samples), 2 * n_each)
    is_b = np.tile(np.repeat([False, True], n_each), n_samples)
    is_sick = sample < n_samples // 2
    logits = np.log(rng.uniform(0.05, 0.3, N_PEAKS)) + rng.normal(0, 0.3, (len(sample), 1))
    logits = logits + rng.normal(0, sd, (n_samples, N_PEAKS))[sample]
    logits[is_b] += rng.normal(0, 1, N_PEAKS)
    logits[np.ix_(is_b & is_sick, np.arange(N_PEAKS)[UP])] += effect
    logits[np.ix_(is_b & is_sick, np.arange(N_PEAKS)[DOWN])] -= effect
    is_open = rng.random(logits.shape) < expit(logits)
    obs = pd.DataFrame(
        {
            "cluster": pd.Categorical(np.where(is_b, "b", "a")),
            "condition": pd.Categorical(np.where(is_sick, "sick", "well")),
            "sample": pd.Categorical([f"s{k}" for k in sample]),
        },
        index=[f"cell{i}" for i in range(len(sample))],
    )
    names = [f"chr{1 + j % 3}:{1000 * j}-{1000 * j + 500}" for j in range(N_PEAKS)]
    return anndata.AnnData(sparse.csr_matrix(is_open.astype(np.float32)), obs=obs, var=pd.DataFrame(index=names))


@pytest.fixture
def cells():
    return make()


def compare(cells, **options):
    given = {"cluster_by": "cluster", "contrast": ("condition", "sick", "well"), "sample_key": "sample", "n_threads": 1}
    return scale.markers(cells, **given | options)


def test_planted_differences_come_back_in_their_cluster(cells):
    table = keys.CONTRAST.get(compare(cells))
    assert list(table.columns) == [
        "cluster", "peak", "higher_in", "unit", "score", "p_value", "fdr", "odds_ratio", "log2_fold_change",
        "share_first", "share_second",
    ]  # fmt: skip
    in_b = table[table["cluster"] == "b"]
    up, down = set(cells.var_names[UP]), set(cells.var_names[DOWN])
    sick = set(in_b.loc[in_b["higher_in"] == "sick", "peak"])
    well = set(in_b.loc[in_b["higher_in"] == "well", "peak"])
    assert len(sick & up) >= 34 and len(well & down) >= 20
    assert len((sick - up) | (well - down)) <= 6
    assert len(table) - len(in_b) <= 2
    assert (table["unit"] == "samples").all()
    assert ((table["score"] > 0) == (table["higher_in"] == "sick")).all()
    assert ((table["odds_ratio"] > 1) == (table["higher_in"] == "sick")).all()
    clusters = keys.CONTRAST_CLUSTERS.get(cells).set_index("cluster")
    assert clusters.loc["b", ["first", "second", "unit"]].tolist() == ["sick", "well", "samples"]
    assert clusters.loc["b", ["cells_first", "cells_second", "samples_first", "samples_second"]].tolist() == [240, 240, 3, 3]
    assert clusters.loc["b", "higher_in_first"] == len(sick)
    assert 0.1 < clusters.loc["a", "sample_sd"] < 0.4
    notes = receipts(cells)[-1]["notes"]
    assert notes["clusters_by_unit"] == {"samples": 2}
    assert notes["clusters"]["b"] == {"unit": "samples", "cells": [240, 240], "samples": [3, 3], "tested": int(np.isfinite(keys.CONTRAST_FDR.get(cells)[:, 1]).sum())}


def test_figures_are_those_of_the_matrix(cells):
    compare(cells, min_cells=1, max_fdr=1, min_odds_ratio=1, min_share=0)
    table = keys.CONTRAST.get(cells)
    rows = table[table["cluster"] == "b"].set_index("peak")
    dense, is_b = cells.X.toarray() > 0, (cells.obs["cluster"] == "b").to_numpy()
    is_sick = (cells.obs["condition"] == "sick").to_numpy()
    peaks = cells.var_names.get_indexer(rows.index)
    np.testing.assert_allclose(rows["share_first"], dense[is_b & is_sick].mean(axis=0)[peaks])
    np.testing.assert_allclose(rows["share_second"], dense[is_b & ~is_sick].mean(axis=0)[peaks])
    np.testing.assert_allclose(keys.CONTRAST_LOG_ODDS.get(cells)[peaks, 1], np.log2(rows["odds_ratio"]), rtol=1e-5)
    np.testing.assert_allclose(keys.CONTRAST_FDR.get(cells)[peaks, 1], rows["fdr"])
    np.testing.assert_allclose(keys.CONTRAST_SCORE.get(cells)[peaks, 1], rows["score"], rtol=1e-5)
    # Benjamini and Hochberg over the peaks of the cluster
    assert len(rows) == N_PEAKS
    np.testing.assert_allclose(rows["fdr"], false_discovery_control(rows["p_value"]))


def test_permuted_conditions_give_uniform_p_values(cells):
    """All ways to split six samples in two threes but the true one, within the cluster without a difference."""
    rng, p = np.random.default_rng(7), []
    for number in range(3):
        cells = make(effect=0, seed=20 + number)
        first = rng.choice(6, 3, replace=False)
        cells.obs["condition"] = np.where(np.isin(cells.obs["sample"], [f"s{k}" for k in first]), "sick", "well")
        compare(cells, max_fdr=1, min_odds_ratio=1, min_share=0)
        p.append(keys.CONTRAST.get(cells)["p_value"].to_numpy())
    values = np.concatenate(p)
    assert len(values) > 2000
    assert kstest(values, "uniform").pvalue > 0.01


def test_a_tuple_and_a_string_are_the_same(cells):
    by_tuple = compare(cells.copy())
    by_string = compare(cells, contrast="condition:sick:well")
    pd.testing.assert_frame_equal(keys.CONTRAST.get(by_tuple), keys.CONTRAST.get(by_string))
    assert receipts(by_string)[-1]["options"]["contrast"] == ["condition", "sick", "well"]
    reversed_ = keys.CONTRAST_SCORE.get(compare(by_tuple, contrast="condition:well:sick"))
    np.testing.assert_allclose(reversed_, -keys.CONTRAST_SCORE.get(by_string), rtol=1e-4, atol=1e-6)


def test_without_samples_cells_are_compared_and_it_is_said(cells):
    with pytest.warns(ScaleWarning, match="`sample_key` is left out: cells count as independent"):
        compare(cells, sample_key=None, min_cells=1)
    table = keys.CONTRAST.get(cells)
    assert (table["unit"] == "cells").all()
    assert receipts(cells)[-1]["notes"]["clusters_by_unit"] == {"cells": 2}
    # the test is that of clusters, the first condition against the second
    is_b = (cells.obs["cluster"] == "b").to_numpy()
    is_open = sparse.csr_matrix(cells.X[is_b] > 0)
    groups = (cells.obs["condition"][is_b] == "sick").to_numpy().astype(np.int64)
    bins = differential.depth_bins(np.diff(is_open.indptr))
    expected = differential.compare(differential.count(is_open, groups, 2, bins), groups, bins, n_threads=1)
    np.testing.assert_allclose(keys.CONTRAST_SCORE.get(cells)[:, 1], expected.score[:, 1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(keys.CONTRAST_FDR.get(cells)[:, 1], false_discovery_control(expected.p_value[:, 1]))


def test_one_sample_on_a_side_compares_cells_and_it_is_said(cells):
    cells.obs["sample"] = np.where(cells.obs["condition"] == "sick", "s0", cells.obs["sample"].astype(str))
    with pytest.warns(ScaleWarning, match=r"2 of 2 clusters have fewer than two samples of 10 cells on a side.*a, b;"):
        compare(cells)
    clusters = keys.CONTRAST_CLUSTERS.get(cells)
    assert clusters["unit"].tolist() == ["cells", "cells"]
    assert clusters["samples_first"].tolist() == [1, 1]


def test_a_cluster_with_few_cells_of_a_sample_leaves_it_out(cells):
    is_few = ((cells.obs["cluster"] == "a") & (cells.obs["sample"] == "s0")).to_numpy()
    keep = ~is_few
    keep[np.flatnonzero(is_few)[:9]] = True
    cells = cells[keep].copy()
    compare(cells)
    clusters = keys.CONTRAST_CLUSTERS.get(cells).set_index("cluster")
    assert clusters.loc["a", ["samples_first", "cells_first", "unit"]].tolist() == [2, 160, "samples"]
    assert clusters.loc["b", "samples_first"] == 3


def test_a_cluster_of_one_condition_is_not_tested(cells):
    cells.obs["cluster"] = np.where(cells.obs["condition"] == "sick", cells.obs["cluster"].astype(str), "b")
    with pytest.warns(ScaleWarning, match="1 of 2 clusters have no cells of 'sick' and 'well' both and are not tested: a"):
        compare(cells)
    assert np.isnan(keys.CONTRAST_SCORE.get(cells)[:, 0]).all()
    assert keys.CONTRAST_CLUSTERS.get(cells)["unit"].tolist() == ["nothing", "samples"]


def test_cells_without_a_label_are_left_out(cells):
    expected = keys.CONTRAST.get(compare(cells[cells.obs["sample"] != "s1"].copy()))
    more = cells.copy()
    more.obs.loc[more.obs["sample"] == "s1", "sample"] = np.nan
    with pytest.warns(ScaleWarning, match=r"160 of 960 cells of 'sick' and 'well' have no sample in obs\['sample'\]"):
        compare(more)
    pd.testing.assert_frame_equal(keys.CONTRAST.get(more), expected)
    cells.obs.loc[cells.obs["sample"] == "s1", "condition"] = np.nan
    pd.testing.assert_frame_equal(keys.CONTRAST.get(compare(cells)), expected)


@pytest.mark.parametrize(
    ("batches", "column", "warns"),
    [
        (lambda obs: np.where(obs["condition"] == "sick", "run1", "run2"), "batch", True),
        (lambda obs: np.where(obs["sample"].isin(["s0", "s3"]), "run1", "run2"), "batch", False),
        (lambda obs: obs["sample"].to_numpy(), "batch", False),  # replicates
        (lambda obs: np.where(obs["condition"] == "sick", "run1", "run2"), "run", True),
    ],
)
def test_a_condition_confounded_with_the_batch_is_said(cells, batches, column, warns):
    import json
    import warnings

    cells.obs[column] = batches(cells.obs)
    if column != "batch":
        cells.uns["scale"] = json.dumps([{"stage": "train", "options": {"batch_key": column}}])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compare(cells)
    words = f"'sick' and 'well' share no batch of obs['{column}'] (run1 against run2)"
    assert any(words in str(warning.message) for warning in caught) == warns


def test_genes_are_named(cells):
    genes = pd.DataFrame(
        {"chrom": ["chr1", "chr2", "chr3"], "tss": [0, 0, 0], "strand": "+", "gene_id": ["G1", "G2", "G3"],
         "gene_name": ["A", "B", "C"]}
    )  # fmt: skip
    table = keys.CONTRAST.get(compare(cells, genes=genes))
    chroms = table["peak"].str.split(":").str[0].map({"chr1": "A", "chr2": "B", "chr3": "C"})
    assert table["nearest_gene"].tolist() == chroms.tolist()
    assert "tss_distance" in table and keys.NEAREST_GENE.found_in(cells)


def test_markers_of_clusters_stay_and_are_drawn(cells):
    from scale_toolkit.plot.marker_peaks import marker_table

    scale.markers(cells, cluster_by="cluster", n_threads=1)
    before = keys.MARKERS.get(cells).copy()
    compare(cells)
    pd.testing.assert_frame_equal(keys.MARKERS.get(cells), before)
    assert marker_table(cells, cells.obs["cluster"], "cluster") is not None
    assert set(scale.get.contrast(cells, "b")["cluster"]) == {"b"}


def test_the_result_can_be_written_and_replayed(cells, tmp_path):
    from scale_toolkit.stages.verify import verify

    scale.markers(cells, cluster_by="cluster", n_threads=1)
    compare(cells).write_h5ad(tmp_path / "cells.h5ad")
    again = anndata.read_h5ad(tmp_path / "cells.h5ad")
    verdict = verify(again)
    assert verdict.replayed == ["markers", "markers"]
    assert {str(slot): verdict.slots[str(slot)][0] for slot in (keys.MARKERS, keys.CONTRAST, keys.CONTRAST_FDR)} == {
        "uns['scale_markers']": "identical",
        "uns['scale_contrast']": "identical",
        "varm['scale_contrast_fdr']": "identical",
    }
    pd.testing.assert_frame_equal(keys.CONTRAST.get(again), keys.CONTRAST.get(cells))
    pd.testing.assert_frame_equal(keys.CONTRAST_CLUSTERS.get(again), keys.CONTRAST_CLUSTERS.get(cells))


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        (None, {"contrast": "condition:sick"}, OptionError, r"contrast is 'condition:sick'; expected COLUMN:A:B"),
        (None, {"contrast": "condition:sick:sick"}, OptionError, r"contrast compares 'sick' with itself"),
        (None, {"contrast": ()}, OptionError, r"sample_key is sample and contrast is left out; expected both"),
        (None, {"method": "wilcoxon"}, OptionError, r"contrast is given and method is wilcoxon; expected logistic"),
        (None, {"contrast": "state:sick:well"}, MissingSlotError, r"obs has no column 'state'.*`contrast`"),
        (None, {"sample_key": "donor"}, MissingSlotError, r"obs has no column 'donor'.*`sample_key`"),
        (None, {"contrast": "condition:ill:well"}, InputError, r"no cell has 'ill' in obs\['condition'\].*two of sick, well"),
        (None, {"motifs": {"m": np.eye(4)}, "sequences": ["A"]}, OptionError, "contrast and motifs are given"),
        (
            lambda c: c.obs.__setitem__("sample", "s0"),
            {},
            InputError,
            r"1 of 1 samples of obs\['sample'\] have cells of 'sick' and of 'well' \(s0\); expected samples of one condition",
        ),
        (
            lambda c: c.obs.__setitem__("sample", pd.Categorical([None] * c.n_obs, ["s0"])),
            {},
            InputError,
            r"obs\['sample'\] is empty for all 960 cells of 'sick' and 'well'",
        ),
        (
            None,
            {"cluster_by": "condition"},
            InputError,
            r"no cluster of obs\['condition'\] has cells of 'sick' and 'well'",
        ),
        (None, {"min_cells": 5000}, NothingLeftError, r"in no cluster is a peak open in 5000 cells"),
    ],
)
def test_what_cannot_be_compared(cells, change, options, error, message):
    if change is not None:
        change(cells)
    with pytest.raises(error, match=message):
        compare(cells, **options)
    assert not keys.CONTRAST.found_in(cells)


def test_what_is_wrong_is_said_before_the_clusters_are_there(cells):
    """`check` alone, as `scale run` calls it."""
    from scale_toolkit.config import MarkersConfig
    from scale_toolkit.stages.markers import check

    with pytest.raises(InputError, match="no cell has 'ill'"):
        check(cells, MarkersConfig(contrast="condition:ill:well"))
    check(cells, MarkersConfig(contrast="condition:sick:well", sample_key="sample"))


def test_a_value_with_a_colon_or_a_comma(cells):
    cells.obs["condition"] = cells.obs["condition"].cat.rename_categories({"sick": "CD4: memory, old"})
    compare(cells, contrast=("condition", "CD4: memory, old", "well"))
    assert keys.CONTRAST.get(cells)["higher_in"].cat.categories.tolist() == ["CD4: memory, old", "well"]


def test_figures_are_drawn(cells, tmp_path):
    compare(cells)
    bars = scale.pl.contrast(cells, save=tmp_path / "bars.svg")
    assert len(bars.patches) == 4
    clusters = keys.CONTRAST_CLUSTERS.get(cells)
    assert [bar.get_width() for bar in bars.patches[:2]] == clusters["higher_in_first"].tolist()
    assert [-bar.get_width() for bar in bars.patches[2:]] == clusters["higher_in_second"].tolist()
    clusters_without = clusters.assign(higher_in_first=0, higher_in_second=0)
    keys.CONTRAST_CLUSTERS.set(cells, clusters_without)
    empty = scale.pl.contrast(cells)
    assert [text.get_text() for text in empty.texts] == ["no peak differs"]
    assert len(set(empty.get_xticks())) == len({round(abs(tick)) for tick in empty.get_xticks()}) * 2 - 1
    keys.CONTRAST_CLUSTERS.set(cells, clusters)
    volcano = scale.pl.contrast(cells, "b")
    grey, first, second = (len(points.get_offsets()) for points in volcano.collections)
    assert (first, second) == tuple(clusters.loc["1", ["higher_in_first", "higher_in_second"]])
    assert grey + first + second == clusters.loc["1", "n_tested"]
    with pytest.raises(InputError, match="cluster 'c' was not compared; expected one of a, b"):
        scale.pl.contrast(cells, "c")
    with pytest.raises(MissingSlotError, match="scale markers --contrast"):
        scale.pl.contrast(make(n_each=5))


def test_the_report_has_a_section(cells):
    from scale_toolkit import report

    with pytest.warns(ScaleWarning, match="cells count as independent"):
        compare(cells, sample_key=None)
    page = report.page(cells)
    assert "Differences between sick and well" in page
    assert "In 2 of 2 clusters cells of sick and well were compared as if they were independent" in page
